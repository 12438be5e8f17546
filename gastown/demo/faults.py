"""Faults on order, in front of a real runtime. The demo and the tests put files into a folder; each file is one fault.

The name of a file is `<bead>.<epoch>`, its text the fault: one of those below, for some with a number of seconds.
A fault strikes once: whoever takes the file away has it.
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


class FaultyRuntime:
    """A runtime whose starts fail as ordered; everything else goes through."""

    def __init__(self, real: Runtime, folder: Path) -> None:
        self.real, self.folder = real, folder

    def start(self, spec: RunSpec) -> Handle | None:
        fault, _, seconds = self._take(spec).partition(" ")
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
                return self.real.start(spec) if self._sleep(spec, float(seconds)) else None
            case "late":
                threading.Timer(float(seconds), self.real.start, [spec]).start()
                raise RuntimeUnavailable("scripted: no answer, and it starts later")
            case "kill_child":
                os.kill(os.getpid(), signal.SIGKILL)
            case "kill_worker":
                os.kill(os.getppid(), signal.SIGKILL)
                time.sleep(60)
        raise ValueError(f"there is no fault {fault!r}")

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
        return self.real.inspect(name)

    def stop(self, name: str, *, grace_s: float) -> None:
        self.real.stop(name, grace_s=grace_s)

    def list_names(self) -> list[str]:
        return self.real.list_names()

    def run(self, spec: CommandSpec, *, should_stop: Callable[[], bool] | None = None) -> CommandResult:
        return self.real.run(spec, should_stop=should_stop)


def order(folder: Path, bead_id: str, epoch: int, fault: str) -> None:
    """Have this start fail in this way. To be called before the bead's transaction commits."""
    (folder / f"{bead_id}.{epoch}").write_text(fault)


def struck_at(folder: Path, bead_id: str, epoch: int) -> datetime | None:
    """When the fault of this start struck. None: it has not yet."""
    try:
        seconds = _taken(folder, bead_id, epoch).stat().st_mtime
    except FileNotFoundError:
        return None
    return datetime.fromtimestamp(seconds, UTC)


def call_off(folder: Path) -> None:
    """No more faults, and a start that is slow ends at once."""
    for order in folder.glob("*"):
        order.unlink(missing_ok=True)


def _taken(folder: Path, bead_id: str, epoch: int) -> Path:
    return folder / f"{bead_id}.{epoch}{TAKEN}"
