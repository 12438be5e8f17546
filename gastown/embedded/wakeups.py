"""Sleeping until something happens: a signal, or the death of a child, which is one as well."""

import os
import select
import signal
from contextlib import suppress
from types import FrameType, TracebackType
from typing import Any, Self

STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)


class Wakeups:
    """While entered, notes the signals that ask to stop in `asked`, in their order, instead of dying of them."""

    def __init__(self) -> None:
        self.asked: list[int] = []
        self._before: dict[int, Any] = {}
        self._read, self._write = os.pipe()
        self._previous = -1

    def __enter__(self) -> Self:
        for end in (self._read, self._write):
            os.set_blocking(end, False)
        heard = [number for number in STOPS if signal.getsignal(number) is not signal.SIG_IGN]  # nohup means it
        self._before = {number: signal.signal(number, self._note) for number in heard}
        self._before[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, lambda number, frame: None)
        self._previous = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        signal.set_wakeup_fd(self._previous)
        for number, old in self._before.items():
            signal.signal(number, old)
        os.close(self._read)
        os.close(self._write)

    def rest(self, longest_s: float) -> None:
        """Sleep until the next signal, or for `longest_s`."""
        select.select([self._read], [], [], max(0.0, longest_s))
        with suppress(BlockingIOError):
            os.read(self._read, 4096)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.asked.append(number)
