"""Plays cells of the outcome matrix on one stack, several at a time, and writes down what it sees meanwhile.

Each moment is made by a mark (see gastown.demo.faults), so "after a newer epoch" is that on a machine of any speed.
"""

import time
from collections import deque
from datetime import UTC, datetime
from pathlib import Path

import psutil
from sqlalchemy import select

from gastown.agent.runs import RunFiles
from gastown.db import transaction
from gastown.demo import faults
from gastown.models import Agent, Bead, DecisionRow, Dispatch
from gastown.reconcile.actions import StartContainer
from gastown.states import LIVE, AgentStatus, DispatchStatus
from gastown.tasks.base import publish
from tests.flows import matrix
from tests.flows.matrix import LATE, NO, ONCE, POLICIES, SUPERSEDED, TWICE, YES, Cell, Gap, Played
from tests.flows.town import Town
from tests.flows.watch import AGENT

HELD_AT_ONCE, OTHERS_AT_ONCE = 6, 8  # a start whose answer is held keeps a process of the pool
WORKERS = HELD_AT_ONCE + 3
ANSWERS = {
    matrix.ACCEPTED: "accept",
    matrix.REFUSED: "refuse",
    matrix.RAISES: "raise",
    matrix.LOST: "lose",
    matrix.EXPIRED: "accept",
    SUPERSEDED: "accept",
}


class Director:
    """Plays cells: makes their beads, gives the cues, and writes down what is there while they run."""

    def __init__(self, town: Town) -> None:
        self.town = town
        self.orders = Path(town.environment[faults.FOLDER])
        self.rigs: dict[str, tuple[str, Path]] = {}

    def play(self, cells: list[Cell]) -> dict[Cell, Played]:
        waiting = {held: deque(cell for cell in cells if cell.held is held) for held in (True, False)}
        running: list[Played] = []
        finished: list[Played] = []
        while running or any(waiting.values()):
            for held, most in ((True, HELD_AT_ONCE), (False, OTHERS_AT_ONCE)):
                while waiting[held] and sum(each.cell.held is held for each in running) < most:
                    running.append(self._begin(waiting[held].popleft()))
            self._look(running)
            for each in running:
                self._direct(each)
            ended = [each for each in running if each.over or each.overdue]
            running = [each for each in running if each not in ended]
            finished += ended
            time.sleep(0.02)
        for each in finished:
            self._read_ending(each)
        return {each.cell: each for each in finished}

    def _begin(self, cell: Cell) -> Played:
        if cell.outcome not in self.rigs:
            self.town.new_rig(policy=POLICIES.get(cell.outcome))
            self.rigs[cell.outcome] = (self.town.rig, self.town.repository)
        self.town.rig, self.town.repository = self.rigs[cell.outcome]
        go = f"{self.orders}/$GASTOWN_BEAD.go"
        script = f"echo $GASTOWN_EPOCH >> {cell.file}; until test -e {go}; do sleep 0.1; done"
        order = f"script {ANSWERS[cell.outcome]} {cell.started} {'held' if cell.held else ''}"
        message = None if cell.message == ONCE else cell.message
        return Played(cell, self.town.sling(script, fault={1: order}, message=message), time.monotonic())

    # --- what is there

    def _look(self, running: list[Played]) -> None:
        ids = [each.bead for each in running]
        with transaction() as session:
            beads = {bead.id: bead for bead in session.scalars(select(Bead).where(Bead.id.in_(ids)))}
            rows = list(session.scalars(select(Dispatch).where(Dispatch.bead_id.in_(ids)).order_by(Dispatch.epoch)))
            agents = select(Agent.bead_id).where(Agent.bead_id.in_(ids), Agent.status == AgentStatus.WORKING)
            working = set(session.scalars(agents))
        alive, now = self.town.watch.alive, time.time()
        for each in running:
            each.bead_row = beads[each.bead]
            each.attempts = [row for row in rows if row.bead_id == each.bead]
            each.answered_at = faults.marked_at(self.orders, each.bead, 1, faults.ANSWERED)
            each.came_up_at = faults.marked_at(self.orders, each.bead, 1, faults.START)
            live = [row for row in each.attempts if row.status in LIVE]
            idle = each.bead in working and not (live and (each.bead, str(live[0].epoch)) in alive)
            self._note_gap(each, live[0].status if live else "no attempt", idle, now)

    @staticmethod
    def _note_gap(played: Played, state: str, idle: bool, now: float) -> None:
        """`gaps[-1]` grows while it is open, which is while its end is the last look's."""
        last = played.gaps[-1] if played.gaps else None
        if last is not None and last.state == state and idle:
            last.ended = now
        elif idle:
            played.gaps.append(Gap(state, now, now))
        elif last is not None and last.state:
            played.gaps.append(Gap("", now, now))  # closes it: the next one is a gap of its own

    def _has_agent(self, played: Played, epoch: int) -> bool:
        return AGENT in self.town.watch.alive.get((played.bead, str(epoch)), ())

    # --- cues

    def _direct(self, played: Played) -> None:
        if not played.attempts:
            return
        if played.cell.held and self._may_answer(played):
            self._mark(played, faults.ANSWER)
        if played.cell.started == LATE and self._may_come_up(played):
            self._mark(played, faults.START)
        if played.cell[:2] == (SUPERSEDED, YES) and not played.frozen and self._has_agent(played, 1):
            self._freeze(played)
        live = [row for row in played.attempts if row.status == DispatchStatus.RUNNING]
        if not live or not self._has_agent(played, live[0].epoch):
            return
        if played.cell.message == TWICE and not played.copied and self._is_settled(played):
            played.copied = True
            publish(StartContainer(dispatch_id=str(played.attempts[0].id), node=self.town.settings.node))
        if self._is_settled(played):
            (self.orders / f"{played.bead}.go").touch()

    def _mark(self, played: Played, name: str) -> None:
        if faults.marked_at(self.orders, played.bead, 1, name) is None:
            faults.mark(self.orders, played.bead, 1, name)

    def _may_answer(self, played: Played) -> bool:
        first = played.attempts[0]
        if played.cell.outcome == SUPERSEDED:
            return self._has_agent(played, 2)
        if played.cell.started != YES:
            return first.status == DispatchStatus.ROLLED_BACK
        return first.starting_at is not None and _age_s(first.starting_at) > played.cell.policy.start_timeout_s

    def _may_come_up(self, played: Played) -> bool:
        """Once its answer is dealt with and its successor at work; after the lease, while the bead waits for a turn."""
        if played.cell.outcome == matrix.EXPIRED:
            return played.attempts[0].call_ended_at is not None
        stopped = faults.marked_at(self.orders, played.bead, 1, faults.STOPPED)
        return self._has_agent(played, 2) and (stopped is not None or not played.cell.held)

    def _freeze(self, played: Played) -> None:
        supervisor = self._files(played, 1).supervisor()
        assert supervisor is not None
        psutil.Process(supervisor.pid).suspend()
        played.frozen = True

    def _is_settled(self, played: Played) -> bool:
        """Nothing that this cell is about is still to come: the answer was noted, the late one came and went."""
        first = played.attempts[0]
        if played.cell.held and first.call_ended_at is None:
            return False
        if first.status in LIVE:
            return True
        if played.cell.started == NO or played.frozen:
            return True
        supervisor = self._files(played, 1).supervisor()
        return supervisor is not None and not supervisor.alive

    def _files(self, played: Played, epoch: int) -> RunFiles:
        return RunFiles(self.town.settings.home, str(played.attempts[epoch - 1].id))

    # --- what became of it

    def _read_ending(self, played: Played) -> None:
        (self.orders / f"{played.bead}.go").touch()
        self.town.rig, self.town.repository = self.rigs[played.cell.outcome]
        with transaction() as session:
            made = select(DecisionRow).where(DecisionRow.bead_id == played.bead).order_by(DecisionRow.id)
            played.decisions = list(session.scalars(made))
        played.story = self.town.tell(played.bead)
        played.merges = self.town.merge_commits(played.bead)
        if played.merges:
            played.content = self.town.read(played.cell.file)
        if played.attempts:
            played.late_exit = self._files(played, 1).exit_code()
            log = (self.town.settings.home / "log" / "worker.log").read_text()
            key = str(played.attempts[0].id)
            played.not_ours = sum("start_not_ours" in line and key in line for line in log.splitlines())


def _age_s(moment: datetime) -> float:
    return (datetime.now(UTC) - moment).total_seconds()
