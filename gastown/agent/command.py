"""A shell command bounded in time, in output, and in what it leaves behind. Gates and set-up run this way."""

import contextlib
import os
import secrets
import selectors
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from gastown.agent import processes

MARK = "GASTOWN_COMMAND"  # in the environment of the whole tree; a process that opened its own session still has it
POLL_S = 0.1
READ_BYTES = 64 * 1024


class Finished(NamedTuple):
    exit_code: int | None  # None: it was ended because it ran out of time or was told to stop
    output: bytes
    duration_s: float
    timed_out: bool
    truncated: bool


class HeadAndTail:
    """Bytes of which the first and the last half of a limit are kept."""

    def __init__(self, limit_bytes: int) -> None:
        self._half = max(1, limit_bytes // 2)
        self._head, self._tail = bytearray(), bytearray()
        self.total = 0

    def add(self, data: bytes) -> None:
        self.total += len(data)
        room = self._half - len(self._head)
        self._head += data[:room]
        self._tail += data[room:] if room > 0 else data
        if len(self._tail) > 2 * self._half:  # cut rarely: each cut copies the half that stays
            del self._tail[: -self._half]

    @property
    def left_out(self) -> int:
        return self.total - len(self._head) - min(len(self._tail), self._half)

    def value(self) -> bytes:
        tail = bytes(self._tail[-self._half :])
        gap = b"\n[... %d bytes left out ...]\n" % self.left_out if self.left_out else b""
        return bytes(self._head) + gap + tail


def new_mark(owner: str = "") -> str:
    """A value for MARK. It names the process that waits for the command, so that a dead one's commands can be found."""
    return f"{owner}.{os.getpid()}.{processes.birth(os.getpid())}.{secrets.token_hex(6)}"


def end_abandoned(owner: str) -> None:
    """End the commands of this owner whose waiting process died: nobody will read what they say."""

    def abandoned() -> list[int]:
        found = []
        for pid, environment in processes.marked(MARK).items():
            parts = os.fsdecode(environment[os.fsencode(MARK)]).split(".")
            if len(parts) == 4 and parts[0] == owner and parts[1].isdigit():
                waiting = int(parts[1])
                if waiting != os.getpid() and not processes.alive(waiting, parts[2]):
                    found.append(pid)
        return found

    if abandoned():
        processes.end_all(abandoned)


def run_command(
    command: str,
    *,
    cwd: Path,
    environment: Mapping[str, str],
    timeout_s: float,
    max_output_bytes: int,
    owner: str = "",
    should_stop: Callable[[], bool] | None = None,
    on_output: Callable[[bytes], None] | None = None,
    confine: Callable[[], None] | None = None,
) -> Finished:
    """Run `/bin/sh -c command` with standard input closed; nothing of its tree is left when this returns.

    The shell dies with the calling thread; what it started can be found by `owner` then (`end_abandoned`).
    `confine` is called between fork and exec.
    Raises OSError when it cannot be started, for instance because `cwd` is not there.
    """
    mark = new_mark(owner)
    kept = HeadAndTail(max_output_bytes)
    started = time.monotonic()
    me = os.getpid()
    child = subprocess.Popen(
        ["/bin/sh", "-c", command],
        cwd=cwd,
        env={**environment, MARK: mark},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        preexec_fn=lambda: processes.die_with(me, confine),
    )
    assert child.stdout is not None
    pipe = child.stdout.fileno()
    os.set_blocking(pipe, False)

    def keep(data: bytes) -> None:
        kept.add(data)
        if on_output is not None:
            on_output(data)

    timed_out = False
    try:
        ended = _read_until_ended(child, pipe, keep, started + timeout_s, should_stop)
        timed_out = not ended and time.monotonic() >= started + timeout_s
    finally:
        _end_tree(child, mark)
        with contextlib.suppress(BlockingIOError):
            while data := os.read(pipe, READ_BYTES):
                keep(data)
        child.stdout.close()
    exit_code = child.returncode if ended else None
    return Finished(exit_code, kept.value(), time.monotonic() - started, timed_out, kept.left_out > 0)


def _read_until_ended(
    child: subprocess.Popen[bytes],
    pipe: int,
    keep: Callable[[bytes], None],
    deadline: float,
    should_stop: Callable[[], bool] | None,
) -> bool:
    """True: it ended by itself. Its output may stay open after that, in the hands of a process it left behind."""
    next_ask = 0.0
    with selectors.DefaultSelector() as selector:
        selector.register(pipe, selectors.EVENT_READ)
        while child.poll() is None:
            now = time.monotonic()
            if now >= deadline:
                return False
            if should_stop is not None and now >= next_ask:
                next_ask = now + POLL_S
                if should_stop():
                    return False
            if not selector.get_map():  # it closed its output and goes on
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.wait(timeout=min(POLL_S, deadline - now))
            elif selector.select(timeout=min(POLL_S, deadline - now)):
                data = os.read(pipe, READ_BYTES)
                if data:
                    keep(data)
                else:
                    selector.unregister(pipe)
    return True


def _end_tree(child: subprocess.Popen[bytes], mark: str) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)
    processes.end_all(lambda: processes.marked(MARK, mark))
    child.wait()
