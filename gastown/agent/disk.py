"""How much an attempt's home holds, looked at now and then beside the work: no quota has to be set up for it."""

import os
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from gastown.agent.failures import Failed

LOOK_EVERY_S = 30.0
MB = 1024 * 1024
FULL_BELOW_MB = 1
NAMED = 3  # of what takes most


class DiskWatch(threading.Thread):
    """Looks as long as its process lives, or until there is too much: then it says so once."""

    def __init__(self, home: Path, limit_mb: int, on_full: Callable[[str], None]) -> None:
        super().__init__(name="disk", daemon=True)
        self._home, self._limit_mb, self._on_full = home, limit_mb, on_full

    def run(self) -> None:
        while True:
            time.sleep(LOOK_EVERY_S)
            sizes = measure(self._home)
            if sizes.total() > self._limit_mb * MB:
                self._on_full(_words(self._home, self._limit_mb, sizes))
                return


def blamed(error: Failed, home: Path) -> Failed:
    """What the agent or the set-up could not do on a full disk is no fault of theirs, and counts against nobody."""
    if error.code not in ("agent_failed", "setup_failed"):
        return error
    try:
        found = os.statvfs(home)
    except OSError:
        return error
    no_inodes = found.f_files > 0 and found.f_favail == 0  # some file systems count none
    if found.f_bavail * found.f_frsize >= FULL_BELOW_MB * MB and not no_inodes:
        return error
    words = f"the disk of {home} is full, so the node needs room there before this can work: {error}"
    return Failed("workspace_failed", words, error.exit_code)


def measure(home: Path) -> Counter[str]:
    """The bytes that each part of a home takes on the disk; parts are named by their first two folders.

    It follows no link, and what has several names counts once. What vanishes meanwhile counts nothing.
    """
    sizes: Counter[str] = Counter()
    seen: set[tuple[int, int]] = set()
    folders = [("", os.fspath(home))]
    while folders:
        part, folder = folders.pop()
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    found = entry.stat(follow_symlinks=False)
                    if found.st_nlink > 1 and not entry.is_dir(follow_symlinks=False):
                        if (found.st_dev, found.st_ino) in seen:
                            continue
                        seen.add((found.st_dev, found.st_ino))
                    within = part if "/" in part else f"{part}/{entry.name}" if part else entry.name
                    sizes[within] += found.st_blocks * 512
                    if entry.is_dir(follow_symlinks=False):
                        folders.append((within, entry.path))
        except OSError:
            continue
    return sizes


def _words(home: Path, limit_mb: int, sizes: Counter[str]) -> str:
    most = ", ".join(f"{part} {size // MB} MB" for part, size in sizes.most_common(NAMED))
    holds = f"{home} holds {sizes.total() // MB} MB, and may hold {limit_mb} MB (disk_mb of the rig's container)"
    return f"the attempt was ended: {holds}. Most of it: {most}"
