"""What a stack says about itself: home/run/stack.json, written by its supervisor, read by anybody."""

import json
import os
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path

from gastown.agent import processes
from gastown.errors import GastownError, StackUnavailable


class StackState(StrEnum):
    DOWN = "down"
    STARTING = "starting"
    UP = "up"
    DEGRADED = "degraded"  # a child is being restarted
    STOPPING = "stopping"


class ChildState(StrEnum):
    STARTING = "starting"
    READY = "ready"
    RESTARTING = "restarting"
    FAILING = "failing"  # it keeps dying; still restarted, at growing intervals
    STOPPED = "stopped"


@dataclass(frozen=True, kw_only=True)
class ChildStatus:
    name: str
    state: ChildState
    pid: int | None
    born: str | None  # tells this process from a later one with the same pid
    stop_signal: int
    since: str
    restarts: int = 0
    reason: str = ""  # why it ended last: exit code and its last words


@dataclass(frozen=True, kw_only=True)
class StackStatus:
    """`reason`, `hint` and `exit_code` say why the last start failed or the last stack ended."""

    state: StackState = StackState.DOWN
    pid: int | None = None
    born: str | None = None
    since: str = ""
    url: str = ""
    app: str = ""
    children: tuple[ChildStatus, ...] = field(default=())
    reason: str = ""
    hint: str = ""
    exit_code: int = 0

    @property
    def alive(self) -> bool:
        """Whether the supervisor that wrote this still runs."""
        return self.pid is not None and self.born is not None and processes.alive(self.pid, self.born)

    @property
    def failure(self) -> GastownError:
        """The error that ended the last start."""
        error = StackUnavailable(self.reason or "the stack ended without a word", hint=self.hint)
        error.exit_code = self.exit_code or error.exit_code
        return error

    @property
    def is_up(self) -> bool:
        return self.state in (StackState.UP, StackState.DEGRADED)


def path(home: Path) -> Path:
    return home / "run" / "stack.json"


def write(home: Path, status: StackStatus) -> None:
    """All of it or nothing. Raises OSError."""
    temporary = path(home).with_suffix(f".{os.getpid()}")
    temporary.write_text(json.dumps(asdict(status), indent=2))
    temporary.replace(path(home))


def read_file(home: Path) -> StackStatus:
    """What was written last, true or not. Nothing readable is a stack that was never started."""
    try:
        data = json.loads(path(home).read_text())
        children = tuple(
            ChildStatus(**(child | {"state": ChildState(child["state"])})) for child in data.pop("children")
        )
        return StackStatus(**(data | {"state": StackState(data["state"])}), children=children)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return StackStatus()


def read(home: Path) -> StackStatus:
    """What is. A file whose supervisor is gone says so: the stack was killed."""
    status = read_file(home)
    if status.state is StackState.DOWN or status.alive:
        return status
    return replace(
        status,
        state=StackState.DOWN,
        reason=f"its supervisor (pid {status.pid}) was killed",
        hint="gastown up: nothing is lost",
        children=(),
    )


def timestamp() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def problem(line: str, otherwise: str) -> GastownError:
    """The error that a child printed as JSON (see `prepare`); `otherwise` when the line is something else."""
    try:
        told = json.loads(line)
        error = StackUnavailable(told["message"], hint=told["hint"])
        error.exit_code = told["exit_code"]
    except (ValueError, KeyError, TypeError):
        return StackUnavailable(f"{otherwise}: {line}" if line else otherwise)
    return error
