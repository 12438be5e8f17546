"""A mirror whose files are damaged is made anew, with every ref of the old one that can still be read whole.

The damaged one is set aside as mirrors/<rig>.damaged-<n> and never removed: what could not be read, a person may mend.
"""

import logging
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gastown.agent.git import GitError, git

if TYPE_CHECKING:
    from gastown.agent.mirror import Mirror

log = logging.getLogger(__name__)
REFS_AT_ONCE = 200
_QUIETLY = ("--quiet", "--no-tags", "--no-write-fetch-head", "--force")
REMADE = ".remade"  # suffix of a new mirror that is complete
_SIGNS = re.compile(
    r"is corrupt|is empty|bad object|missing (blob|tree|commit)|unable to (read|unpack|open object)|failed to read"
    r"|data stream error|does not match index|packfile .+ (cannot be|is far too short|index unavailable)"
    r"|invalid sha1 pointer|does not point to a valid object|did not send all necessary objects|broken link"
    r"|(unexpected|unterminated) line in|bad config|garbage at end|not a git repository"
    r"|could not read [0-9a-f]{40}|not a tree object|Could not parse object|index-pack failed|unresolved deltas",
    re.IGNORECASE,
)
_REF_LINE = re.compile(r"([0-9a-f]{40,64}) (refs/\S+)")


def is_damaged(mirror: "Mirror", error: GitError) -> bool:
    """Whether this failure is due to the mirror's own files; only one that looks so is worth the full check."""
    if not _SIGNS.search(error.output) or error.disk_full:
        return False
    try:
        git("rev-parse", "--is-bare-repository", cwd=mirror.path, env={"GIT_DIR": str(mirror.path)})
        git("fsck", "--full", "--no-dangling", "--no-progress", cwd=mirror.path)
    except GitError as found:
        return not found.timed_out
    return False


def remake(mirror: "Mirror") -> Path:
    """Replace it; the caller holds its lock. Where the old one is now. Raises GitError and OSError.

    The new one borrows from nobody: maybe it is the lender that is damaged.

    Killed at any point, there is the old one, or a complete new one that `Mirror.open` finds.
    """
    path = mirror.path
    made, view, complete = path.with_suffix(".remaking"), path.with_suffix(".view"), path.with_suffix(REMADE)
    for leftover in (made, view, complete):
        shutil.rmtree(leftover, ignore_errors=True)
    wanted = refs_in(path)
    mirror.make_bare(made)
    heads = ("--", mirror.repository, "+refs/heads/*:refs/remotes/origin/*")
    _works("fetch", *_QUIETLY, *heads, cwd=made, login=mirror.login)
    # Sound files before the old objects, whatever is wrong with HEAD, config or packed-refs; and of what the remote has
    # just sent, its copies come first.
    mirror.make_bare(view)
    (view / "objects" / "info").mkdir(exist_ok=True)
    old = [] if mirror.lender is None else sorted(mirror.lender.parent.glob(f"{mirror.lender.stem}.damaged-*"))
    lenders = b"".join(os.fsencode(each / "objects") + b"\n" for each in (made, path, *old))
    (view / "objects" / "info" / "alternates").write_bytes(lenders)
    (view / "packed-refs").write_bytes(os.fsencode("".join(f"{sha} {ref}\n" for ref, sha in sorted(wanted.items()))))
    lost = _take(made, str(view), list(wanted))
    lost = _take(made, mirror.repository, lost, mirror.login)  # under the same name, as far as it was pushed
    shutil.rmtree(view, ignore_errors=True)
    if (path / "lfs").is_dir():  # the content of large files; some may be nowhere else
        shutil.copytree(path / "lfs", made / "lfs", copy_function=os.link)
    aside = _free_name(path)
    made.rename(complete)
    path.rename(aside)
    complete.rename(path)
    ours = [ref for ref in lost if not ref.startswith(("refs/remotes/origin/", "refs/tags/"))]
    (aside / "gastown-lost-refs").write_text("".join(f"{wanted[ref]} {ref}\n" for ref in ours))
    log.warning("the mirror %s was damaged and is made anew; %d refs of ours were lost; see %s", path, len(ours), aside)
    return aside


def refs_in(path: Path) -> dict[str, str]:
    """What a repository's files say its refs are, read without git."""
    found: dict[str, str] = {}
    packed = path / "packed-refs"
    if packed.is_file():
        for line in packed.read_bytes().decode("utf-8", "surrogateescape").split("\n"):
            if match := _REF_LINE.fullmatch(line):
                found[match[2]] = match[1]
    for folder, _, names in os.walk(path / "refs"):
        for name in names:
            file = Path(folder) / name
            value = file.read_bytes().decode("utf-8", "surrogateescape").strip()
            if not name.endswith(".lock") and re.fullmatch(r"[0-9a-f]{40,64}", value):
                found[file.relative_to(path).as_posix()] = value
    return found


def _take(made: Path, source: str, refs: list[str], login: Sequence[str] = ()) -> list[str]:
    """Fetch these into the new one, as many at once as can be read whole; returns those that cannot."""

    def fetched(*some: str) -> bool:
        return _works("fetch", *_QUIETLY, "--", source, *(f"+{ref}:{ref}" for ref in some), cwd=made, login=login)

    lost = []
    for first in range(0, len(refs), REFS_AT_ONCE):
        some = refs[first : first + REFS_AT_ONCE]
        if not fetched(*some):
            lost += [ref for ref in some if not fetched(ref)]
    return lost


def _works(*arguments: str, cwd: Path, login: Sequence[str] = ()) -> bool:
    try:
        git(*arguments, cwd=cwd, login=login)
    except GitError:
        return False
    return True


def _free_name(path: Path) -> Path:
    number = 1
    while path.with_suffix(f".damaged-{number}").exists():
        number += 1
    return path.with_suffix(f".damaged-{number}")
