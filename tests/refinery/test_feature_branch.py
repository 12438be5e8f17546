"""Feature branches on real repositories: made, restored, never lost, and landed."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from gastown.agent.feature import target_of
from gastown.agent.git import git
from gastown.agent.protocol import Assignment, Done
from gastown.commands import attempt
from gastown.db import transaction
from gastown.models import Rig as RigRow
from gastown.refinery import merging
from gastown.refinery.jobs import Held, MergeJob, Prepared, Pushed, PushOutcome
from gastown.refinery.merging import push
from gastown.states import ConvoyStatus, DispatchStatus, HoldCode, MergeStatus, Resolution
from gastown.store import merges
from gastown.tasks.merge import _job, merge
from tests import calls
from tests.builders import a_bead, a_node, a_rig, the_api_is_there
from tests.conftest import Clock
from tests.races import committed
from tests.refinery.rig import Rig, commit, head
from tests.store import convoying as they
from tests.store.merging import claim
from tests.ticks import tick

FEATURE = "gastown/ship-it-cv-1"


def job_of(rig: Rig, bead: str, files: dict[str, str], made_at: str | None = None) -> MergeJob:
    return replace(rig.work(bead, files), target=FEATURE, made_from="main", made_at=made_at)


def merged(rig: Rig, job: MergeJob) -> str:
    """The head of the branch after that."""
    prepared = rig.prepare(job)
    assert isinstance(prepared, Prepared)
    assert push(job, prepared) == Pushed()
    assert head(rig.remote, FEATURE) == prepared.merge_sha
    return prepared.merge_sha


def point(rig: Rig, branch: str, sha: str) -> None:
    """Somebody else's push."""
    git("update-ref", f"refs/heads/{branch}", sha, cwd=rig.remote)


def test_the_first_merge_makes_the_branch_where_it_lands(rig: Rig) -> None:
    base = head(rig.remote, "main")
    tip = merged(rig, job_of(rig, "gt-1", {"one": "1\n"}))
    assert head(rig.remote, f"{tip}^1") == base
    assert head(rig.remote, "main") == base


def test_a_branch_that_was_made_and_not_merged_into_is_no_obstacle(rig: Rig) -> None:
    job = job_of(rig, "gt-1", {"one": "1\n"})
    assert isinstance(rig.prepare(job, ["false"]), Held)  # made by now, and its worker may be gone
    merged(rig, replace(job, merge_epoch=2))


@pytest.mark.parametrize("lost", ["deleted", "moved back"])
def test_a_branch_is_restored_from_the_recorded_head(rig: Rig, lost: str) -> None:
    base = head(rig.remote, "main")
    first = merged(rig, job_of(rig, "gt-1", {"one": "1\n"}))
    if lost == "deleted":
        git("update-ref", "-d", f"refs/heads/{FEATURE}", cwd=rig.remote)
    else:
        point(rig, FEATURE, base)
    tip = merged(rig, job_of(rig, "gt-2", {"two": "2\n"}, made_at=first))
    assert head(rig.remote, f"{tip}^1") == first


def test_what_somebody_pushed_on_top_stays(rig: Rig) -> None:
    first = merged(rig, job_of(rig, "gt-1", {"one": "1\n"}))
    theirs = rig.work("theirs", {"three": "3\n"}, target=FEATURE).head_sha
    point(rig, FEATURE, theirs)
    tip = merged(rig, job_of(rig, "gt-2", {"two": "2\n"}, made_at=first))
    assert head(rig.remote, f"{tip}^1") == theirs


def test_a_branch_that_was_rewritten_holds_the_merge(rig: Rig) -> None:
    first = merged(rig, job_of(rig, "gt-1", {"one": "1\n"}))
    theirs = rig.work("theirs", {"three": "3\n"}).head_sha
    point(rig, FEATURE, theirs)
    held = rig.prepare(job_of(rig, "gt-2", {"two": "2\n"}, made_at=first))
    assert isinstance(held, Held)
    assert held.code == HoldCode.HEAD_MISSING
    assert f"rewrote {FEATURE}" in held.reason
    assert head(rig.remote, FEATURE) == theirs


def test_a_remote_that_takes_no_such_branch_holds_the_merge(bare: Rig) -> None:
    hook = bare.remote / "hooks" / "pre-receive"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text("#!/bin/sh\necho 'no branches here' >&2\nexit 1\n")
    hook.chmod(0o755)
    job = replace(bare.work("gt-1", {"one": "1\n"}, push=False), target=FEATURE, made_from="main")
    held = bare.prepare(job)
    assert isinstance(held, Held)
    assert (held.code, held.reason) == (HoldCode.PUSH_REFUSED, "no branches here (pre-receive hook declined)")


@pytest.mark.parametrize("gone", [False, True])
def test_an_attempt_starts_from_what_was_merged(bare: Rig, gone: bool) -> None:
    first = merged(bare, job_of(bare, "gt-1", {"one": "1\n"}))
    if gone:
        git("update-ref", "-d", f"refs/heads/{FEATURE}", cwd=bare.remote)
    bare.mirror.fetch()
    given = _assignment(feature=FEATURE, feature_sha=first)
    assert target_of(bare.mirror, given) == (FEATURE, first)
    assert target_of(bare.mirror, replace(given, feature=None)) == ("main", head(bare.remote, "main"))
    if not gone:
        point(bare, FEATURE, bare.work("theirs", {"three": "3\n"}, target=FEATURE).head_sha)
        bare.mirror.fetch()
        assert target_of(bare.mirror, given) == (FEATURE, head(bare.remote, FEATURE))


def _assignment(**values: Any) -> Assignment:
    texts = dict.fromkeys(("dispatch_id", "bead_id", "title", "body", "agent", "repository", "setup", "preset"), "")
    rest: dict[str, Any] = {"epoch": 1, "rig_id": 1, "branch": "main", "environment": {}, "argv": [], "base": None}
    rest |= {"prompt_on_stdin": False, "previous_epochs": [], "notes": ""}
    return Assignment(**texts | rest | values)


# --- the whole way


@pytest.fixture
def row(bare: Rig, clock: Clock) -> RigRow:
    with transaction() as session:
        the_api_is_there(session)
        a_node(session)
        found = a_rig(session, repository=str(bare.remote), environment={"PATH": os.environ["PATH"]})
        assert found.id == 1
        return found


@pytest.fixture
def deliver(bare: Rig, row: RigRow) -> Callable[..., None]:
    """An agent's attempt on a bead, from where its assignment says, up to its merge request."""

    def work(bead_id: str, files: dict[str, str]) -> None:
        dispatch = calls.make(DispatchStatus.RUNNING, bead=they.bead(bead_id))
        with transaction() as session:
            given = attempt.assignment(session, dispatch.id, bare.home)
        bare.mirror.fetch()
        branch, base = target_of(bare.mirror, given)
        job = bare.work(bead_id, files, target=branch)
        calls.finish(dispatch, Done(outcome="succeeded", base_sha=base, head_sha=job.head_sha, exit_code=0))

    return work


def staged(row: RigRow, count: int = 2) -> tuple[str, list[str]]:
    """A convoy whose members get no attempts but those of the test: its rig is paused."""
    with transaction() as session:
        session.execute(update(RigRow).values(paused_at=row.created_at))
        bead_ids = [a_bead(session, row, title=f"part {number}").id for number in range(count)]
    return they.make(row.town_id, bead_ids), bead_ids


def run(bead_id: str) -> Any:
    request = they.request_of(bead_id)
    merge.run(request.id)
    tick()
    return they.request_of(bead_id)


def test_a_convoy_from_its_first_merge_to_its_landing(bare: Rig, row: RigRow, deliver: Callable[..., None]) -> None:
    convoy_id, (one, two) = staged(row)
    deliver(one, {"one": "1\n"})
    assert run(one).status == MergeStatus.CLOSED
    path = they.branch(convoy_id)
    assert head(bare.remote, path.branch) == path.head_sha
    git("update-ref", "-d", f"refs/heads/{path.branch}", cwd=bare.remote)
    dispatch = calls.make(DispatchStatus.RUNNING, bead=they.bead(two))
    with transaction() as session:
        given = attempt.assignment(session, dispatch.id, bare.home)
    assert (given.branch, given.feature, given.feature_sha) == ("main", path.branch, path.head_sha)
    job = bare.work(two, {"two": "2\n"})
    calls.finish(dispatch, Done(outcome="succeeded", base_sha=head(bare.remote), head_sha=job.head_sha))
    point(bare, "main", bare.work("theirs", {"three": "3\n"}).head_sha)  # the target moves
    assert run(two).status == MergeStatus.CLOSED
    tip = they.branch(convoy_id).head_sha
    assert head(bare.remote, path.branch) == tip
    [landing] = they.landings(convoy_id)
    landed = run(landing.id)
    assert (landed.head_sha, landed.merged_sha) == (tip, head(bare.remote, "main"))
    assert they.convoy(convoy_id).status == ConvoyStatus.CLOSED
    assert bare.on_target()[0] == f"Merge {landing.id}: Land Ship it on rig"
    trailers = git("log", "-1", "--format=%(trailers)", "main", cwd=bare.remote).split("\n")
    assert [line for line in trailers if line] == [f"Gastown-Bead: {landing.id}", f"Gastown-Convoy: {convoy_id}"]
    files = git("ls-tree", "--name-only", "main", cwd=bare.remote).split()
    assert {"one", "two", "three"} <= set(files)
    assert head(bare.remote, path.branch) == tip  # it stays


def test_a_landing_passes_the_gates_or_is_held(bare: Rig, row: RigRow, deliver: Callable[..., None]) -> None:
    convoy_id, (one,) = staged(row, 1)
    deliver(one, {"one": "1\n"})
    run(one)
    with transaction() as session:
        session.execute(update(RigRow).values(gates=["test ! -e one"], rework_agent=None, agent=None))
    [landing] = they.landings(convoy_id)
    held = run(landing.id)
    assert (held.status, held.held_code) == (MergeStatus.OPEN, HoldCode.GATE_FAILED)
    assert they.convoy(convoy_id).status == ConvoyStatus.LANDING


@pytest.mark.parametrize(("how", "resolution"), [("merged", Resolution.MERGED), ("copied", Resolution.NO_CHANGES)])
def test_somebody_else_brought_it_to_the_target(
    bare: Rig, row: RigRow, deliver: Callable[..., None], tmp_path: Path, how: str, resolution: Resolution
) -> None:
    convoy_id, (one,) = staged(row, 1)
    deliver(one, {"one": "1\n"})
    run(one)
    person = tmp_path / "person"
    git("clone", "--quiet", str(bare.remote), str(person))
    if how == "merged":
        merge_args = ("merge", "--no-ff", "-m", "by hand", f"origin/{they.branch(convoy_id).branch}")
        who = ("-c", "user.name=Ada", "-c", "user.email=ada@example.com")
        git(*who, *merge_args, cwd=person)
    else:
        commit(person, {"one": "1\n"}, "the same")
    git("push", "--quiet", "origin", "main", cwd=person)
    before = head(bare.remote, "main")
    [landing] = they.landings(convoy_id)
    run(landing.id)
    assert they.bead(landing.id).resolution == resolution
    assert (they.convoy(convoy_id).status, head(bare.remote, "main")) == (ConvoyStatus.CLOSED, before)


def test_a_landing_that_the_target_is_not_seen_to_have_is_none(
    bare: Rig, row: RigRow, deliver: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The push was taken, and a person took it back before anybody looked: it is merged anew."""
    convoy_id, (one,) = staged(row, 1)
    deliver(one, {"one": "1\n"})
    run(one)
    [landing] = they.landings(convoy_id)
    before = head(bare.remote, "main")

    def push_in_vain(job: MergeJob, prepared: Prepared) -> PushOutcome:
        pushed = push(job, prepared)
        point(bare, "main", before)
        return pushed

    with monkeypatch.context() as patch:
        patch.setattr(merging, "push", push_in_vain)
        assert run(landing.id).status == MergeStatus.OPEN
    assert (they.convoy(convoy_id).status, they.bead(landing.id).resolution) == (ConvoyStatus.LANDING, None)
    assert run(landing.id).merged_sha == head(bare.remote, "main")
    assert they.convoy(convoy_id).status == ConvoyStatus.CLOSED


def test_a_worker_that_died_after_the_push_leaves_the_tip_to_the_next(
    bare: Rig, row: RigRow, deliver: Callable[..., None], clock: Clock
) -> None:
    convoy_id, (one, _two) = staged(row)
    deliver(one, {"one": "1\n"})
    order = claim(they.request_of(one))
    prepared = bare.prepare(_job(order))
    assert isinstance(prepared, Prepared)
    onto = prepared.expected_sha
    assert committed(lambda session: merges.begin_push(session, order, prepared.merge_sha, onto))
    assert push(_job(order), prepared) == Pushed()
    clock.advance(60)
    assert run(one).merged_sha == prepared.merge_sha
    assert they.branch(convoy_id).head_sha == prepared.merge_sha


def test_a_batch_of_members_leaves_its_last_commit_as_the_head(
    bare: Rig, row: RigRow, deliver: Callable[..., None]
) -> None:
    with transaction() as session:
        session.execute(update(RigRow).values(policy={"merge_batch": 8}))
    convoy_id, bead_ids = staged(row, 3)
    for number, bead_id in enumerate(bead_ids):
        deliver(bead_id, {f"file {number}": "1\n"})
    run(bead_ids[0])
    assert {they.bead(each).resolution for each in bead_ids} == {Resolution.MERGED}
    path = they.branch(convoy_id)
    assert path.head_sha == head(bare.remote, path.branch)
    [landing] = they.landings(convoy_id)
    assert they.request_of(landing.id).head_sha == path.head_sha


def test_members_on_the_rigs_own_branch_leave_no_other(bare: Rig, row: RigRow, deliver: Callable[..., None]) -> None:
    with transaction() as session:
        session.execute(update(RigRow).values(paused_at=row.created_at))
        only = a_bead(session, row).id
    convoy_id = they.one_by_one(row.town_id, [only])
    deliver(only, {"one": "1\n"})
    run(only)
    assert they.convoy(convoy_id).status == ConvoyStatus.CLOSED
    assert git("branch", "--format=%(refname:short)", cwd=bare.remote).split() == ["main"]
