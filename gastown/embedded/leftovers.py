"""What a killed supervisor may leave for a moment: children that are still ending, and with them the lock."""

import os
import signal
from pathlib import Path

from gastown.agent import processes
from gastown.embedded import lock, status
from gastown.embedded.status import StackState

STOPPING_S = 130.0  # a stack that is being stopped: its drain, then its servers
BY_THEMSELVES_S = 4.0  # the kernel has told them already; an idle Celery worker takes 2 s
ASKED_S = 10.0
KILLED_S = 5.0


def take_lock(home: Path) -> int | None:
    """The lock of the home, once the leftovers of a killed stack have ended. None: a stack runs or starts there."""
    free = lock.acquire(home, timeout_s=0)
    if free is not None:
        return free
    before = status.read_file(home)
    if before.alive:
        return lock.acquire(home, timeout_s=STOPPING_S if before.state in (StackState.STOPPING, StackState.DOWN) else 0)
    for number, wait_s in ((None, BY_THEMSELVES_S), (0, ASKED_S), (signal.SIGKILL, KILLED_S)):
        if number is not None:
            end_children(home, number)
        free = lock.acquire(home, timeout_s=wait_s, keep_waiting=lambda: not status.read_file(home).alive)
        if free is not None or status.read_file(home).alive:
            return free
    return None


def end_children(home: Path, number: int) -> int:
    """Signal the living children of a dead supervisor, each with its own stop signal if `number` is 0; how many."""
    found = status.read_file(home)
    if found.alive:
        return 0
    count = 0
    for child in found.children:
        if child.pid is not None and child.born is not None and processes.alive(child.pid, child.born):
            count += 1
            try:
                if number == signal.SIGKILL:
                    os.killpg(child.pid, number)
                else:
                    processes.send(child.pid, number or child.stop_signal)
            except (ProcessLookupError, PermissionError):
                continue
    return count
