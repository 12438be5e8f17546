"""Batches on real repositories: stacked, gated once, halved when red; and the merge task that records them."""

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import select, update

from gastown.agent.git import git
from gastown.commands import work
from gastown.db import in_transaction, transaction
from gastown.gates import Gate, MergeMethod, stored
from gastown.models import Event, MergeRequest, Town
from gastown.models import Rig as RigRow
from gastown.refinery import merging
from gastown.refinery.batching import Batch, prepare_batch
from gastown.refinery.jobs import AlreadyMerged, Held, MergeJob, NothingLeft, Prepared, Pushed, Stopped
from gastown.refinery.merging import push
from gastown.states import HoldCode, MergeStatus
from gastown.store.resync import find_violations
from gastown.tasks import merge as task
from gastown.tasks.merge import merge
from tests.builders import a_merge, a_node, a_rig, now, the_api_is_there
from tests.conftest import Clock
from tests.refinery.rig import Rig, commit, head
from tests.store.merging import asked, bead, claim
from tests.ticks import tick

METHODS = list(MergeMethod)
GREEN_UNLESS_BAD = "echo run >> {log}; ls; ! ls | grep -q bad"  # a file with this name is somebody's fault


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """A file that gets a line with each run of the gate."""
    return tmp_path / "runs"


def gate(runs: Path, retries: int = 0) -> Gate:
    return Gate(name="no bad file", command=GREEN_UNLESS_BAD.format(log=runs), retries=retries)


def gated(runs: Path) -> int:
    return len(runs.read_text().splitlines()) if runs.exists() else 0


def works(rig: Rig, runs: Path, names: Sequence[str], method: MergeMethod = MergeMethod.MERGE) -> list[MergeJob]:
    """A job for each file, all on the same target; one whose name starts with `bad` makes the gate red."""
    jobs = [rig.work(f"gt-{number}", {name: f"{name}\n"}) for number, name in enumerate(names)]
    return [replace(job, method=method, gates=(gate(runs),), dispatch_id=f"d-{job.bead_id}") for job in jobs]


def prepare_all(rig: Rig, jobs: list[MergeJob], should_stop: Callable[[], bool] = lambda: False) -> Batch:
    batch = prepare_batch(jobs, rig.runtime, rig.steps.append, should_stop)
    assert rig.leftovers() == []
    return batch


def prepared(batch: Batch) -> Prepared:
    assert isinstance(batch.outcome, Prepared)
    return batch.outcome


def names(outcome: Prepared) -> list[str]:
    return [each.bead_id for each in outcome.along]


# --- the stack


@pytest.mark.parametrize("method", METHODS)
def test_a_green_stack_lands_with_one_gate_run_and_own_commits(bare: Rig, runs: Path, method: MergeMethod) -> None:
    jobs = works(bare, runs, ["a", "b", "c"], method)
    onto = head(bare.remote, "main")
    outcome = prepared(prepare_all(bare, jobs))
    assert gated(runs) == 1
    assert names(outcome) == ["gt-1", "gt-2"]
    assert [each.base_sha for each in outcome.along] == [outcome.merge_sha, outcome.along[0].merge_sha]
    assert push(jobs[0], outcome) == Pushed()
    assert head(bare.remote, "main") == outcome.tip_sha
    line = git("rev-list", "--first-parent", "--reverse", f"{onto}..main", cwd=bare.remote).split()
    assert line == [outcome.merge_sha, *(each.merge_sha for each in outcome.along)]
    form = "--format=%(trailers:key=Gastown-Bead,valueonly,separator=%x20)"
    said = git("log", "--first-parent", "--reverse", form, f"{onto}..main", cwd=bare.remote).split()
    assert said == ["gt-0", "gt-1", "gt-2"]
    for job, sha in zip(jobs, line, strict=True):
        assert merging.prepare(job, bare.runtime, bare.steps.append, lambda: False) == AlreadyMerged(sha)
    assert set(git("ls-tree", "--name-only", "main", cwd=bare.remote).split()) >= {"a", "b", "c"}


@pytest.mark.parametrize("method", METHODS)
def test_who_conflicts_in_the_stack_is_left_out(bare: Rig, runs: Path, method: MergeMethod) -> None:
    """Those above are merged onto those below, as if nobody had tried."""
    jobs = works(bare, runs, ["a", "a", "c"], method)
    jobs[1] = replace(bare.work("gt-x", {"a": "other\n"}), method=method, gates=jobs[0].gates)
    batch = prepare_all(bare, jobs)
    outcome = prepared(batch)
    assert names(outcome) == ["gt-2"]
    assert outcome.along[0].base_sha == outcome.merge_sha
    assert "conflicts with main in a" in batch.left_out["gt-x"]
    assert push(jobs[0], outcome) == Pushed()
    assert git("show", "main:a", cwd=bare.remote) == "a\n"


@pytest.mark.parametrize("method", METHODS)
def test_who_adds_nothing_to_those_below_is_left_out(bare: Rig, runs: Path, method: MergeMethod) -> None:
    jobs = works(bare, runs, ["a", "b"], method)
    same = replace(bare.work("gt-x", {"a": "a\n"}), method=method, gates=jobs[0].gates)
    under = replace(jobs[0], bead_id="gt-y")  # its head is in the stack already
    batch = prepare_all(bare, [jobs[0], same, under, jobs[1]])
    merged = ["gt-1"] if method is not MergeMethod.MERGE else ["gt-x", "gt-1"]  # a merge says where work came from
    assert names(prepared(batch)) == merged
    assert "nothing of it is left" in batch.left_out["gt-y"]


def test_who_is_merged_already_or_has_no_commit_is_left_out(rig: Rig, runs: Path) -> None:
    merged, first, lost, last = works(rig, runs, ["m", "a", "l", "z"])
    outcome = rig.prepare(merged)
    assert isinstance(outcome, Prepared)
    assert push(merged, outcome) == Pushed()
    lost = replace(lost, head_sha="1" * 40, head_ref="refs/gastown/head/none/1")
    batch = prepare_all(rig, [first, merged, lost, last])
    assert names(prepared(batch)) == [last.bead_id]
    assert batch.left_out[merged.bead_id] == f"the target has it already, as {outcome.merge_sha[:12]}"
    assert "neither in this machine's mirror nor on" in batch.left_out[lost.bead_id]


def test_what_the_first_one_is_like_ends_the_batch(rig: Rig, runs: Path) -> None:
    first, second = works(rig, runs, ["a", "b"])
    other = rig.work("gt-x", {"a": "other\n"})
    assert push(other, prepared(Batch(outcome=rig.prepare(other)))) == Pushed()
    held = prepare_all(rig, [first, second]).outcome
    assert isinstance(held, Held)
    assert held.code is HoldCode.CONFLICT
    assert isinstance(prepare_all(rig, [other, second]).outcome, AlreadyMerged)
    same = replace(rig.work("gt-y", {"a": "other\n"}), method=MergeMethod.SQUASH)
    git("branch", "--quiet", "-f", "side", "main", cwd=rig.remote)
    squashed = replace(same, head_sha=_again(rig, same))
    assert isinstance(prepare_all(rig, [squashed, second]).outcome, NothingLeft)
    assert gated(runs) == 0


def _again(rig: Rig, job: MergeJob) -> str:
    """A commit without changes, on top of the target."""
    clone = rig.scratch / job.bead_id
    sha = commit(clone, {}, "nothing new")
    rig.mirror.keep(clone, f"+{sha}:{job.head_ref}")
    return sha


# --- a red stack


@pytest.mark.parametrize(
    ("method", "bad", "lands", "rounds"),
    [
        (MergeMethod.MERGE, {1}, 1, 3),
        (MergeMethod.SQUASH, {2}, 2, 3),
        (MergeMethod.REBASE, {3}, 3, 3),
        (MergeMethod.REBASE, {1, 3}, 1, 3),
        (MergeMethod.MERGE, {2, 3}, 2, 3),
    ],
    ids=["second", "third", "last", "second and last", "third and last"],
)
def test_the_culprit_is_found_and_those_below_it_land(
    bare: Rig, runs: Path, method: MergeMethod, bad: set[int], lands: int, rounds: int
) -> None:
    jobs = works(bare, runs, [f"bad{n}" if n in bad else f"good{n}" for n in range(4)], method)
    batch = prepare_all(bare, jobs)
    outcome = prepared(batch)
    assert ["gt-0", *names(outcome)] == [f"gt-{n}" for n in range(lands)]
    assert batch.culprit == f"gt-{lands}"
    assert batch.red is not None
    assert batch.red.code is HoldCode.GATE_FAILED
    assert f"bad{lands}" in batch.red.output
    assert not any(f"bad{n}" in batch.red.output for n in bad - {lands})
    assert batch.red.reason.startswith("gate no bad file (`")
    assert f"on top of {', '.join(f'gt-{n}' for n in range(max(0, lands - 3), lands))}" in batch.red.reason
    assert gated(runs) == rounds
    assert push(jobs[0], outcome) == Pushed()
    on_main = git("ls-tree", "--name-only", "main", cwd=bare.remote)
    assert "bad" not in on_main
    assert on_main.count("good") == lands


def test_if_the_first_one_is_to_blame_it_is_held_as_if_it_had_been_alone(bare: Rig, runs: Path) -> None:
    jobs = works(bare, runs, ["bad", "b", "c", "d"])
    batch = prepare_all(bare, jobs)
    alone = bare.prepare(jobs[0])
    assert isinstance(alone, Held)
    assert batch.outcome == alone
    assert batch.culprit is None


def test_a_flaky_gate_is_tried_again_before_anybody_is_blamed(bare: Rig, tmp_path: Path, runs: Path) -> None:
    """Retries are those of the gate, in a batch as alone: nobody is blamed for one red try."""
    command = f"echo run >> {runs}; test $(wc -l < {runs}) -ge 2"
    jobs = [
        replace(job, gates=(Gate(name="net", command=command, retries=2),)) for job in works(bare, runs, ["a", "b"])
    ]
    outcome = prepared(prepare_all(bare, jobs))
    assert names(outcome) == ["gt-1"]
    [run] = outcome.gate_runs
    assert (run.tries, run.allowed) == (2, 3)


def test_the_steps_say_how_many_are_at_it(bare: Rig, runs: Path) -> None:
    prepare_all(bare, works(bare, runs, ["a", "bad"]))
    assert bare.steps == [
        "fetch",
        "merge 1 of 2",
        "merge 2 of 2",
        "gate: no bad file, on 2 merges together",
        "gate: no bad file",
    ]


@pytest.mark.parametrize("after", [0, 1, 3, 20])
def test_whoever_is_to_stop_stops_between_any_two_steps(bare: Rig, runs: Path, after: int) -> None:
    asked_times: list[None] = []

    def stop() -> bool:
        asked_times.append(None)
        return len(asked_times) > after or "gate: no bad file, on 2 merges together" in bare.steps

    assert isinstance(prepare_all(bare, works(bare, runs, ["a", "b", "bad"]), stop).outcome, Stopped)


def test_a_repository_that_is_away_holds_the_first(bare: Rig, runs: Path, tmp_path: Path) -> None:
    jobs = works(bare, runs, ["a", "b"])
    bare.remote.rename(tmp_path / "away")
    held = prepare_all(bare, jobs).outcome
    assert isinstance(held, Held)
    assert held.code is HoldCode.UNREACHABLE


# --- the task


@pytest.fixture
def town(checkout: Rig, runs: Path, clock: Clock) -> Rig:
    """A rig in the database that merges up to four at once."""
    with transaction() as session:
        the_api_is_there(session)
        a_node(session)
        values = {"gates": stored([gate(runs)]), "environment": {"PATH": os.environ["PATH"]}}
        rig = a_rig(session, repository=str(checkout.remote), **values)
        session.get_one(Town, rig.town_id).policy = {"merge_batch": 4}
    return checkout


def queue(rig: Rig, *names: str) -> list[MergeRequest]:
    jobs = [rig.work(f"gt-{number}", {name: f"{name}\n"}) for number, name in enumerate(names)]
    with transaction() as session:
        return [a_merge(session, head_sha=job.head_sha) for job in jobs]


def statuses(requests: list[MergeRequest]) -> list[str]:
    return [now(each).held_code or now(each).status for each in requests]


def run_all() -> int:
    """Ticks and merges until nothing more is asked for; how many merges were asked for."""
    count = 0
    while True:
        tick()
        wanted = asked()
        for merge_id in wanted:
            merge.run(merge_id)
        count += len(wanted)
        if not wanted:
            return count


@pytest.mark.parametrize("method", METHODS)
def test_from_claim_to_record(town: Rig, runs: Path, method: MergeMethod) -> None:
    with transaction() as session:
        session.execute(update(RigRow).values(merge_method=method))
    requests = queue(town, "a", "b", "c")
    assert run_all() == 1
    assert statuses(requests) == ["closed"] * 3
    assert gated(runs) == 1
    shas = [now(each).merged_sha for each in requests]
    assert git("rev-list", "--first-parent", "--reverse", "-3", "HEAD", cwd=town.remote).split() == shas
    assert head(town.remote) == shas[-1]
    assert git("status", "--porcelain", cwd=town.remote) == ""
    assert [len(now(each).gate_runs or []) for each in requests] == [1, 1, 1]
    with transaction() as session:
        assert find_violations(session) == []


def test_a_red_batch_lands_what_is_green_and_the_rest_comes_next(town: Rig, runs: Path) -> None:
    requests = queue(town, "a", "bad", "c", "d", "e")
    tick()
    [first] = asked()
    merge.run(first)
    assert statuses(requests) == ["closed", "gate_failed", "open", "open", "open"]
    assert gated(runs) == 3
    assert "bad" in (now(requests[1]).held_output or "")
    assert run_all() == 1
    assert statuses(requests) == ["closed", "gate_failed", "closed", "closed", "closed"]
    assert gated(runs) == 4
    assert now(requests[1]).batch_of is None


def test_a_conflict_in_the_stack_is_held_when_it_is_first(town: Rig, runs: Path) -> None:
    jobs = [town.work(f"gt-{n}", {"a": f"{n}\n"}) for n in range(2)]
    with transaction() as session:
        requests = [a_merge(session, head_sha=job.head_sha) for job in jobs]
    tick()
    merge.run(requests[0].id)
    assert statuses(requests) == ["closed", "open"]
    run_all()
    assert statuses(requests) == ["closed", "conflict"]
    with transaction() as session:
        told = select(Event.message).where(Event.bead_id == requests[1].bead_id, Event.kind == "merge_requeued")
        said = session.scalars(told).all()
    assert said == [f"left out of the batch of {requests[0].bead_id}: conflicts with main in a"]


def test_a_member_canceled_while_the_gates_run_is_not_pushed(
    town: Rig, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = queue(town, "a", "b", "c")
    onto, real = head(town.remote), merging.prepare_batch

    def canceled_meanwhile(*args: object) -> Batch:
        batch = real(*args)  # type: ignore[arg-type]
        in_transaction(lambda session: work.cancel(session, requests[1].town_id, requests[1].bead_id))
        return batch

    monkeypatch.setattr(merging, "prepare_batch", canceled_meanwhile)
    merge.run(requests[0].id)
    assert head(town.remote) == onto
    assert statuses(requests) == ["open", "closed", "open"]
    monkeypatch.setattr(merging, "prepare_batch", real)
    run_all()
    assert bead(requests[1]).resolution == "canceled"
    assert [now(each).merged_sha is not None for each in requests] == [True, False, True]
    assert not (town.remote / "b").exists()


def pushing(rig: Rig, requests: list[MergeRequest]) -> tuple[object, merging.MergeJob, Prepared]:
    """As far as a worker gets that dies before the push."""
    order = claim(requests[0])
    jobs = [task._job(each) for each in (order, *order.members)]
    outcome = prepared(prepare_batch(jobs, rig.runtime, rig.steps.append, lambda: False))
    assert task._may_push(order, task.Lease(order), outcome)
    return order, jobs[0], outcome


@pytest.mark.parametrize("arrived", [True, False])
def test_killed_in_the_push(town: Rig, runs: Path, clock: Clock, arrived: bool) -> None:
    """All of it is settled by one look at the target; what did not arrive is pushed again, ungated."""
    requests = queue(town, "a", "b", "c")
    _order, job, outcome = pushing(town, requests)
    if arrived:
        assert push(job, outcome) == Pushed()
    clock.advance(45)
    merge.run(requests[0].id)
    assert statuses(requests) == ["closed"] * 3
    assert [now(each).merged_sha for each in requests] == [
        outcome.merge_sha,
        *(each.merge_sha for each in outcome.along),
    ]
    assert head(town.remote) == outcome.tip_sha
    assert gated(runs) == 1


def test_killed_in_the_push_and_the_target_moved(town: Rig, runs: Path, clock: Clock) -> None:
    requests = queue(town, "a", "b")
    pushing(town, requests)
    commit(town.remote, {"theirs": "1\n"}, "by a person")
    clock.advance(45)
    merge.run(requests[0].id)
    assert statuses(requests) == ["open", "open"]
    assert run_all() == 1
    assert statuses(requests) == ["closed", "closed"]
    assert gated(runs) == 2


def test_killed_while_the_gates_run(town: Rig, runs: Path, clock: Clock) -> None:
    requests = queue(town, "a", "b")
    claim(requests[0])
    clock.advance(45)
    run_all()
    assert statuses(requests) == ["closed", "closed"]
    assert gated(runs) == 1


def test_a_push_without_an_answer_that_did_not_arrive_has_all_of_it_gated_anew(
    town: Rig, runs: Path, clock: Clock
) -> None:
    """Only the last commit was gated, so none of the others may wait to be pushed by itself."""
    requests = queue(town, "a", "b")
    lock = town.remote / ".git" / "index.lock"
    lock.write_text("")
    merge.run(requests[0].id)
    assert statuses(requests) == ["unreachable", "open"]
    assert now(requests[0]).status == MergeStatus.PUSHING
    assert now(requests[1]).batch_of == requests[0].id
    clock.advance(45)
    merge.run(requests[0].id)
    assert (now(requests[0]).status, now(requests[0]).staged_sha) == (MergeStatus.OPEN, None)
    assert now(requests[1]).batch_of is None
    lock.unlink()
    clock.advance(90)
    run_all()
    assert statuses(requests) == ["closed", "closed"]


def test_a_dirty_checkout_has_each_merge_gated_and_kept_by_itself(town: Rig, runs: Path, clock: Clock) -> None:
    """S62: what waits in a person's way lands later, one by one, and each of them was gated."""
    requests = queue(town, "a", "b")
    (town.remote / "README").write_text("busy\n")
    merge.run(requests[0].id)
    assert statuses(requests) == ["dirty_checkout", "open"]
    assert now(requests[0]).staged_sha is None
    clock.advance(10)
    run_all()
    assert statuses(requests) == ["dirty_checkout"] * 2
    assert all(now(each).staged_sha for each in requests)
    assert (town.remote / "README").read_text() == "busy\n"
    git("checkout", "--quiet", "README", cwd=town.remote)
    clock.advance(60)
    run_all()
    assert statuses(requests) == ["closed"] * 2
    assert gated(runs) == 3
