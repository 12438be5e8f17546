"""Why the supervisor's main thread should stop what it is doing, and how it learns of it while it waits.

A handler only notes what came. Where nothing is lost by it (before there is work to save) it also interrupts, so that a
clone of ten minutes does not hold up a stop.
"""

import contextlib
import os
import select
import signal
from collections.abc import Iterator
from types import FrameType


class Interrupted(Exception):
    """The attempt is to stop, or is fenced: `Signals` says which."""


class Signals:
    def __init__(self) -> None:
        self.stop = False  # SIGTERM or SIGINT: save the work, report, end
        self.fenced = False  # superseded: save the work, report nothing
        self.asked: tuple[str, str] | None = None  # the API asked for the stop: its code, and why
        self._interrupting = False
        self._read, self._write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK) if hasattr(os, "pipe2") else _pipe()

    def install(self) -> None:
        """In the main thread. SIGCHLD too: it wakes `wait` when the agent ends."""
        signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGCHLD):
            signal.signal(number, self._note)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    @property
    def ending(self) -> bool:
        return self.stop or self.fenced

    def fence(self) -> None:
        """From any thread."""
        self.fenced = True
        os.kill(os.getpid(), signal.SIGUSR1)

    def ask(self, code: str, reason: str) -> None:
        """From any thread: stop, as the API wants it. The first one counts."""
        if self.asked is None:
            self.asked = (code, reason)
            self.stop = True
            os.kill(os.getpid(), signal.SIGUSR1)

    def wait(self, seconds: float) -> bool:
        """Until something happens, at most so long. True: the attempt is to end."""
        if not self.ending:
            select.select([self._read], [], [], max(0.0, seconds))
            with contextlib.suppress(BlockingIOError):
                os.read(self._read, 4096)
        return self.ending

    @contextlib.contextmanager
    def interrupting(self) -> Iterator[None]:
        """Within this block a stop raises Interrupted, once."""
        self._interrupting = True
        try:
            if self.ending:
                raise Interrupted
            yield
        finally:
            self._interrupting = False

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number in (signal.SIGTERM, signal.SIGINT):
            self.stop = True
        if self.ending and self._interrupting and number != signal.SIGCHLD:
            self._interrupting = False
            raise Interrupted


def _pipe() -> tuple[int, int]:
    read, write = os.pipe()
    os.set_blocking(read, False)
    os.set_blocking(write, False)
    return read, write
