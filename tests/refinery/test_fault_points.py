"""G4, S52: a merge worker is killed at each point between two effects; the next one leaves it merged once."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from sqlalchemy import func, select, update

from gastown.agent import processes
from gastown.agent.git import git
from gastown.agent.mirror import MARK
from gastown.db import gastown_now, in_transaction, transaction
from gastown.models import BeadDependency, Dispatch, Event, MergeRequest, Node, Service
from gastown.states import MergeStatus
from gastown.store import merges
from gastown.store.workers import claimer
from tests.builders import a_bead, a_merge, a_node, a_rig, now, the_api_is_there
from tests.conftest import Clock
from tests.refinery import faulty
from tests.refinery.faulty import Point, When, Workers
from tests.refinery.rig import Rig, add_hook, head
from tests.store.merging import asked, bead
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


@dataclass
class Town:
    """A merge with two gates into a bare repository, a bead that waits for it, and workers to make it."""

    rig: Rig
    workers: Workers
    clock: Clock
    folder: Path
    requests: list[MergeRequest] = field(default_factory=list)
    waiting: str = ""

    def run(self, merge_id: int, worker: str, point: Point | None = None) -> int:
        if point is not None:
            point = replace(point, file=str(self.folder / "stuck"))
        log, when = self.folder / "workers.log", self.clock.now.isoformat()
        return self.workers.run(merge_id, log=log, now=when, worker=worker, point=point)

    def later(self, seconds: float) -> None:
        """The clock goes on; API and node have beaten meanwhile."""
        self.clock.advance(seconds)
        with transaction() as session:
            session.execute(update(Service).values(alive_at=gastown_now()))
            session.execute(update(Node).values(heartbeat_at=gastown_now()))

    def go_on(self, worker: str) -> None:
        """Ticks, and the merges that they ask for, until nothing more is asked for."""
        tick()
        while ids := asked():
            for merge_id in ids:
                assert self.run(merge_id, worker) == 0
            tick()

    def gated(self) -> list[str]:
        """Each gate that was begun, in this order."""
        file = self.folder / "gated"
        return file.read_text().split() if file.exists() else []

    def merge_commits(self, request: MergeRequest) -> list[str]:
        """On the target, with the trailer of this bead."""
        form = "--format=%H %(trailers:key=Gastown-Bead,valueonly,separator=%x20)"
        log = git("log", "--first-parent", form, "main", cwd=self.rig.remote).splitlines()
        return [line.split()[0] for line in log if line.split()[1:] == [request.bead_id]]

    def released(self) -> int:
        """How often the bead that waits was started."""
        with transaction() as session:
            return session.scalars(select(func.count()).where(Dispatch.bead_id == self.waiting)).one()

    def events(self, request: MergeRequest, kind: str) -> int:
        with transaction() as session:
            query = select(func.count()).where(Event.bead_id == request.bead_id, Event.kind == kind)
            return session.scalars(query).one()


@pytest.fixture
def make(bare: Rig, workers: Workers, clock: Clock, tmp_path: Path) -> Callable[..., Town]:
    def make(count: int = 1, **values: object) -> Town:
        town = Town(bare, workers, clock, tmp_path)
        gated = tmp_path / "gated"
        gates = [f"echo 1 >> {gated}; {in_the_way(tmp_path / 'stuck')}", f"echo 2 >> {gated}"]
        with transaction() as session:
            the_api_is_there(session)
            a_node(session)
            rest = {"gates": gates, "environment": {"PATH": os.environ["PATH"]}} | values
            rig = a_rig(session, repository=str(bare.remote), **rest)
            for number in range(count):
                sha = bare.work(f"gt-{number}", {f"new{number}": "new\n"}).head_sha
                town.requests.append(a_merge(session, head_sha=sha))
            town.waiting = a_bead(session, rig).id
            for request in town.requests:
                session.add(BeadDependency(bead_id=town.waiting, blocker_id=request.bead_id, kind="blocks"))
        return town

    return make


def in_the_way(stuck: Path) -> str:
    """Of a shell: once, when that file is there, wait with a child that its end does not end."""
    return f"if test -e {stuck} -a ! -s {stuck}; then setsid sleep 300 & echo $! > {stuck}; wait; fi"


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


def check(town: Town, name: str, by: str) -> None:
    """Merged once, and everybody agrees; also after each message came twice more."""
    for _ in range(2):
        for request in town.requests:
            assert town.run(request.id, "merge@there") == 0
    tick()
    commits = 0
    for request in town.requests:
        merged, over = now(request), bead(request)
        found = town.merge_commits(request)
        assert (merged.status, merged.merged_sha) == (MergeStatus.CLOSED, found[0] if found else None)
        assert (over.status, over.resolution) == ("closed", "merged")
        assert len(found) == 1
        assert town.events(request, "merged") == 1
        commits += len(found)
    assert town.released() == 1
    assert town.rig.leftovers() == []
    again = town.gated()
    outcome = f"merged; gates run {len(again)} times" if again else "merged"
    faulty.KILLS.append((name, by, outcome, commits, town.released()))


@pytest.mark.parametrize(("name", "by"), CASES)
def test_killed_at(make: Callable[..., Town], name: str, by: str) -> None:
    town = make()
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
    check(town, name, by)
    if stuck.exists():
        left = processes.look(int(stuck.read_text()))
        assert left is None or left.zombie, "what its gate started is still there"


def test_a_push_outlives_its_worker(make: Callable[..., Town]) -> None:
    """Git goes on without it, and gets through when the next worker has pushed the same commit and recorded it."""
    town = make()
    [request] = town.requests
    stuck, go = town.folder / "stuck", town.folder / "go"
    add_hook(town.rig.remote, "pre-receive", ONCE.format(stuck=stuck, go=go))
    assert town.run(request.id, "merge@here", LATE) == KILLED
    pushing = processes.marked(MARK, str(town.rig.mirror.path))
    assert pushing
    settle(town, ANOTHER, at_once=False)
    assert now(request).status == MergeStatus.CLOSED
    go.touch()
    deadline = time.monotonic() + 30
    while processes.marked(MARK, str(town.rig.mirror.path)):
        assert time.monotonic() < deadline, "the push of the killed worker does not end"
    assert town.gated() == ["1", "2"]
    check(town, "in the push, which arrives later", ANOTHER)
