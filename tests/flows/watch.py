"""Who is alive at which moment, seen from outside: the marks in the environment of every process of the machine."""

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

import psutil

AGENT, SUPERVISOR = "agent", "supervisor"


@dataclass
class Span:
    """Seen at each look from the first to the last, both in seconds of the wall clock."""

    first: float
    last: float


class AgentWatch(threading.Thread):
    """Looks many times a second which attempts have an agent or a supervisor alive, by the marks in their environment.

    An attempt is a bead and an epoch, both text; a role is "agent" or "supervisor".
    """

    def __init__(self) -> None:
        super().__init__(name="agent-watch", daemon=True)
        self.most: dict[str, int] = {}  # bead -> most attempts whose agent was alive at one moment
        self.alive: dict[tuple[str, str], frozenset[str]] = {}  # attempt -> roles, at the last look
        self.spans: dict[tuple[str, str, str], list[Span]] = {}  # attempt and role -> when it was there
        self._ended = threading.Event()
        self._known: dict[tuple[int, float], tuple[str, str, str] | None] = {}

    def run(self) -> None:
        looked_at = 0.0
        while not self._ended.wait(0.02):
            began = time.time()
            marks = {mark for process in self._living() if (mark := self._mark(process)) is not None}
            for mark in marks:
                spans = self.spans.setdefault(mark, [])
                if spans and spans[-1].last >= looked_at:
                    spans[-1].last = began
                else:
                    spans.append(Span(began, began))
            looked_at = began
            alive: dict[tuple[str, str], frozenset[str]] = {}
            agents: dict[str, int] = {}
            for bead, epoch, role in marks:
                alive[bead, epoch] = alive.get((bead, epoch), frozenset()) | {role}
                agents[bead] = agents.get(bead, 0) + (role == AGENT)
            for bead, number in agents.items():
                self.most[bead] = max(self.most.get(bead, 0), number)
            self.alive = alive

    @staticmethod
    def _living() -> Iterator[psutil.Process]:
        """Without those that ended and were not waited for: nothing of them runs."""
        for process in psutil.process_iter(["pid", "create_time", "status"]):
            if process.info["status"] != psutil.STATUS_ZOMBIE:
                yield process

    def _mark(self, process: psutil.Process) -> tuple[str, str, str] | None:
        key = (process.pid, process.info["create_time"])
        known = self._known.get(key)
        if key not in self._known or (known is not None and known[2] == SUPERVISOR):  # it may become an agent by exec
            try:
                environment = process.environ()
            except psutil.Error:
                return None
            if not environment:
                return known  # between fork and exec
            ours = "GASTOWN_BEAD" in environment and ("GASTOWN_AGENT" in environment or "GASTOWN_ROLE" in environment)
            role = AGENT if "GASTOWN_AGENT" in environment else SUPERVISOR
            self._known[key] = (environment["GASTOWN_BEAD"], environment["GASTOWN_EPOCH"], role) if ours else None
        return self._known[key]

    def of(self, bead_id: str, epoch: int, role: str) -> list[Span]:
        return list(self.spans.get((bead_id, str(epoch), role), ()))

    def end(self) -> None:
        self._ended.set()
        self.join()
