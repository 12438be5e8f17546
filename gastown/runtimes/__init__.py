"""Places where attempts live. A runtime knows names, processes and containers; nothing of beads or databases."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from gastown.containers import Container


@dataclass(frozen=True, kw_only=True)
class RunSpec:
    """What a runtime needs to start one attempt. The supervisor fetches everything else from the agent API."""

    name: str  # the dispatch id: starting twice starts one, and an unknown answer can be asked about
    bead_id: str
    epoch: int
    api_url: str  # as reachable from where the attempt runs
    token: str = field(repr=False)  # reaches the supervisor by a pipe, never by argv or environment
    git_token: str = field(default="", repr=False)  # for https remotes; it goes the same way
    rig_id: int = 0  # whose mirror it may read
    reads: tuple[Path, ...] = ()  # what else of this machine: a repository that is a folder
    container: Container = field(default_factory=Container)  # for runtimes that make one


@dataclass(frozen=True)
class Handle:
    """Where an attempt runs, for people and logs."""

    name: str
    pid: int | None = None  # None: it has none on this machine


@dataclass(frozen=True)
class Status:
    """What inspection found. Only `present=False` proves that nothing of the attempt runs any more."""

    present: bool
    exit_code: int | None = None  # None: still running, never started, or nobody saw it end
    oom: bool = False


@dataclass(frozen=True, kw_only=True)
class CommandSpec:
    """One bounded shell command, such as a gate, run where attempts run."""

    command: str
    cwd: Path
    environment: dict[str, str] = field(repr=False)
    timeout_s: float = 1800.0  # DESIGN 3: a gate has 30 minutes
    max_output_bytes: int = 10 * 1024 * 1024  # DESIGN 6; the head and the tail are kept
    container: Container = field(default_factory=Container)  # for runtimes that make one
    writable: tuple[Path, ...] = ()  # besides `cwd`; a runtime that isolates shows it nothing else of the machine
    readable: tuple[Path, ...] = ()


@dataclass(frozen=True)
class CommandResult:
    exit_code: int | None  # None: it was ended because it ran out of time or was stopped
    output: bytes
    duration_s: float
    timed_out: bool = False
    truncated: bool = False

    @property
    def passed(self) -> bool:
        return self.exit_code == 0


class Runtime(Protocol):
    """A place where attempts live. Every call may be repeated safely, and raises only `gastown.errors`."""

    def start(self, spec: RunSpec) -> Handle | None:
        """Start it, or return the handle of the one already started under this name. None: refused.

        Raises StartRefused when it is certain that nothing started (StartMisconfigured: and that nothing will, until a
        person has put something right), RuntimeUnavailable when that is not known.
        """

    def inspect(self, name: str) -> Status:
        """Never raises for one that is gone; that is a status. RuntimeUnavailable when it cannot look."""

    def stop(self, name: str, *, grace_s: float) -> None:
        """Ask nicely, then insist; returns when nothing of it runs. Stopping what is gone is a success."""

    def list_names(self) -> list[str]:
        """The attempts of which anything is left: whatever runs, and what only `stop` removes."""

    def run(self, spec: CommandSpec, *, should_stop: Callable[[], bool] | None = None) -> CommandResult:
        """Run a command to its end in a tree of its own, all of which is gone when this returns.

        `should_stop` is asked several times a second; when it says yes the command is ended, with no exit code.
        """
