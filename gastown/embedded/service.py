"""One child of the stack: how it starts, stops and is judged, and what has happened to it."""

import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gastown.agent import processes
from gastown.embedded import children, home
from gastown.embedded.status import ChildState, ChildStatus, timestamp

QUICK_DEATH_S = 10.0  # one that lived longer was well: restart it at once
RESTART_S = (1.0, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0)  # from one start to the next, by quick deaths in a row
FAILING_AFTER = 5  # quick deaths in a row
INHERITED = children.INHERITED  # as `log`: the child writes to where we do


@dataclass(kw_only=True)
class Service:
    name: str
    argv: Sequence[str]
    log: Path
    cwd: Path
    env: Mapping[str, str]
    stop_signal: signal.Signals = signal.SIGTERM
    orphan_signal: signal.Signals | None = None  # when the supervisor is killed; by default, the stop signal
    grace_s: float = 10.0
    prefix: Sequence[str] = ()
    pass_fds: Sequence[int] = ()
    before: Callable[[int], None] = lambda quick_deaths: None  # just before each start
    is_ready: Callable[[int], bool] = lambda pid: True

    process: subprocess.Popen[bytes] | None = field(default=None, init=False)
    state: ChildState = field(default=ChildState.STOPPED, init=False)
    since: str = field(default_factory=timestamp, init=False)
    reason: str = field(default="", init=False)
    starts: int = field(default=0, init=False)
    quick_deaths: int = field(default=0, init=False)
    started_at: float = field(default=0.0, init=False)  # monotonic
    exit_code: int | None = field(default=None, init=False)  # of the last process that ended
    _born: str | None = field(default=None, init=False)
    _asked: bool = field(default=False, init=False)  # to stop, so that its end is no death

    @property
    def ended(self) -> bool:
        self.look()
        return self.process is None

    @property
    def next_start_at(self) -> float:
        """When it may be started again (monotonic)."""
        return self.started_at + RESTART_S[min(self.quick_deaths, len(RESTART_S) - 1)]

    def start(self) -> None:
        """Raises OSError when it cannot even be executed."""
        home.bound_log(self.log)
        self.before(self.quick_deaths)
        self.started_at = time.monotonic()
        self.starts += 1
        self.process = children.spawn(
            self.argv,
            log=self.log,
            orphan_signal=self.orphan_signal or self.stop_signal,
            env=self.env,
            cwd=self.cwd,
            prefix=self.prefix,
            pass_fds=self.pass_fds,
        )
        self._born = processes.birth(self.process.pid)
        self._enter(ChildState.STARTING)

    def try_start(self) -> None:
        """Start it again; a failure to do so (no memory, no disk) counts as a quick death."""
        try:
            self.start()
        except OSError as error:
            self.quick_deaths += 1
            self.reason = f"cannot be started: {error}"
            self._enter(ChildState.FAILING)

    def look(self) -> bool:
        """Bring the state up to date. True: it has changed."""
        before = self.state
        if self.process is None:
            return False
        code = self.process.poll()
        if code is not None:
            self._died(code)
        elif self.state is ChildState.STARTING and self.is_ready(self.process.pid):
            self._enter(ChildState.READY)
        return self.state is not before

    def ask_to_stop(self) -> None:
        self._asked = True
        if self.process is None:
            self._enter(ChildState.STOPPED)  # one that waits for its restart is not to be started any more
        elif self.process.poll() is None:
            self.process.send_signal(self.stop_signal)

    def end(self, *, grace_s: float | None = None) -> None:
        """Stop it, kindly and then not. One that is not there is a success."""
        self._asked = True
        if self.process is not None:
            self.exit_code = children.end(
                self.process, self.stop_signal, grace_s=self.grace_s if grace_s is None else grace_s
            )
            self.process = None
        self._enter(ChildState.STOPPED)

    def status(self) -> ChildStatus:
        return ChildStatus(
            name=self.name,
            state=self.state,
            pid=self.process.pid if self.process else None,
            born=self._born if self.process else None,
            stop_signal=int(self.stop_signal),
            since=self.since,
            restarts=max(0, self.starts - 1),
            reason=self.reason,
        )

    def _died(self, code: int) -> None:
        self.process, self.exit_code = None, code
        if self._asked:
            self._enter(ChildState.STOPPED)
            return
        quick = time.monotonic() - self.started_at < QUICK_DEATH_S
        self.quick_deaths = self.quick_deaths + 1 if quick else 0
        ended = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exited with {code}"
        words = home.last_line(self.log)
        self.reason = f"{ended}: {words}" if words and code > 0 else ended
        self._enter(ChildState.FAILING if self.quick_deaths >= FAILING_AFTER else ChildState.RESTARTING)

    def _enter(self, state: ChildState) -> None:
        self.state, self.since = state, timestamp()
