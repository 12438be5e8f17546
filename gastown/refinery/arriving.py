"""Whether a branch has a piece of work, however a person brought it there: merged, squashed, rebased or picked."""

import os
from collections.abc import Sequence
from pathlib import Path

from gastown.agent.git import git
from gastown.agent.mirror import Mirror
from gastown.refinery import making
from gastown.refinery.jobs import MergeJob, Prepared
from gastown.refinery.remote import bringer, is_ancestor

CANDIDATES = 1000  # commits of a target that may be a squash, the newest ones
_DIFF = ("--no-ext-diff", "--no-textconv", "--no-renames", "--full-index", "--no-color")


def arrived(mirror: Mirror, head: str, target: str, seen: str | None = None) -> str | None:
    """The commit that brought `head` onto `target`; None: it is not there, as far as commits and patches tell.

    `seen`: an earlier head of the target that did not have it. A like change before that, undone since, is not it.
    """
    if is_ancestor(mirror, head, target):
        return bringer(mirror, head, target)
    bases = making.common(mirror, head, target)
    if not bases:
        return None
    new = [target, f"^{head}", *([f"^{seen}"] if seen and mirror.resolve(seen) else [])]
    return _same_patch(mirror.path, bases[0], head, new) or _picked(mirror.path, head, target, new)


def adds_nothing(job: MergeJob, prepared: Prepared) -> bool:
    """Whether the target has the content of this merge already. Raises GitError."""
    return making.is_empty(Mirror.open(job.home, job.rig_id, job.repository), prepared.merge_sha, prepared.base_sha)


def last_change(mirror: Mirror, head: str, target: str) -> str:
    """The newest commit of `target`, by first parents, that changed what `head` changes; `target` if none did."""
    paths = _paths(mirror.path, making.common(mirror, head, target)[0], head)
    found = _log(mirror.path, "-1", "--first-parent", "--format=%H", target, f"^{head}", "--", *paths[:CANDIDATES])
    return found.strip() or target


def _same_patch(place: Path, base: str, head: str, new: Sequence[str]) -> str | None:
    """The newest of these commits that makes the very change which leads from `base` to `head`: a squash."""
    paths = set(_paths(place, base, head))
    if not paths:
        return None
    wanted = _patch_id(place, base, head)
    # whatever makes that change touches each of its files, so those that touch one of them are enough
    options = ("--no-merges", f"--max-count={CANDIDATES}")
    listed = git("--literal-pathspecs", "rev-list", *options, *new, "--", min(paths), cwd=place)
    touched = _touched(place, listed.split())
    alike = (sha for sha, names in touched.items() if names == paths)
    return next((sha for sha in alike if _patch_id(place, f"{sha}^", sha) == wanted), None)


def _touched(place: Path, shas: Sequence[str]) -> dict[str, set[str]]:
    """Which files each of these commits changes, but for the first one of a history."""
    options = ("--stdin", "-r", "-z", "--name-only", "--no-renames")
    listed = git("diff-tree", *options, cwd=place, stdin="\n".join([*shas, ""]).encode())
    found: dict[str, set[str]] = {}
    known, names = set(shas), set[str]()
    for word in listed.split("\0")[:-1]:
        if word in known:
            names = found.setdefault(word, set())
        else:
            names.add(word)
    return found


def _picked(place: Path, head: str, target: str, new: Sequence[str]) -> str | None:
    """The one of these commits with the patch of the last commit of the work, if the target has all others too."""
    commits = git("cherry", target, head, cwd=place).split("\n")[:-1]
    if not commits or any(not line.startswith("- ") for line in commits):
        return None
    last = commits[-1].removeprefix("- ")
    return _same_patch(place, f"{last}^", last, new)


def _paths(place: Path, base: str, head: str) -> list[str]:
    return git("diff", "--name-only", "--no-renames", "-z", base, head, "--", cwd=place).split("\0")[:-1]


def _patch_id(place: Path, base: str, head: str) -> str:
    """The same for all changes that differ in their place and their white space alone. Empty for none."""
    patch = git("diff", *_DIFF, base, head, "--", cwd=place)
    return git("patch-id", "--stable", cwd=place, stdin=os.fsencode(patch)).partition(" ")[0]


def _log(place: Path, *args: str) -> str:
    return git("--literal-pathspecs", "-c", "log.showSignature=false", "log", *args, cwd=place)
