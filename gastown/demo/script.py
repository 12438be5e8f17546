"""The play: what is asked for, what is broken and when. Everything in between is the product's own doing."""

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum

from sqlalchemy.orm import Session

from gastown.agent import processes, runs
from gastown.commands import towns, work
from gastown.db import in_transaction, transaction
from gastown.demo import faults, repository
from gastown.demo.place import Place
from gastown.demo.repository import Chore
from gastown.embedded import control
from gastown.embedded.status import ChildState
from gastown.presets.environment import capture
from gastown.settings import Settings
from gastown.states import BeadStatus, DispatchStatus
from gastown.store import listing, output
from gastown.store.explain import with_live_holds
from gastown.store.listing import AttemptRow, BeadRow
from gastown.tasks.base import poke

GIVE_UP_S = 150.0  # for all beads; on two idle cores they take about 30 s
STEP_S = 1.2  # between one request and the next, so that one can watch
SLOW_START_S = 45  # a start that is still being made when the worker is killed; its time limit is 60 s
UNHARMED = (DispatchStatus.RUNNING, DispatchStatus.SUCCEEDED)
SIGKILL = 9


class Kind(StrEnum):
    RAISE = "raise"
    REFUSE = "refuse"
    KILL_AGENT = "kill_agent"
    KILL_WORKER = "kill_worker"


@dataclass
class Fault:
    """Something broken on purpose, and what is known of its consequences."""

    kind: Kind
    bead_id: str
    struck_at: datetime | None = None
    given_up_at: datetime | None = None  # when Gastown took the attempt that it struck for failed
    code: str = ""
    next_at: datetime | None = None  # when the next attempt was queued
    back_at: datetime | None = None  # when the killed worker was there again
    resumed: bool = False  # the next attempt said that it found the work of the one that was killed
    bystanders: dict[str, int] = field(default_factory=dict)  # bead -> attempt at work while the worker was killed
    unharmed: bool = True  # none of these attempts ended badly

    @property
    def recovery_s(self) -> float | None:
        """From the fault to the next attempt."""
        if self.struck_at is None or self.next_at is None:
            return None
        return (self.next_at - self.struck_at).total_seconds()


class _StuckError(Exception):
    pass


class Play:
    """Each step of `perform` is one look at the beads; between two of them the caller may show what is to be seen."""

    def __init__(self, place: Place, settings: Settings) -> None:
        self.place, self.settings = place, settings
        self.town = in_transaction(lambda session: towns.ensure_town(session, settings.town))
        self.beads: list[str] = []
        self.longest = ""  # the bead whose agent is killed: it has the most to tell
        self.rows: list[BeadRow] = []
        self.attempts: dict[str, list[AttemptRow]] = {}
        self.output: dict[str, str] = {}  # of each bead's last attempt
        self.faults: list[Fault] = []
        self.stuck = ""  # what it waited for in vain
        self._worker = 0  # the pid of the one that was killed
        self._deadline = time.monotonic() + GIVE_UP_S

    def perform(self) -> Iterator[None]:
        """To its end, or until it does not go on: then `stuck` says what it waited for."""
        try:
            yield from self._acts()
        except _StuckError as error:
            self.stuck = str(error)

    def _acts(self) -> Iterator[None]:
        in_transaction(self._add_rig)
        self._sling(repository.RANK, Kind.RAISE)
        yield from self._pause()
        self._sling(repository.SENTENCES, Kind.REFUSE)
        yield from self._pause()
        self.longest = longest = self._sling(repository.LONGEST, Kind.KILL_AGENT)
        summary = self._sling(repository.SUMMARY, Kind.KILL_WORKER, after=longest)
        yield from self._until("an agent has begun to write", lambda: self._wrote(longest))
        yield from self._pause()
        self._kill_agent(longest)
        yield from self._until("the work of the killed agent is done", lambda: self._is_past_work(longest))
        self._sling(repository.TIME)
        yield from self._until("a start is being made while an agent works", lambda: self._in_a_start(summary))
        yield from self._pause()
        self._kill_worker(summary)
        yield from self._until("every bead is over", lambda: all(row.terminal for row in self.rows))

    # --- what is asked for

    def _add_rig(self, session: Session) -> None:
        rig = towns.NewRig(
            name=repository.RIG,
            repository=str(self.place.repository),
            branch=repository.BRANCH,
            agent="shell",
            gates=[repository.GATE],
            environment=capture(os.environ),
        )
        towns.add_rig(session, self.town, rig)

    def _sling(self, chore: Chore, fault: Kind | None = None, after: str | None = None) -> str:
        def write(session: Session) -> str:
            rig = towns.get_rig(session, self.town, repository.RIG)
            new = work.NewBead(title=chore.title, body=chore.script, after=[after] if after else [])
            bead_id = work.sling(session, self.town, rig, new)
            if fault in (Kind.RAISE, Kind.REFUSE):
                faults.order(self.place.orders, bead_id, 1, fault)
            elif fault is Kind.KILL_WORKER:
                faults.order(self.place.orders, bead_id, 1, f"slow {SLOW_START_S}")
            return bead_id

        bead_id = in_transaction(write)
        poke()
        self.beads.append(bead_id)
        if fault is not None:
            self.faults.append(Fault(fault, bead_id))
        return bead_id

    # --- what is broken

    def _wrote(self, bead_id: str) -> bool:
        """Whether its agent has written something, which it commits only at its end."""
        return repository.WROTE.format(path=repository.LONGEST.path) in self.output[bead_id]

    def _is_past_work(self, bead_id: str) -> bool:
        row = next(row for row in self.rows if row.id == bead_id)
        return row.terminal or row.status == BeadStatus.IN_REVIEW

    def _kill_agent(self, bead_id: str) -> None:
        """The supervisor first, since it would report the end of its agent, then everything below it."""
        attempt = str(self.attempts[bead_id][-1].id)
        marked = processes.marked(runs.DISPATCH, attempt)
        supervisor = runs.SUPERVISOR.encode()
        self._strike(Kind.KILL_AGENT)
        for pid in sorted(marked, key=lambda pid: marked[pid].get(runs.ROLE.encode()) != supervisor):
            processes.send(pid, SIGKILL)

    def _in_a_start(self, bead_id: str) -> bool:
        return faults.struck_at(self.place.orders, bead_id, 1) is not None and bool(self._at_work())

    def _kill_worker(self, starting: str) -> None:
        """The worker that makes the starts, with all its processes, in the middle of one."""
        children = control.read_status(self.settings).children
        self._worker = next(child.pid for child in children if child.name == "worker" and child.pid)
        doomed = [self._worker, *processes.descendants(self._worker)]
        fault = self._strike(Kind.KILL_WORKER)
        fault.bystanders = self._at_work()
        for pid in doomed:
            processes.send(pid, SIGKILL)

    def _at_work(self) -> dict[str, int]:
        """The beads on which an agent runs at this moment, known by what it printed, and which attempt that is."""
        last = {bead_id: attempts[-1] for bead_id, attempts in self.attempts.items() if attempts}
        return {
            bead_id: attempt.epoch
            for bead_id, attempt in last.items()
            if attempt.status == DispatchStatus.RUNNING and attempt.log_bytes
        }

    def _strike(self, kind: Kind) -> Fault:
        fault = next(each for each in self.faults if each.kind is kind)
        fault.struck_at = datetime.now(UTC)
        return fault

    # --- looking

    @property
    def merges(self) -> dict[str, int]:
        """How often the journal says of each bead that it was merged."""
        with transaction() as session:
            events = {each: listing.list_events(session, self.town, bead_id=each, limit=1000) for each in self.beads}
        return {bead_id: sum(event.kind == "merged" for event in told) for bead_id, told in events.items()}

    def _pause(self) -> Iterator[None]:
        until = time.monotonic() + STEP_S
        while time.monotonic() < until:
            self._look()
            yield

    def _until(self, what: str, happened: Callable[[], bool]) -> Iterator[None]:
        self._look()
        while not happened():
            if time.monotonic() > self._deadline:
                raise _StuckError(f"{GIVE_UP_S:.0f} s were not enough; it still waited for this: {what}")
            yield
            self._look()

    def _look(self) -> None:
        with transaction() as session:
            rows = listing.beads_by_id(session, self.town, self.beads)
            self.attempts = {bead_id: listing.list_attempts(session, bead_id) for bead_id in self.beads}
            self.output = {bead_id: _output_of(session, attempts) for bead_id, attempts in self.attempts.items()}
            self.rows = [self._with_words(row) for row in with_live_holds(session, self.town, rows)]
        for fault in self.faults:
            self._follow(fault)

    def _with_words(self, row: BeadRow) -> BeadRow:
        """What an agent printed last is what it says."""
        lines = self.output[row.id].split("\n")
        return replace(row, says=next((line for line in reversed(lines) if line.strip()), None))

    def _follow(self, fault: Fault) -> None:
        if fault.kind in (Kind.RAISE, Kind.REFUSE) and fault.struck_at is None:
            fault.struck_at = faults.struck_at(self.place.orders, fault.bead_id, 1)
        attempts = self.attempts[fault.bead_id]
        if fault.struck_at and attempts and attempts[0].ended_at:
            fault.given_up_at, fault.code = attempts[0].ended_at, attempts[0].code or ""
        if len(attempts) > 1:
            fault.next_at = attempts[1].queued_at
            fault.resumed = repository.RESUMED.format(path=repository.LONGEST.path) in self.output[fault.bead_id]
        for bead_id, epoch in fault.bystanders.items():
            fault.unharmed &= self.attempts[bead_id][epoch - 1].status in UNHARMED
        if fault.kind is Kind.KILL_WORKER and fault.struck_at and fault.back_at is None and self._worker_is_back():
            fault.back_at = datetime.now(UTC)

    def _worker_is_back(self) -> bool:
        return any(
            child.name == "worker" and child.state is ChildState.READY and child.pid not in (None, self._worker)
            for child in control.read_status(self.settings).children
        )


def _output_of(session: Session, attempts: list[AttemptRow]) -> str:
    """What the last attempt printed; these agents do not print much."""
    if not attempts or not attempts[-1].log_bytes:
        return ""
    return b"".join(chunk.data for chunk in output.chunks_after(session, attempts[-1], -1)).decode(errors="replace")
