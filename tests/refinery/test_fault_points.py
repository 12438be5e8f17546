"""G4, S52: a merge worker is killed at each point between two effects; the next one leaves it merged once."""

import time

import pytest

from gastown.agent import processes
from gastown.agent.mirror import MARK
from gastown.db import in_transaction
from gastown.states import HoldCode, MergeStatus
from gastown.store import merges
from gastown.store.workers import claimer
from tests import tables
from tests.builders import now
from tests.refinery import faulty
from tests.refinery.faulty import Point, When
from tests.refinery.rig import add_hook, head
from tests.refinery.town import Town
from tests.store.merging import asked
from tests.ticks import tick

BEFORE, AFTER, DURING = When.BEFORE, When.AFTER, When.DURING
KILLED = -9
GATE = "gastown.runtimes.process:ProcessRuntime.run"
# Before the push is recorded to begin, a merge is made anew, and gated again.
ANEW = {
    "claim not committed": Point("gastown.store.merges:claim_merge", AFTER),
    "claimed": Point("gastown.tasks.merge:_job", BEFORE),
    "fetched": Point("gastown.refinery.preparing:fetch_target", AFTER),
    "worktree made": Point("gastown.agent.mirror:Mirror.clone", AFTER),
    "merged": Point("gastown.agent.mirror:Mirror.keep", BEFORE),
    "kept in the mirror": Point("gastown.agent.mirror:Mirror.keep", AFTER),
    "before gate 1": Point(GATE, BEFORE),
    "in gate 1": Point(GATE, DURING),
    "after gate 1": Point(GATE, AFTER),
    "before gate 2": Point(GATE, BEFORE, 2),
    "after gate 2": Point(GATE, AFTER, 2),
    "before begin_push": Point("gastown.store.merges:begin_push", BEFORE),
    "begin_push not committed": Point("gastown.store.merges:begin_push", AFTER),
}
# From then on its gates are passed, and nobody runs them again.
PUSHING = {
    "push begun, nothing pushed": Point("gastown.refinery.merging:push", BEFORE),
    "pushed, answer lost": Point("gastown.refinery.merging:push", AFTER),
    "before the record": Point("gastown.store.merges:record_merged", BEFORE),
    "record not committed": Point("gastown.store.merges:record_merged", AFTER),
}
RECORDED = {
    "recorded": Point("gastown.refinery.merging:release", BEFORE),
    "before the poke": Point("gastown.tasks.merge:poke", BEFORE),
    "poked": Point("gastown.tasks.merge:poke", AFTER),
}
LATE = Point("gastown.refinery.merging:push", DURING)
POINTS = ANEW | PUSHING | RECORDED
SAME, ANOTHER = "same name", "another name"
# A worker that is back under its name takes up at once what it had begun; each kind of point once.
BACK = ("claim not committed", "claimed", "in gate 1", "after gate 2", "push begun, nothing pushed", "recorded")
CASES = [*((name, ANOTHER) for name in POINTS), *((name, SAME) for name in BACK)]
# The same of three merges that go together.
BATCH = {
    "claimed": Point("gastown.tasks.merge:_job", BEFORE),
    "two of three stacked": Point("gastown.agent.mirror:Mirror.keep", AFTER, 2),
    "gated": Point(GATE, AFTER, 2),
    "begin_push not committed": Point("gastown.store.merges:begin_push", AFTER),
    "push begun, nothing pushed": Point("gastown.refinery.merging:push", BEFORE),
    "pushed, answer lost": Point("gastown.refinery.merging:push", AFTER),
    "record not committed": Point("gastown.store.merges:record_merged", AFTER),
    "recorded": Point("gastown.refinery.merging:release", BEFORE),
}
# And when one of them makes the gates red.
RED = {
    "while it is halved": Point(GATE, AFTER, 2),
    "culprit found, not held": Point("gastown.store.merges:hold_along", BEFORE),
    "hold not committed": Point("gastown.store.merges:hold_along", AFTER),
    "culprit held": Point("gastown.tasks.merge:_push", BEFORE),
    "the rest pushed": Point("gastown.refinery.merging:push", AFTER),
}


def settle(town: Town, by: str, *, at_once: bool) -> None:
    """What the next worker does: one of the same name mostly at once, another one once the lease has run out."""
    if by == SAME:
        in_transaction(lambda session: merges.expire_merges_of(session, claimer("merge@here")))
        town.go_on("merge@here")
        if at_once:
            return
    town.later(45)
    town.go_on("merge@here" if by == SAME else "merge@there")


ONCE = """#!/bin/sh
grep -q refs/heads/ && mkdir once || exit 0
echo $$ > {stuck}
for n in $(seq 3000); do test ! -e {go} || exit 0; sleep 0.02; done
exit 1
"""


def note(town: Town, name: str, by: str) -> None:
    """Check it, and keep the line of the table."""
    commits, runs = town.check(), len(town.gated())
    _tell(name, by, f"merged; gates run {runs} times", commits, town.released())


@pytest.mark.parametrize(("name", "by"), CASES)
def test_killed_at(town: Town, name: str, by: str) -> None:
    town.fill([{"new": "new\n"}])
    [request] = town.requests
    stuck = town.folder / "stuck"
    if name == "in gate 1":
        stuck.write_text("")
    tick()
    assert asked() == [request.id]
    assert town.run(request.id, "merge@here", POINTS[name]) == KILLED
    before = town.gated()
    settle(town, by, at_once=name not in {"claim not committed", *PUSHING})
    assert town.gated() == ([*before, "1", "2"] if name in ANEW else ["1", "2"])
    assert head(town.rig.remote, "main") == now(request).merged_sha
    note(town, name, by)
    if stuck.exists():
        left = processes.look(int(stuck.read_text()))
        assert left is None or left.zombie, "what its gate started is still there"


def test_a_push_outlives_its_worker(town: Town) -> None:
    """Git goes on without it, and gets through when the next worker has pushed the same commit and recorded it."""
    town.fill([{"new": "new\n"}])
    [request] = town.requests
    stuck, go = town.folder / "stuck", town.folder / "go"
    add_hook(town.rig.remote, "pre-receive", ONCE.format(stuck=stuck, go=go))
    assert town.run(request.id, "merge@here", LATE) == KILLED
    pushing = processes.marked(MARK, str(town.rig.mirror.path))
    assert pushing
    settle(town, ANOTHER, at_once=False)
    assert now(request).status == MergeStatus.CLOSED
    go.touch()
    deadline = time.monotonic() + 60
    while processes.marked(MARK, str(town.rig.mirror.path)):
        assert time.monotonic() < deadline, "the push of the killed worker does not end"
    assert town.gated() == ["1", "2"]
    note(town, "in the push, which arrives later", ANOTHER)


@pytest.mark.parametrize("name", BATCH)
def test_killed_with_a_batch(town: Town, name: str) -> None:
    """Each has its own merge commit, and from the push on all are settled as one."""
    town.batches_of(3)
    town.fill([{f"new{number}": "new\n"} for number in range(3)])
    assert town.run(town.requests[0].id, "merge@here", BATCH[name]) == KILLED
    pushing = name in {*PUSHING, "recorded"}
    before = town.gated()
    settle(town, ANOTHER, at_once=False)
    assert town.gated() == (["1", "2"] if pushing else [*before, "1", "2"])
    note(town, f"3 together: {name}", ANOTHER)


@pytest.mark.parametrize("name", RED)
def test_killed_with_a_red_batch(town: Town, name: str) -> None:
    """The others are merged once, and who made it red is held: neither merged nor forgotten."""
    town.batches_of(3)
    log = town.folder / "gated"
    town.fill([{"a": "1\n"}, {"bad": "1\n"}, {"c": "1\n"}], gates=[f"echo 1 >> {log}; test ! -e bad"])
    first, bad, last = town.requests
    assert town.run(first.id, "merge@here", RED[name]) == KILLED
    settle(town, ANOTHER, at_once=False)
    assert (now(bad).status, now(bad).held_code) == (MergeStatus.OPEN, HoldCode.GATE_FAILED)
    assert town.merge_commits(bad) == []
    for request in (first, last):
        assert town.merge_commits(request) == [now(request).merged_sha]
        assert (now(request).status, town.events(request, "merged")) == (MergeStatus.CLOSED, 1)
    assert (town.released(), town.events(bad, "merge_held"), town.rig.leftovers()) == (0, 1, [])
    runs = f"2 merged, culprit held; gates run {len(town.gated())} times"
    _tell(f"3, one red: {name}", ANOTHER, runs, 2, 0)


def _tell(point: str, by: str, outcome: str, commits: int, released: int) -> None:
    tables.add(faulty.KILLS, f"{point:38} {by:13} {outcome:40} {commits:3} {released:3}")
