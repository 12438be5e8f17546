"""Where an attempt starts from."""

import re
from collections.abc import Sequence

from gastown.agent.git import GitError, git
from gastown.agent.mirror import HEADS, TAGS, Mirror
from gastown.agent.protocol import archive_ref, wip_ref

_BY_AGE = ("remote/archive", "remote/wip", "archive", "wip")  # of the same epoch, ours is the newer one


_OF_BEADS = re.compile(r"refs/gastown/head/([^/]+)/\d+")


def fetch(
    mirror: Mirror, bead_id: str, previous_epochs: Sequence[int], base: str | None, base_ref: str | None = None
) -> None:
    """Bring the mirror up to date, and with it what other nodes saved of this bead if this one lacks it.

    `base_ref`: where the remote has `base`; None: among this bead's own refs. Raises GitError when it is in neither.
    """
    names: set[str] = set()
    newest = max(previous_epochs, default=0)
    if newest and not any(mirror.resolve(name(bead_id, newest)) for name in (wip_ref, archive_ref)):
        names |= {"wip", "archive"}
    wanted = {(name, bead_id) for name in names}
    if base and mirror.resolve(base) is None:
        other = _OF_BEADS.fullmatch(base_ref or "")  # of another bead; a branch comes with all the others
        wanted |= {(name, other[1] if other else bead_id) for name in ("head", "archive")}
    # Beside ours, not over them: what was saved here may not have reached the remote.
    extra = (f"+refs/gastown/{name}/{of}/*:refs/gastown/remote/{name}/{of}/*" for name, of in sorted(wanted))
    mirror.fetch(HEADS, TAGS, *extra)
    if base and base_ref and mirror.resolve(base) is None:
        raise GitError(f"fetch {base_ref}", f"fatal: {base[:12]} is neither here nor in the repository", 128)


def starting_point(mirror: Mirror, bead_id: str, epoch: int, base: str | None, target: str, base_epoch: int = 0) -> str:
    """The newest work on this bead since it was told to start from `base`, else that, else the newest at all.

    With none of these, the target. `base_epoch` is the bead's last one when `base` was given.
    """
    given = mirror.resolve(base) if base else None
    if epoch <= 1:
        return given or target
    folders = [f"refs/gastown/{kind}/{bead_id}/" for kind in _BY_AGE]
    listed = git("for-each-ref", "--format=%(refname) %(objectname)", *folders, cwd=mirror.path)
    found: dict[tuple[int, int], str] = {}
    for line in listed.splitlines():
        name, sha = line.split()
        folder, _, number = name.rpartition("/")
        if number.isdigit() and int(number) < epoch:
            found[int(number), folders.index(f"{folder}/")] = sha
    newest = max(found, default=(0, 0))
    if given and newest[0] <= base_epoch:
        return given
    return found.get(newest, target)


def branches(mirror: Mirror) -> list[str]:
    """The remote's, as of the last fetch."""
    listed = git("for-each-ref", "--format=%(refname:lstrip=3)", "refs/remotes/origin", cwd=mirror.path)
    return listed.splitlines()
