"""The folders that containers write to, and whose they are."""

import os
import re
from pathlib import Path

_BEAD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


def bead_home(home: Path, bead_id: str) -> Path:
    """`home/beads/<bead>`: all attempts on the bead share it. Raises ValueError, for what could lead out of it."""
    if not _BEAD.fullmatch(bead_id):
        raise ValueError(f"{bead_id!r} is no bead's id")
    return home / "beads" / bead_id


def give(folder: Path, ids: tuple[int, int]) -> None:
    """Make the folder, and have it belong to these, with all that is in it. Raises OSError.

    Only root can give it away; another worker's containers run as the worker itself.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.stat().st_uid == ids[0]:
        return
    for path, folders, files in os.walk(folder, topdown=False):
        for name in (*folders, *files):
            os.chown(os.path.join(path, name), *ids, follow_symlinks=False)
    os.chown(folder, *ids)  # last: until then, the next start does it again
