"""Fifty beads through three workers in containers, eight at a time, while ten of their attempts are killed at random.

Bar (issue 5): none lost, each merged once. It needs a Docker Engine with a socket on this machine; compose is not
needed. BENCH_FLEET=BEADS,KILLS,SEED makes it another size (default: 50,10,1).
"""

import os
import random
import shutil
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Self
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from bench.fleet_kills import Kills, Watched
from bench.fleet_services import Services, engine_socket
from bench.report import row
from gastown.beat_schedule import EVERYWHERE
from gastown.commands import towns, work
from gastown.db import in_transaction, transaction
from gastown.models import Bead, Dispatch, Event, MergeRequest
from gastown.states import TERMINAL, DispatchStatus
from gastown.store.resync import find_violations
from tests.docker import images, litter
from tests.docker.engine import NoEngine, bring_up
from tests.docker.fleet import tail, until
from tests.docker.litter import docker

WORKERS, AT_ONCE = 3, 8
LOOK_S = 5.0  # how often a node looks for what vanished
END_WITHIN_S, CLEAR_WITHIN_S = 900.0, 300.0
LOOK_AGAIN_S, HOUSEKEEPING_S = 0.1, 15.0


@dataclass(frozen=True)
class Size:
    beads: int
    kills: int
    seed: int

    @classmethod
    def of(cls, text: str) -> Self:
        numbers = [int(each) for each in text.split(",") if each.isdigit()]
        if len(numbers) != 3 or not 2 <= numbers[0] <= 1000 or numbers[1] > numbers[0]:
            sys.exit(f"BENCH_FLEET={text} is not BEADS,KILLS,SEED with 2 beads or more, and not more kills than beads")
        return cls(*numbers)


def fleet() -> None:
    size = Size.of(os.environ.get("BENCH_FLEET", "50,10,1"))
    try:
        engine_socket()
        bring_up()
        images.ensure_bases()
        control, agent = images.control(), images.agent()
        litter.sweep()
    except NoEngine as error:
        print(f"fleet  not measured: {error}", file=sys.stderr)
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that all of it goes
    with ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="gt-bench-"))
        stack.callback(shutil.rmtree, folder)
        services = Services(litter.Session(), folder, control=control, agent=agent)
        stack.callback(services.end)
        try:
            services.up(workers=WORKERS, policy={"max_running": AT_ONCE, "rig_max_running": AT_ONCE})
            _measure(services, size)
        except Exception:
            _tell(services)
            raise
    if folder.exists() or services.containers() or _networks(services):
        raise RuntimeError("something is left of the fleet")


def _measure(services: Services, size: Size) -> None:
    from gastown.tasks.base import poke

    watched = Watched(services.node)
    try:
        in_transaction(lambda session: _add_rig(session, services.repository))
        chance = random.Random(size.seed)
        naps = [round(chance.uniform(1, 3), 1) for _ in range(size.beads)]
        beads = in_transaction(lambda session: _sling(session, naps))
        began = time.monotonic()
        poke()
        kills = _until_merged(Kills(size.seed, size.beads, size.kills))
        took = time.monotonic() - began
        cleared = _until_cleared(services)
    finally:
        watched.end()
    outcome = Outcome(beads, kills, watched)
    outcome.check(services, size)
    outcome.report(size, took, sum(naps), cleared)


def _add_rig(session: Session, repository: str) -> None:
    variables = {"PATH": "/usr/local/bin:/usr/bin:/bin"}
    new = towns.NewRig(name="bench", repository=repository, branch="main", agent="shell", environment=variables)
    towns.add_rig(session, towns.ensure_town(session, "default"), new)


def _sling(session: Session, naps: Sequence[float]) -> list[str]:
    town = towns.ensure_town(session, "default")
    rig = towns.get_rig(session, town, "bench")
    script = "sleep {}; echo $GASTOWN_BEAD $GASTOWN_EPOCH > $GASTOWN_BEAD.txt"
    new = [work.NewBead(title=f"bead {number}", body=script.format(nap)) for number, nap in enumerate(naps)]
    return [work.sling(session, town, rig, each) for each in new]


def _until_merged(kills: Kills) -> Kills:
    """Until every bead is over, killing meanwhile."""
    deadline = time.monotonic() + END_WITHIN_S
    while time.monotonic() < deadline:
        with transaction() as session:
            attempts = {each.id: each.status for each in session.execute(select(Dispatch.id, Dispatch.status))}
            over = all(status in TERMINAL for status in session.scalars(select(Bead.status)))
        if over:
            return kills
        kills.look(attempts)
        time.sleep(LOOK_AGAIN_S)
    raise RuntimeError(f"not every bead was over after {END_WITHIN_S:.0f} s")


def _until_cleared(services: Services) -> float:
    """Until the fleet itself has removed what its attempts had: containers and folders. How long that took, in s."""
    from gastown.tasks.base import send

    began, asked = time.monotonic(), float("-inf")

    def cleared() -> bool:
        nonlocal asked
        if time.monotonic() - asked > HOUSEKEEPING_S:  # beat asks each hour
            asked = time.monotonic()
            send("gastown.housekeeping", EVERYWHERE, queue="upkeep", expires_s=HOUSEKEEPING_S)
        return not services.containers() and not list((services.home / "beads").iterdir())

    until("attempts have left no container and no folder", cleared, CLEAR_WITHIN_S)
    return time.monotonic() - began


class Outcome:
    """What the rows say, what git says, and what the engine said."""

    def __init__(self, beads: Sequence[str], kills: Kills, watched: Watched) -> None:
        self.ids, self.kills, self.watched = beads, kills, watched
        with transaction() as session:
            self.beads = {each.id: each for each in session.scalars(select(Bead))}
            self.attempts = list(session.scalars(select(Dispatch).order_by(Dispatch.bead_id, Dispatch.epoch)))
            self.requests = {each.bead_id: each for each in session.scalars(select(MergeRequest))}
            self.violations = find_violations(session)
        self.by_id = {each.id: each for each in self.attempts}
        self.done = {each.bead_id: each for each in self.attempts if each.status == DispatchStatus.SUCCEEDED}

    def check(self, services: Services, size: Size) -> None:
        """Raises RuntimeError with all that is wrong."""
        wrong = [*self.violations, *self._wrong_merges(services)]
        if len(self.kills.at) != size.kills:
            wrong.append(f"{len(self.kills.at)} attempts were killed, not {size.kills}")
        for attempt in self.kills.at:
            if self.by_id[attempt].status not in (DispatchStatus.LOST, DispatchStatus.ROLLED_BACK):
                wrong.append(f"the killed attempt {attempt} is {self.by_id[attempt].status}")
        if self.most_live() > AT_ONCE:
            wrong.append(f"{self.most_live()} attempts were live at one time")
        if self.watched.most_of_bead != 1:
            wrong.append(f"{self.watched.most_of_bead} containers of one bead ran at one time")
        if self.watched.starts > len(self.attempts):
            wrong.append(f"the engine saw {self.watched.starts} starts of {len(self.attempts)} attempts")
        if wrong:
            raise RuntimeError("\n".join(wrong))

    def _wrong_merges(self, services: Services) -> list[str]:
        """Each bead: closed as merged, by one merge commit, which its row names, with the work of its last attempt."""
        wrong = [
            f"{each.id} is {each.status} {each.resolution}"
            for each in self.beads.values()
            if each.resolution != "merged"
        ]
        own = ("exec", services.git, "git", "-C", "/tmp/repository.git")
        form = "--format=%H %(trailers:key=Gastown-Bead,valueonly,separator=%x20)"
        merges = [line.split() for line in docker(*own, "log", "--merges", form, "main").splitlines()]
        rows = [[str(each.merged_sha), bead] for bead, each in self.requests.items()]
        if sorted(merges) != sorted(rows) or sorted(bead for _, bead in merges) != sorted(self.ids):
            wrong.append(f"the target has the merges {merges}, and the rows say {rows}")
        files = sorted(docker(*own, "grep", "-h", "", "main", "--", "*.txt").splitlines())
        if files != sorted(f"{each.bead_id} {each.epoch}" for each in self.done.values()):
            wrong.append(f"the target has {files}")
        return wrong

    def most_live(self) -> int:
        """Attempts at one time, by their rows."""
        steps = [(each.queued_at, 1) for each in self.attempts]
        steps += [(each.ended_at, -1) for each in self.attempts if each.ended_at is not None]
        most = now = 0
        for _, step in sorted(steps):
            now += step
            most = max(most, now)
        return most

    def report(self, size: Size, took: float, slept: float, cleared: float) -> None:
        alone = slept / AT_ONCE
        print(f"  attempts end as {dict(Counter(each.code or each.status for each in self.attempts))}")
        print(f"  at one time at most {self.most_live()} live attempts, {self.watched.most} containers; 1 of each bead")
        print(f"  no container and no folder of an attempt is left {cleared:.0f} s after the last merge")
        figures = f"{took:.1f} s  {len(self.attempts)} attempts  {size.kills} killed  none lost, each merged once"
        of = f"to its agents alone, {alone:.1f} s:"
        row(f"fleet  {size.beads} beads, {WORKERS} workers, {AT_ONCE} at a time", figures, ratio=took / alone, of=of)
        waits = {attempt: self._again_s(attempt, at) for attempt, at in self.kills.at.items()}
        again = [wait for attempt, wait in waits.items() if self.by_id[attempt].epoch == 1]
        late = [f"{wait:.1f} s" for attempt, wait in waits.items() if self.by_id[attempt].epoch > 1]
        if late:  # policy backoff_s
            print(f"  killed again at a later attempt, which waits out a backoff: {', '.join(late)}")
        if again:
            figures = f"median {statistics.median(again):.2f} s  max {max(again):.2f} s"
            of = f"max to {LOOK_S:.0f} s:"
            row("fleet  from a first kill to the next attempt queued", figures, ratio=max(again) / LOOK_S, of=of)
        self._report_merges()

    def _report_merges(self) -> None:
        merged = sorted(_given(each.merged_at) for each in self.requests.values())
        gap = max((later - sooner).total_seconds() for sooner, later in pairwise(merged))
        print(f"  the longest time without a merge, after the first: {gap:.1f} s")
        rate = 60 * (len(merged) - 1) / (merged[-1] - merged[0]).total_seconds()
        waits = [_seconds(each.ended_at, self.requests[bead].merged_at) for bead, each in self.done.items()]
        runs = [_seconds(each.queued_at, each.ended_at) for each in self.done.values()]
        wait, run = statistics.median(waits), statistics.median(runs)
        figures = f"{rate:.0f} a minute  from done to merged {wait:.2f} s  from queued to done {run:.2f} s"
        row("fleet  merges", figures, ratio=wait / run, of="wait to attempt:")

    def _again_s(self, attempt: UUID, killed_at: datetime) -> float:
        killed = self.by_id[attempt]
        following = [each for each in self.attempts if (each.bead_id, each.epoch) == (killed.bead_id, killed.epoch + 1)]
        return _seconds(killed_at, following[0].queued_at)


def _given(moment: datetime | None) -> datetime:
    assert moment is not None
    return moment


def _seconds(sooner: datetime | None, later: datetime | None) -> float:
    return (_given(later) - _given(sooner)).total_seconds()


def _networks(services: Services) -> str:
    return docker("network", "ls", "--quiet", "--filter", f"label={services.names.label}")


def _tell(services: Services) -> None:
    """What there is to see of a fleet that failed, before it goes."""
    for container in (services.api, *services.workers):
        print(f"--- {container}\n{tail(container)}", file=sys.stderr)
    if not services.are_up:
        return
    with transaction() as session:
        for bead in session.scalars(select(Bead).where(Bead.status.not_in(TERMINAL) | (Bead.status == "failed"))):
            print(f"{bead.id}: {bead.status} {bead.verdict}: {bead.verdict_reason}", file=sys.stderr)
            for event in session.scalars(select(Event).where(Event.bead_id == bead.id).order_by(Event.id)):
                print(f"  {event.at:%H:%M:%S.%f} {event.kind}: {event.message}", file=sys.stderr)
