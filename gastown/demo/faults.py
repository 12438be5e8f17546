"""Faults on order, in front of a real runtime. The demo and the tests put files into a folder; each file is one fault.

The name of a file is `<bead>.<epoch>`, its text the fault: one of those below, for some with a number of seconds.
A fault strikes once: whoever takes the file away has it.

`script ANSWER STARTED [held]` is any answer of a start (accept, refuse, raise, lose) with any truth behind it (yes, no,
late). What is held, or late, waits for a mark: a file `<bead>.<epoch>.answer`, or `.start`, which the test makes when
the moment has come. A file `<bead>.<epoch>.message` is a fault of the broker: what it does to the start's first
message (never, twice).
"""

import os
import signal
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from gastown.errors import RuntimeUnavailable
from gastown.runtimes import CommandResult, CommandSpec, Handle, RunSpec, Runtime, Status

FOLDER = "GASTOWN_FAULTS"
TAKEN = ".taken"
ANSWER, START, ANSWERED, STOPPED, MESSAGE = "answer", "start", "answered", "stopped", "message"
MARK_TIMEOUT_S = 50.0  # for a mark to be made: less than the soft time limit of a start, 60 s
COPIES = {"never": 0, "twice": 2}
NO_PID = 2**22 + 1  # above the largest that Linux gives: the pid of a process that was never there


class FaultyRuntime:
    """A runtime whose starts fail as ordered; everything else goes through."""

    def __init__(self, real: Runtime, folder: Path) -> None:
        self.real, self.folder = real, folder
        self._deaf: set[str] = set()  # starts whose answer was lost, and the next question with it
        self._played: dict[str, RunSpec] = {}

    def start(self, spec: RunSpec) -> Handle | None:
        fault, _, rest = self._take(spec).partition(" ")
        match fault:
            case "":
                return self.real.start(spec)
            case "refuse":
                return None
            case "raise":
                raise OSError("scripted: the start raises, and nothing started")
            case "raise_late":
                self.real.start(spec)
                raise OSError("scripted: the start raises, and it had started")
            case "answer_lost":
                self.real.start(spec)
                raise RuntimeUnavailable("scripted: the answer is lost, and it had started")
            case "no_answer":
                raise RuntimeUnavailable("scripted: no answer, and nothing started")
            case "slow":
                return self.real.start(spec) if self._sleep(spec, float(rest)) else None
            case "late":
                threading.Timer(float(rest), self.real.start, [spec]).start()
                raise RuntimeUnavailable("scripted: no answer, and it starts later")
            case "script":
                return self._play(spec, *rest.split())
            case "kill_child":
                os.kill(os.getpid(), signal.SIGKILL)
            case "kill_worker":
                os.kill(os.getppid(), signal.SIGKILL)
                time.sleep(60)
        raise ValueError(f"there is no fault {fault!r}")

    def _play(self, spec: RunSpec, answer: str, started: str, held: str = "") -> Handle | None:
        """A start that says one thing and does another, or says it late."""
        self._played[spec.name] = spec
        handle = self.real.start(spec) if started == "yes" else None
        if held:
            self._await(spec, ANSWER)
        if started == "late":
            threading.Thread(target=self._start_late, args=[spec], daemon=True).start()
        mark(self.folder, spec.bead_id, spec.epoch, ANSWERED)
        match answer:
            case "accept":
                return handle or Handle(spec.name, NO_PID)
            case "refuse":
                return None
            case "raise":
                raise OSError("scripted: the start raises")
            case "lose":
                self._deaf.add(spec.name)
                raise RuntimeUnavailable("scripted: the answer is lost")
        raise ValueError(f"there is no answer {answer!r}")

    def _start_late(self, spec: RunSpec) -> None:
        if self._await(spec, START):
            self.real.start(spec)

    def _await(self, spec: RunSpec, name: str) -> bool:
        """False: the mark was never made, or the fault was called off."""
        deadline = time.monotonic() + MARK_TIMEOUT_S
        while struck_at(self.folder, spec.bead_id, spec.epoch) and time.monotonic() < deadline:
            if marked_at(self.folder, spec.bead_id, spec.epoch, name):
                return True
            time.sleep(0.02)
        return False

    def _take(self, spec: RunSpec) -> str:
        order = self.folder / f"{spec.bead_id}.{spec.epoch}"
        taken = _taken(self.folder, spec.bead_id, spec.epoch)
        try:
            order.rename(taken)
        except FileNotFoundError:
            return ""
        taken.touch()
        return taken.read_text().strip()

    def _sleep(self, spec: RunSpec, seconds: float) -> bool:
        """False: the fault was called off meanwhile."""
        taken, deadline = _taken(self.folder, spec.bead_id, spec.epoch), time.monotonic() + seconds
        while taken.exists() and time.monotonic() < deadline:
            time.sleep(min(0.1, seconds))
        return taken.exists()

    def inspect(self, name: str) -> Status:
        if name in self._deaf:
            self._deaf.remove(name)
            raise RuntimeUnavailable("scripted: the runtime cannot be asked either")
        return self.real.inspect(name)

    def stop(self, name: str, *, grace_s: float) -> None:
        self.real.stop(name, grace_s=grace_s)
        if spec := self._played.get(name):
            mark(self.folder, spec.bead_id, spec.epoch, STOPPED)

    def list_names(self) -> list[str]:
        return self.real.list_names()

    def run(self, spec: CommandSpec, *, should_stop: Callable[[], bool] | None = None) -> CommandResult:
        return self.real.run(spec, should_stop=should_stop)


def order(folder: Path, bead_id: str, epoch: int, fault: str) -> None:
    """Have this start fail in this way. To be called before the bead's transaction commits."""
    (folder / f"{bead_id}.{epoch}").write_text(fault)


def order_message(folder: Path, bead_id: str, epoch: int, fate: str) -> None:
    """Have the broker lose this start's first message, or deliver it twice. Before the bead's transaction commits."""
    (folder / f"{bead_id}.{epoch}.{MESSAGE}").write_text(fate)


def any_message(folder: Path) -> bool:
    """Whether any start's message is still to be tampered with."""
    return any(folder.glob(f"*.{MESSAGE}"))


def copies_of_message(folder: Path, bead_id: str, epoch: int) -> int:
    """How often the broker delivers the message that is being sent: once, unless something else was ordered."""
    ordered = folder / f"{bead_id}.{epoch}.{MESSAGE}"
    taken = ordered.with_name(ordered.name + TAKEN)
    try:
        ordered.rename(taken)
    except FileNotFoundError:
        return 1
    return COPIES[taken.read_text()]


def mark(folder: Path, bead_id: str, epoch: int, name: str) -> None:
    (folder / f"{bead_id}.{epoch}.{name}").touch()


def marked_at(folder: Path, bead_id: str, epoch: int, name: str) -> datetime | None:
    """When this mark was made. None: it was not yet."""
    return _time_of(folder / f"{bead_id}.{epoch}.{name}")


def struck_at(folder: Path, bead_id: str, epoch: int) -> datetime | None:
    """When the fault of this start struck. None: it has not yet."""
    return _time_of(_taken(folder, bead_id, epoch))


def call_off(folder: Path) -> None:
    """No more faults, and a start that is slow ends at once."""
    for order in folder.glob("*"):
        order.unlink(missing_ok=True)


def _taken(folder: Path, bead_id: str, epoch: int) -> Path:
    return folder / f"{bead_id}.{epoch}{TAKEN}"


def _time_of(path: Path) -> datetime | None:
    try:
        return datetime.fromtimestamp(path.stat().st_mtime, UTC)
    except FileNotFoundError:
        return None
