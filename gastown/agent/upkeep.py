"""Few packs and few files in a mirror, and in the end the disk back; and no commit that anybody still needs is lost.

Everyday repacking is geometric: it takes what is in the packs and files that it joins, whether or not a ref reaches it.
Only `prune` leaves objects out: those that no ref has reached for KEEP_DAYS since housekeeping first saw that. Git
itself counts from when an object was written: it would drop old history the moment that a remote rewrites its branch.
"""

import os
import time
from pathlib import Path

from gastown.agent.git import git
from gastown.agent.mirror import MARK, Mirror

LOOSE_OBJECTS, PACKS, LOOSE_REFS = 2000, 30, 500  # above these, git gets slow
KEEP_DAYS = 30.0
PRUNE_EVERY_DAYS = 7.0
DAY_S = 86_400
TIMEOUT_S = 90.0
LATE = "gastown-late"


def tend(mirror: Mirror) -> list[str]:
    """Pack what exceeds the bounds; what was done. Raises GitError. Safe beside anything else that uses the mirror."""
    done = []
    if _count(mirror.path / "refs", LOOSE_REFS) > LOOSE_REFS:
        _git(mirror, "pack-refs", "--all")
        done.append("refs")
    loose, packs = counts(mirror)
    if loose > LOOSE_OBJECTS or packs > PACKS:
        repack(mirror)
        done.append("objects")
    return done


def counts(mirror: Mirror) -> tuple[int, int]:
    """(loose objects, packs)"""
    listed = dict(line.split(": ", 1) for line in _git(mirror, "count-objects", "-v").splitlines())
    return int(listed["count"]), int(listed["packs"])


def repack(mirror: Mirror) -> None:
    """Join small packs and loose objects, whether or not anything refers to them: their cost, not the mirror's size."""
    _git(mirror, "repack", "--geometric=2", "-d", "--quiet", "--no-write-bitmap-index")


def note_dropped(mirror: Mirror) -> None:
    """Refs were dropped, so there may be something to prune one day."""
    (mirror.path / "gastown-dropped").touch()


def note_late(mirror: Mirror, bead_id: str) -> None:
    """Work of this bead was seen here only when its time was over, as when the node was away. It is kept from now on
    for as long as any other. Nothing, when that is known already."""
    mark = mirror.path / LATE / bead_id
    mark.parent.mkdir(exist_ok=True)
    if not mark.exists():
        mark.touch()


def is_late(mirror: Mirror, bead_id: str, keep_days: float) -> bool:
    """Whether what was seen late is kept still."""
    try:
        seen_at = (mirror.path / LATE / bead_id).stat().st_mtime
    except FileNotFoundError:
        return False
    return time.time() - seen_at < keep_days * DAY_S


def forget_late(mirror: Mirror, keep_days: float) -> None:
    """Of what was dropped by now."""
    for mark in (mirror.path / LATE).glob("*"):
        if not is_late(mirror, mark.name, keep_days):
            mark.unlink(missing_ok=True)


def is_due(mirror: Mirror, home: Path) -> bool:
    """Whether to prune: there may be something, the last time is a while ago, and no old clone borrows from here."""
    dropped, pruned = mirror.path / "gastown-dropped", mirror.path / "gastown-pruned"
    if not dropped.exists() or (pruned.exists() and time.time() - pruned.stat().st_mtime < PRUNE_EVERY_DAYS * DAY_S):
        return False
    clones = [each / ".git" for each in (*home.glob("work/*/*"), *home.glob("merges/*/*"))]
    return not any(_borrows_for_long(each, mirror) for each in (*clones, *home.glob("beads/*/mirrors/*.git")))


def prune(mirror: Mirror, keep_days: float = KEEP_DAYS) -> None:
    """Set aside, with the time, what no ref reaches; remove what was set aside for `keep_days`. Raises GitError."""
    repack(mirror)
    for pack in (mirror.path / "objects" / "pack").glob("*.pack"):
        if not pack.with_suffix(".mtimes").exists():  # what of it is set aside now counts from now
            os.utime(pack)
    expiry = f"{int(keep_days * DAY_S)}.seconds.ago" if keep_days else "now"
    _git(mirror, "repack", "--cruft", f"--cruft-expiration={expiry}", "-d", "--quiet", "--no-write-bitmap-index")
    (mirror.path / "gastown-pruned").touch()


def _borrows_for_long(git_dir: Path, mirror: Mirror) -> bool:
    """What a younger one needs was reached by a ref when it took it, so none of that has been set aside for so long."""
    lender = git_dir / "objects" / "info" / "alternates"
    try:
        borrowed = os.fsencode(mirror.path) in lender.read_bytes()
        return borrowed and time.time() - lender.stat().st_mtime > (KEEP_DAYS - 1) * DAY_S
    except OSError:
        return False


def _count(folder: Path, enough: int) -> int:
    count = 0
    for _, _, names in os.walk(folder):
        count += len(names)
        if count > enough:
            break
    return count


def _git(mirror: Mirror, *arguments: str) -> str:
    return git(*arguments, cwd=mirror.path, env={MARK: str(mirror.path)}, timeout_s=TIMEOUT_S)
