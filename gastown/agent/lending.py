"""What the mirror in a bead's own home takes over from that of its node, which it can only read."""

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from gastown.agent.remaking import refs_in

if TYPE_CHECKING:
    from gastown.agent.mirror import Mirror

_OF_REMOTE = ("refs/remotes/origin/", "refs/tags/")


def borrow(path: Path, lender: Path) -> None:
    """Take the objects of another mirror by reference, and what it knows of the remote, so that little is fetched.

    Without a lender, or with one that is not whole, everything comes from the remote.
    """
    if not (lender / "objects").is_dir() or not (lender / "HEAD").is_file():
        return
    known = {ref: sha for ref, sha in refs_in(lender).items() if ref.startswith(_OF_REMOTE)}
    (path / "packed-refs").write_bytes(os.fsencode("".join(f"{sha} {ref}\n" for ref, sha in sorted(known.items()))))
    info = path / "objects" / "info"
    info.mkdir(exist_ok=True)
    (info / "alternates").write_bytes(os.fsencode(lender / "objects") + b"\n")


def recall(mirror: "Mirror", bead_id: str, epoch: int) -> None:
    """Know of earlier attempts on the bead what the node knows: the home they had may be gone. Raises GitError."""
    if mirror.lender is None or not mirror.lender.is_dir():
        return
    earlier = re.compile(rf"refs/gastown/(?:wip|head|archive)/{re.escape(bead_id)}/(\d+)")
    known, lines = refs_in(mirror.path), []
    for ref, sha in refs_in(mirror.lender).items():
        found = earlier.fullmatch(ref)
        if found and int(found[1]) < epoch and ref not in known and mirror.resolve(sha):
            lines.append(f"create {ref} {sha}")
    mirror.update_refs(lines)
