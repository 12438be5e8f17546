"""Child processes that cannot outlive the process that started them."""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path

from gastown.embedded import home

LAUNCH = Path(__file__).with_name("launch.py")
INHERITED = Path("-")  # instead of a log


def spawn(
    argv: Sequence[str | Path],
    *,
    log: Path,
    orphan_signal: signal.Signals,
    env: Mapping[str, str],
    cwd: Path,
    prefix: Sequence[str] = (),
    pass_fds: Sequence[int] = (),
) -> subprocess.Popen[bytes]:
    """Start `argv` in a session of its own, its output appended to `log`; `orphan_signal` reaches it when we die.

    With INHERITED as `log`, it writes to where we do.

    `prefix` is a program that changes credentials and executes the rest. Call it from the main thread only: the kernel
    ties the parent-death signal to the thread. Raises OSError.
    """
    launch = [sys.executable, "-I", "-S", str(LAUNCH), str(os.getpid()), str(int(orphan_signal))]
    with nullcontext() if log == INHERITED else home.open_log(log) as output:
        return subprocess.Popen(
            [*prefix, *launch, *map(str, argv)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=dict(env),
            cwd=cwd,
            start_new_session=True,
            pass_fds=tuple(pass_fds),
        )


def end(process: subprocess.Popen[bytes], stop_signal: signal.Signals, *, grace_s: float) -> int:
    """Ask the process to stop, then kill its whole session; its exit code. One that has ended already is a success."""
    if process.poll() is None:
        process.send_signal(stop_signal)
        try:
            return process.wait(grace_s)
        except subprocess.TimeoutExpired:
            kill_session(process)
    return process.wait()


def kill_session(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL the process and whatever is still in its group. `spawn` made it the leader of one."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
