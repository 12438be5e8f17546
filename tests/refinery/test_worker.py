"""The merge task from claim to record, on a real repository: what is done after a push without an answer."""

import os
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import update

from gastown.agent.git import git
from gastown.commands import work
from gastown.db import in_transaction, transaction
from gastown.errors import Refused
from gastown.gates import Gate, stored
from gastown.models import Bead, BeadDependency, MergeRequest
from gastown.models import Rig as RigRow
from gastown.refinery.merging import Prepared, Pushed, prepare, push
from gastown.states import HoldCode, MergeStatus
from gastown.store import merges
from gastown.store.detail import bead_detail
from gastown.store.resync import find_violations
from gastown.tasks import merge as task
from gastown.tasks.merge import merge
from tests.builders import a_bead, a_merge, a_node, a_rig, now, the_api_is_there
from tests.conftest import Clock
from tests.refinery.rig import Rig, head
from tests.store.merging import asked, bead, claim
from tests.ticks import tick
from tests.views import after


@pytest.fixture
def gated(tmp_path: Path) -> Path:
    """A file that gets a line each time the gate runs."""
    return tmp_path / "gated"


@pytest.fixture
def request_(checkout: Rig, gated: Path, clock: Clock) -> MergeRequest:
    """One merge into a person's own checkout, with one gate."""
    with transaction() as session:
        the_api_is_there(session)
        a_node(session)
        gates = [f"echo once >> {gated}"]
        values = {"gates": gates, "environment": {"PATH": os.environ["PATH"]}}
        assert a_rig(session, repository=str(checkout.remote), **values).id == 1
        return a_merge(session, head_sha=checkout.work("gt-1", {"new": "new\n"}).head_sha)


def test_a_push_without_an_answer_is_looked_at_held_and_pushed_again_ungated(
    checkout: Rig, request_: MergeRequest, gated: Path, clock: Clock
) -> None:
    """G6, S36: a stale lock of git's in the checkout."""
    lock = checkout.remote / ".git" / "index.lock"
    lock.write_text("")
    merge.run(request_.id)
    pushing = now(request_)
    assert (pushing.status, pushing.held_code) == (MergeStatus.PUSHING, HoldCode.UNREACHABLE)
    assert "index.lock" in (pushing.held_reason or "")
    with pytest.raises(Refused, match="is being pushed"):
        in_transaction(lambda session: work.cancel(session, request_.town_id, request_.bead_id))
    tick()
    assert "index.lock" in (bead(request_).verdict_reason or "")
    clock.advance(45)
    tick()
    assert asked() == [request_.id]
    merge.run(request_.id)
    held = now(request_)
    assert (held.status, held.held_code, held.staged_sha) == (
        MergeStatus.OPEN,
        HoldCode.UNREACHABLE,
        pushing.merge_sha,
    )
    assert held.look_at == after(90)
    lock.unlink()
    clock.advance(45)
    tick()
    merge.run(request_.id)
    assert (now(request_).status, now(request_).merged_sha) == (MergeStatus.CLOSED, pushing.merge_sha)
    assert head(checkout.remote) == pushing.merge_sha
    assert gated.read_text() == "once\n"


def test_a_push_whose_worker_died_before_it_is_made_by_the_next_one(
    checkout: Rig, request_: MergeRequest, gated: Path, clock: Clock
) -> None:
    job = checkout.work("gt-2", {"other": "1\n"})
    prepared = checkout.prepare(job)
    assert isinstance(prepared, Prepared)
    order = claim(request_)
    onto = head(checkout.remote)
    assert in_transaction(lambda session: merges.begin_push(session, order, prepared.merge_sha, onto))
    clock.advance(45)
    merge.run(request_.id)
    assert now(request_).merged_sha == prepared.merge_sha
    assert not gated.exists()


def test_whoever_lost_the_lease_pushes_nothing_again(checkout: Rig, request_: MergeRequest, clock: Clock) -> None:
    prepared = checkout.prepare(checkout.work("gt-2", {"other": "1\n"}))
    assert isinstance(prepared, Prepared)
    first, onto = claim(request_), head(checkout.remote)
    assert in_transaction(lambda session: merges.begin_push(session, first, prepared.merge_sha, onto))
    clock.advance(45)
    order = claim(request_)
    lease = task.Lease(order)
    lease.lost.set()
    task._settle(order, task._job(order), lease)
    assert head(checkout.remote) == onto
    assert now(request_).status == MergeStatus.PUSHING


def test_a_repository_that_is_away_while_a_push_is_settled_keeps_it_pushing(
    checkout: Rig, request_: MergeRequest, tmp_path: Path, clock: Clock
) -> None:
    """Nobody has looked at the target, so nobody may cancel; and somebody is told."""
    order = claim(request_)
    onto = head(checkout.remote)
    assert in_transaction(lambda session: merges.begin_push(session, order, onto, onto))
    checkout.remote.rename(tmp_path / "away")
    for wait_s in (45, 45, 45, 90):  # from then on twice as long each time
        clock.advance(wait_s)
        merge.run(request_.id)
        assert (now(request_).status, now(request_).held_code) == (MergeStatus.PUSHING, HoldCode.UNREACHABLE)
    assert now(request_).lease_expires_at == clock.now + timedelta(seconds=180)
    (tmp_path / "away").rename(checkout.remote)
    clock.advance(180)
    merge.run(request_.id)
    assert now(request_).status == MergeStatus.CLOSED
    assert git("status", "--porcelain", cwd=checkout.remote) == ""


def test_a_merge_on_top_of_a_canceled_one_is_queued_at_once(
    checkout: Rig, request_: MergeRequest, gated: Path, clock: Clock
) -> None:
    """Its lease of 45 s need not run out: its worker is there and knows."""
    (checkout.remote / "README").write_text("busy\n")
    merge.run(request_.id)
    assert now(request_).held_code == HoldCode.DIRTY_CHECKOUT
    with transaction() as session:
        second = a_merge(session, head_sha=checkout.work("gt-2", {"other": "1\n"}).head_sha)
    order = claim(second)
    assert order.staged_sha == now(request_).staged_sha
    prepared = checkout.prepare(task._job(order))
    assert isinstance(prepared, Prepared)
    in_transaction(lambda session: work.cancel(session, request_.town_id, request_.bead_id))
    task._push(order, task._job(order), prepared, task.Lease(order))
    assert now(second).status == MergeStatus.OPEN
    tick()
    assert asked() == [second.id]
    git("checkout", "--quiet", "README", cwd=checkout.remote)
    merge.run(second.id)
    assert now(second).status == MergeStatus.CLOSED
    assert not (checkout.remote / "new").exists()


def test_a_flaky_gate_is_noted_with_the_merge(checkout: Rig, tmp_path: Path, clock: Clock) -> None:
    tries = tmp_path / "tries"
    flaky = Gate(name="net", command=f"echo x >> {tries}; echo try; test $(wc -l < {tries}) = 2", retries=1)
    with transaction() as session:
        the_api_is_there(session)
        a_node(session)
        values = {"gates": stored([flaky]), "environment": {"PATH": os.environ["PATH"]}}
        a_rig(session, repository=str(checkout.remote), **values)
        request = a_merge(session, head_sha=checkout.work("gt-1", {"new": "new\n"}).head_sha)
    merge.run(request.id)
    merged = now(request)
    assert merged.status == MergeStatus.CLOSED
    [run] = merged.gate_runs or []
    assert (run["name"], run["tries"], run["allowed"]) == ("net", 2, 2)
    assert run["output"].count("\ntry\n") == 2
    with transaction() as session:
        detail = bead_detail(session, request.town_id, request.bead_id)
    assert "gate net passed only at try 2 of 2" in [event.message for event in detail.events]
    assert detail.merge is not None
    assert detail.merge.gate_runs == merged.gate_runs


@pytest.mark.parametrize("method", ["squash", "rebase"])
def test_a_squash_or_rebase_from_claim_to_record(
    checkout: Rig, request_: MergeRequest, clock: Clock, method: str
) -> None:
    """A second bead with the same content has nothing left to merge, and is not said to be merged."""
    with transaction() as session:
        session.execute(update(RigRow).values(merge_method=method, author="Zoë <zoe@example.com>"))
        waiting = a_bead(session)
        same = a_merge(session, head_sha=checkout.work("gt-2", {"new": "new\n"}).head_sha)
        session.add(BeadDependency(bead_id=waiting.id, blocker_id=same.bead_id))
    merge.run(request_.id)
    merged = now(request_)
    assert (merged.status, merged.merged_sha) == (MergeStatus.CLOSED, head(checkout.remote))
    author = "Zoë" if method == "squash" else "Ada"
    assert git("log", "-1", "--format=%an|%cn|%P", cwd=checkout.remote).strip() == (
        f"{author}|Gastown|{head(checkout.remote, 'HEAD~1')}"
    )
    merge.run(same.id)
    nothing = now(same)
    assert (nothing.status, nothing.merged_sha, nothing.held_code) == (MergeStatus.CLOSED, None, None)
    assert (bead(same).status, bead(same).resolution) == ("closed", "no_changes")
    assert head(checkout.remote) == merged.merged_sha
    with transaction() as session:
        detail = bead_detail(session, same.town_id, same.bead_id)
        assert find_violations(session) == []
    [said] = [event.message for event in detail.events if event.kind == "no_changes"]
    assert said == f"main has all of it already at {head(checkout.remote)[:12]}: nothing was left to merge"
    tick()
    with transaction() as session:
        assert session.get_one(Bead, waiting.id).status == "in_progress"


@pytest.mark.parametrize("known", ["by its commit", "by its trailers"])
@pytest.mark.parametrize("method", ["squash", "rebase"])
def test_killed_between_push_and_record(
    checkout: Rig, request_: MergeRequest, clock: Clock, method: str, known: str
) -> None:
    """One commit on the target, and the row names it: from the row, or, once that was queued anew, from the target."""
    with transaction() as session:
        session.execute(update(RigRow).values(merge_method=method))
    order, onto = claim(request_), head(checkout.remote)
    job = task._job(order)
    prepared = prepare(job, checkout.runtime, checkout.steps.append, lambda: False)
    assert isinstance(prepared, Prepared)
    assert in_transaction(lambda session: merges.begin_push(session, order, prepared.merge_sha, onto))
    assert push(job, prepared) == Pushed()
    if known == "by its trailers":
        assert in_transaction(lambda session: merges.requeue(session, order, "as if the target had moved"))
    clock.advance(45)
    merge.run(request_.id)
    assert (now(request_).status, now(request_).merged_sha) == (MergeStatus.CLOSED, prepared.merge_sha)
    assert bead(request_).resolution == "merged"
    assert git("rev-list", "--count", f"{onto}..main", cwd=checkout.remote).strip() == "1"


def test_gates_that_run_in_containers_never_run_as_plain_processes(request_: MergeRequest, gated: Path) -> None:
    """A fleet of both kinds: the merge is given back to be asked of another worker, and says why."""
    with transaction() as session:
        session.execute(update(RigRow).values(container={"image": "acme/agent:1"}))
    merge.run(request_.id)
    held = now(request_)
    assert (held.status, held.held_code, held.look_at) == (MergeStatus.OPEN, HoldCode.UNREACHABLE, after(10))
    assert "starts plain processes; another worker is asked" in (held.held_reason or "")
    assert not gated.exists()
