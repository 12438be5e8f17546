"""Where an attempt starts from."""

from collections.abc import Sequence

from gastown.agent.git import git
from gastown.agent.mirror import HEADS, TAGS, Mirror
from gastown.agent.protocol import wip_ref


def fetch(mirror: Mirror, bead_id: str, previous_epochs: Sequence[int], base: str | None) -> None:
    """Bring the mirror up to date, and with it what other nodes saved of this bead if this one lacks it."""
    extra = []
    if previous_epochs and mirror.resolve(wip_ref(bead_id, max(previous_epochs))) is None:
        # Beside ours, not over them: what was saved here may not have reached the remote.
        extra.append(f"+refs/gastown/wip/{bead_id}/*:refs/gastown/remote/wip/{bead_id}/*")
    if base and mirror.resolve(base) is None:
        extra.append(f"+refs/gastown/head/{bead_id}/*:refs/gastown/remote/head/{bead_id}/*")
    mirror.fetch(HEADS, TAGS, *extra)


def starting_point(mirror: Mirror, bead_id: str, epoch: int, base: str | None, target: str, base_epoch: int = 0) -> str:
    """The newest work on this bead since it was told to start from `base`, else that, else the newest at all.

    With none of these, the target. `base_epoch` is the bead's last one when `base` was given.
    """
    given = mirror.resolve(base) if base else None
    if epoch <= 1:
        return given or target
    listed = git(
        "for-each-ref",
        "--format=%(refname) %(objectname)",
        f"refs/gastown/wip/{bead_id}/",
        f"refs/gastown/remote/wip/{bead_id}/",
        cwd=mirror.path,
    )
    found: dict[tuple[int, bool], str] = {}
    for line in listed.splitlines():
        name, sha = line.split()
        number = name.rpartition("/")[2]
        if number.isdigit() and int(number) < epoch:
            found[int(number), "/remote/" not in name] = sha  # of the same epoch, ours is the newer one
    newest = max(found, default=(0, False))
    if given and newest[0] <= base_epoch:
        return given
    return found.get(newest, target)


def branches(mirror: Mirror) -> list[str]:
    """The remote's, as of the last fetch."""
    listed = git("for-each-ref", "--format=%(refname:lstrip=3)", "refs/remotes/origin", cwd=mirror.path)
    return listed.splitlines()
