"""Where merges are tried out: one fresh clone for each, in home/merges/<rig>, gone when the merge has ended."""

import os
import re
import shutil
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from gastown.agent.mirror import Mirror

LARGE_INDEX_BYTES = 1024 * 1024  # about 10,000 files, which take 0.1 s to remove
GONE = "gone"  # in home/merges: what is being removed


@dataclass(frozen=True)
class Worktree:
    path: Path
    scratch: Path  # TMPDIR of what runs in it, outside of it so that no gate sees an untracked directory
    remarks: list[str] = field(default_factory=list)  # what it lacks: submodules, large files


@contextmanager
def fresh(mirror: Mirror, path: Path, sha: str, branch: str, *, files: bool = True) -> Iterator[Worktree]:
    """A clone with `sha` checked out as `branch`; one left here by a crash is replaced. Raises GitError.

    Without `files` it is good for merging, and for no command of the rig's.
    """
    worktree = Worktree(path, path.with_name(f"{path.name}.tmp"))
    try:
        remove(worktree.path)
        remove(worktree.scratch)
        worktree.remarks.extend(mirror.clone(worktree.path, sha, branch, files=files))
        worktree.scratch.mkdir(mode=0o700)
        yield worktree
    finally:
        _let_go(worktree.path)
        remove(worktree.scratch)


def _let_go(path: Path) -> None:
    """Remove it, but a large one in the background: a merge waits for no disk. A later one ends what a kill left."""
    gone = path.parents[1] / GONE
    with suppress(OSError):  # no clone was made, or the disk is full
        if (path / ".git" / "index").stat().st_size > LARGE_INDEX_BYTES:
            gone.mkdir(exist_ok=True)
            path.rename(gone / uuid.uuid4().hex)
            threading.Thread(target=_empty, args=(gone,), name="worktrees", daemon=True).start()
    remove(path)


def _empty(folder: Path) -> None:
    for entry in sorted(folder.iterdir()):
        remove(entry)


def lenders(worktree: Path) -> tuple[Path, ...]:
    """The repositories whose objects it and its submodules borrow, without which git can do nothing in it."""
    inside = worktree / ".git"
    notes = [inside / "objects", *(inside / "modules").glob("**/objects")]
    found: set[Path] = set()
    for folder in notes:
        with suppress(OSError):
            lines = (folder / "info" / "alternates").read_text().splitlines()
            found |= {Path(line).resolve().parent for line in lines if line.startswith("/")}
    return tuple(sorted(found))


def directory(home: Path, rig_id: int) -> Path:
    return home.resolve() / "merges" / str(rig_id)


def remove_leftovers(parent: Path, bead_id: str, up_to_epoch: int) -> None:
    """Remove what merges of this bead left, up to this merge epoch; a later one may be at work."""
    if not parent.is_dir():
        return
    for entry in parent.iterdir():
        found = re.fullmatch(re.escape(bead_id) + r"-(\d+)(\.tmp)?", entry.name)
        if found and int(found[1]) <= up_to_epoch:
            remove(entry)


def remove(path: Path) -> None:
    """Remove a tree, also one with read-only directories (caches of Go modules). What resists is left for next time."""
    if not path.is_dir():
        return
    shutil.rmtree(path, ignore_errors=True)
    if path.is_dir():
        for folder, _, _ in os.walk(path):
            with suppress(OSError):
                os.chmod(folder, 0o700)
        shutil.rmtree(path, ignore_errors=True)
