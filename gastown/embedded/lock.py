"""One stack per home. The lock is inherited by every process of the stack, so it is free when the last of them is gone.

That matters: Redis does not guard its data directory, and one that is still ending unlinks the socket of the next.
"""

import fcntl
import os
import time
from collections.abc import Callable
from pathlib import Path

import psutil

POLL_S = 0.05


def acquire(home: Path, *, timeout_s: float, keep_waiting: Callable[[], bool] = lambda: True) -> int | None:
    """The file descriptor that holds the lock, to be passed on to children. None: somebody else held it all the time.

    Stops waiting early when `keep_waiting` says so. Raises OSError.
    """
    descriptor = os.open(home / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return descriptor
        except BlockingIOError:
            if time.monotonic() >= deadline or not keep_waiting():
                os.close(descriptor)
                return None
        time.sleep(POLL_S)


def holders(home: Path) -> list[str]:
    """Who has the lock open, as `name (pid N)`, as far as we may see. For messages."""
    path, found = str(home / "lock"), []
    for process in psutil.process_iter(["pid", "name"]):
        try:
            if process.pid != os.getpid() and any(file.path == path for file in process.open_files()):
                found.append(f"{process.info['name']} (pid {process.pid})")
        except psutil.Error:
            continue
    return found
