"""What a supervisor writes down of itself: lines on its standard error, and in a file where nobody keeps that one."""

import contextlib
import io
import os
import time
from pathlib import Path

_descriptors = [2]


def keep_in(path: Path) -> None:
    """From now on in this file too. Raises OSError."""
    _descriptors.append(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600))


def note(text: str) -> None:
    """One entry, with the time. Never raises: a full disk must not end an attempt."""
    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    write(f"{stamp} {text.rstrip()}\n")


def write(text: str) -> None:
    data = text.encode(errors="backslashreplace")
    for descriptor in _descriptors:
        with contextlib.suppress(OSError):
            os.write(descriptor, data)


class Stream(io.TextIOBase):
    """In the place of `sys.stderr`, for what Python itself has to say."""

    def write(self, text: str) -> int:
        write(text)
        return len(text)
