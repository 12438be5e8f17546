"""Lock files of git whose maker is dead. Git never takes one away by itself, however old it is."""

import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

from gastown.agent import processes

QUIET_S = 10.0  # a lock that is younger may be that of a program that keeps no file open and is not called git
_WAIT_S, _POLL_S = 30.0, 0.02
_LOCK = re.compile(r"Unable to create '(.+\.lock)': File exists")


def named_in(output: str, directory: Path) -> Path | None:
    """The lock file below `directory` that git says is in its way; it may name it relative to there."""
    found = _LOCK.search(output)
    if not found:
        return None
    lock = Path(os.path.normpath(directory / found[1]))
    return lock if lock.is_relative_to(directory) else None


def remove_own(lock: Path, mark: str, value: str) -> bool:
    """A lock in a place where every git is ours, and carries this mark. True: it is gone, so try again.

    Its maker is among those who live now; when all of these have ended, and it is still the same file, it is nobody's.
    """
    first = _identity(lock)
    holders = {pid: processes.birth(pid) for pid in processes.marked(mark, value)}
    deadline = time.monotonic() + _WAIT_S
    while _identity(lock) == first and first is not None:
        if not any(born is not None and processes.alive(pid, born) for pid, born in holders.items()):
            lock.unlink(missing_ok=True)
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_S)
    return True


def remove_abandoned(lock: Path, repository: Path) -> bool:
    """A lock in somebody's own checkout: only when it is old and no git that could have made it is to be seen there."""
    if not processes.LINUX:
        return False  # nobody says what a process has open
    identity = _identity(lock)
    try:
        if identity is None or time.time() - lock.stat().st_mtime < QUIET_S:
            return False
    except FileNotFoundError:
        return True
    if any(_is_at(pid, lock, repository.resolve()) for pid in _pids()) or _identity(lock) != identity:
        return False
    lock.unlink(missing_ok=True)
    return True


def _identity(lock: Path) -> tuple[int, int] | None:
    try:
        found = lock.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_mtime_ns


def _pids() -> Iterator[int]:
    return (int(name) for name in os.listdir("/proc") if name.isdigit() and int(name) != os.getpid())


def _is_at(pid: int, lock: Path, repository: Path) -> bool:
    """Whether this process has the lock open, or is a git at work in the repository; also when it does not say."""
    try:
        name = Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return False  # it ended
    is_git = name.startswith("git")
    try:
        here = os.readlink(f"/proc/{pid}/cwd")
        opened = [_target(entry.path) for entry in os.scandir(f"/proc/{pid}/fd")]
    except PermissionError:
        return is_git
    except OSError:
        return False
    return str(lock.resolve()) in opened or (is_git and Path(here).is_relative_to(repository))


def _target(link: str) -> str:
    try:
        return os.readlink(link)
    except FileNotFoundError:
        return ""  # closed meanwhile
