"""A merge queue in a database of its own, and workers, each a process, that can be told to die or to wait."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sqlalchemy import func, select, update

from gastown.agent.git import git
from gastown.db import gastown_now, transaction
from gastown.models import BeadDependency, Dispatch, Event, MergeRequest, Node, Service
from gastown.states import MergeStatus
from tests.builders import a_bead, a_merge, a_node, a_rig, a_town, now, the_api_is_there
from tests.conftest import Clock
from tests.refinery.faulty import Point, Workers
from tests.refinery.rig import Rig
from tests.store.merging import asked, bead
from tests.ticks import tick


@dataclass
class Town:
    """Merges with two gates into a bare repository, and a bead that waits for all of them."""

    rig: Rig
    workers: Workers
    clock: Clock
    folder: Path
    requests: list[MergeRequest] = field(default_factory=list)
    waiting: str = ""

    def fill(self, works: Sequence[dict[str, str]], **values: Any) -> None:
        """The rig, with `values`, and a request for each of these works: their files."""
        log, stuck = self.folder / "gated", self.folder / "stuck"
        # once, while that file is there and empty: a child that the end of its gate does not end
        gates = [
            f"echo 1 >> {log}; if test -e {stuck} -a ! -s {stuck}; then setsid sleep 300 & echo $! > {stuck}; wait; fi"
        ]
        gates += [f"echo 2 >> {log}"]
        with transaction() as session:
            the_api_is_there(session)
            a_node(session)
            rest = {"gates": gates, "environment": {"PATH": os.environ["PATH"]}} | values
            rig = a_rig(session, repository=str(self.rig.remote), **rest)
            self.waiting = a_bead(session, rig).id
        for files in works:
            self.add(files)

    def add(self, files: dict[str, str]) -> MergeRequest:
        """One more that the bead waits for."""
        with transaction() as session:
            request = a_merge(session)
            request.head_sha = self.rig.work(request.bead_id, files).head_sha
            session.add(BeadDependency(bead_id=self.waiting, blocker_id=request.bead_id, kind="blocks"))
        self.requests.append(request)
        return request

    def batches_of(self, count: int) -> None:
        with transaction() as session:
            a_town(session).policy = {"merge_batch": count}

    def run(
        self,
        merge_id: int,
        worker: str,
        point: Point | None = None,
        home: Path | None = None,
        by: Workers | None = None,
    ) -> int:
        """One message to this worker, on the host that has this home."""
        if point is not None:
            point = replace(point, file=str(self.folder / "stuck"))
        host = {"GASTOWN_HOME": str(home)} if home else {}
        log, when = self.folder / "workers.log", self.clock.now.isoformat()
        return (by or self.workers).run(merge_id, log=log, now=when, worker=worker, point=point, **host)

    def later(self, seconds: float) -> None:
        """The clock goes on; API and node have beaten meanwhile."""
        self.clock.advance(seconds)
        with transaction() as session:
            session.execute(update(Service).values(alive_at=gastown_now()))
            session.execute(update(Node).values(heartbeat_at=gastown_now()))

    def go_on(self, worker: str, home: Path | None = None) -> None:
        """Ticks, and the merges that they ask for, until nothing more is asked for."""
        tick()
        while ids := asked():
            for merge_id in ids:
                assert self.run(merge_id, worker, home=home) == 0
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

    def check(self) -> int:
        """Each is merged once, and everybody agrees; also after each message came twice more. The merge commits."""
        for request in [*self.requests, *self.requests]:
            assert self.run(request.id, "merge@there") == 0
        tick()
        for request in self.requests:
            merged, over = now(request), bead(request)
            assert self.merge_commits(request) == [merged.merged_sha]
            assert (merged.status, over.status, over.resolution) == (MergeStatus.CLOSED, "closed", "merged")
            assert self.events(request, "merged") == 1
        assert self.released() == 1
        assert self.rig.leftovers() == []
        return len(self.requests)
