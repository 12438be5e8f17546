"""Start, stop and ask about the stack of a home, from any process. What `gastown up`, `run`, the demo and tests use."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from gastown.agent import processes
from gastown.embedded import home, leftovers, port, services, status
from gastown.embedded.status import StackState, StackStatus
from gastown.errors import GastownError, StackUnavailable
from gastown.settings import Settings

START_TIMEOUT_S = 900.0  # a long migration; everything else has its own, shorter deadline in the supervisor
STOP_TIMEOUT_S = 150.0  # drain 60 s, then every child's own grace
POLL_S = 0.05
DOUBT_S = 3.0  # an API that is being restarted is silent for as long


def read_status(settings: Settings) -> StackStatus:
    """Never raises; a stack that was never started, or was killed, is down."""
    return status.read(settings.home)


def is_up(settings: Settings) -> bool:
    return read_status(settings).is_up


def start_detached(
    settings: Settings,
    *,
    app: str = services.APP,
    env: dict[str, str] | None = None,
    progress: Callable[[StackStatus], None] = lambda now: None,
) -> bool:
    """Have a stack that is up, started by this call (True) or found running or starting (False).

    `app` is the Celery application's module, `env` goes to every child besides our own environment. Raises UsageError
    and StackUnavailable with the reason; then nothing is left running.
    """
    if _is_really_up(settings):
        return False
    home.prepare(settings)
    log = home.log_file(settings.home, "supervisor")
    home.bound_log(log)
    pid = _spawn(settings, log, app, services.environment(settings, env or {}))
    born = processes.birth(pid) or ""
    try:
        return _await_up(settings, pid, born, progress)
    except KeyboardInterrupt:
        processes.send(pid, signal.SIGTERM)  # it is in a session of its own, so Ctrl-C did not reach it
        while processes.alive(pid, born):
            time.sleep(POLL_S)
        raise


def _await_up(settings: Settings, pid: int, born: str, progress: Callable[[StackStatus], None]) -> bool:
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        now = read_status(settings)
        progress(now)
        if now.is_up:
            return now.pid == pid
        if not processes.alive(pid, born) and not now.alive:
            raise _why(settings, pid)
        if time.monotonic() > deadline:
            processes.send(pid, signal.SIGUSR1)
            log = home.log_file(settings.home, "supervisor")
            raise StackUnavailable(f"the stack is not up after {START_TIMEOUT_S:.0f} s", hint=f"see {log}")
        time.sleep(POLL_S)


def stop(
    settings: Settings, *, leave_agents: bool = False, progress: Callable[[StackStatus], None] = lambda now: None
) -> bool:
    """Stop the stack, after a drain of the running attempts unless `leave_agents`; return when all of it is gone.

    False: it was not up. Raises StackUnavailable when it does not end in time.
    """
    now = status.read_file(settings.home)
    if not now.alive or now.pid is None or now.born is None:
        return leftovers.end_children(settings.home, 0) > 0
    if now.state is not StackState.STOPPING:  # a second signal would hurry it
        processes.send(now.pid, signal.SIGUSR1 if leave_agents else signal.SIGTERM)
    deadline = time.monotonic() + STOP_TIMEOUT_S
    while processes.alive(now.pid, now.born):
        if time.monotonic() > deadline:
            raise StackUnavailable(
                f"the stack (pid {now.pid}) has not ended after {STOP_TIMEOUT_S:.0f} s",
                hint=f"see {settings.home}/log; kill -9 {now.pid} ends it, and loses nothing",
            )
        progress(read_status(settings))
        time.sleep(POLL_S)
    return True


def _is_really_up(settings: Settings) -> bool:
    """Whether it is up, and not just being killed: then the API is silent, and the supervisor is gone in a moment."""
    deadline = time.monotonic() + DOUBT_S
    while is_up(settings):
        if port.answers(settings) or time.monotonic() > deadline:
            return True
        time.sleep(POLL_S)
    return False


def _spawn(settings: Settings, log: Path, app: str, env: dict[str, str]) -> int:
    """A supervisor that is nobody's child, so that whoever starts it may end first or stay; its pid."""
    argv = [sys.executable, "-P", "-m", "gastown.embedded.supervisor", "--detach", "--app", app]
    cwd = settings.home / "run"
    with home.open_log(log) as output:
        told = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=output, env=env, cwd=cwd)
    if told.returncode:
        raise StackUnavailable(f"the stack did not start: {home.last_line(log)}", hint=f"see {log}")
    return int(told.stdout)


def _why(settings: Settings, pid: int) -> GastownError:
    last = status.read_file(settings.home)
    if last.pid == pid and last.reason:
        return last.failure
    words = home.last_line(home.log_file(settings.home, "supervisor"))
    return StackUnavailable(f"the stack did not start: {words}", hint=f"see {settings.home}/log/supervisor.log")
