"""Whether a branch has a piece of work, however a person brought it there: merged, squashed, rebased or picked."""

import os
from pathlib import Path

from gastown.agent.git import git
from gastown.agent.mirror import Mirror
from gastown.refinery import making
from gastown.refinery.jobs import MergeJob, Prepared
from gastown.refinery.remote import bringer, is_ancestor

CANDIDATES = 1000  # commits of a target that may be a squash, the newest ones
_DIFF = ("--no-ext-diff", "--no-textconv", "--no-renames", "--full-index", "--no-color")


def arrived(mirror: Mirror, head: str, target: str) -> str | None:
    """The commit that brought `head` onto `target`; None: it is not there, as far as commits and patches tell."""
    if is_ancestor(mirror, head, target):
        return bringer(mirror, head, target)
    bases = making.common(mirror, head, target)
    if not bases:
        return None
    return _same_patch(mirror.path, bases[0], head, target) or _picked(mirror.path, head, target)


def adds_nothing(job: MergeJob, prepared: Prepared) -> bool:
    """Whether the target has the content of this merge already. Raises GitError."""
    return making.is_empty(Mirror.open(job.home, job.rig_id, job.repository), prepared.merge_sha, prepared.base_sha)


def last_change(mirror: Mirror, head: str, target: str) -> str:
    """The newest commit of `target`, by first parents, that changed what `head` changes; `target` if none did."""
    paths = _paths(mirror.path, making.common(mirror, head, target)[0], head)
    found = _log(mirror.path, "-1", "--first-parent", "--format=%H", target, f"^{head}", "--", *paths[:CANDIDATES])
    return found.strip() or target


def _same_patch(place: Path, base: str, head: str, target: str) -> str | None:
    """The commit of `target` that makes the very change that leads from `base` to `head`: a squash."""
    paths = _paths(place, base, head)
    if not paths:
        return None
    wanted = _patch_ids(place, git("diff", *_DIFF, base, head, "--", cwd=place))
    # whatever makes that change touches each of its files, so those that touch one of them are enough
    options = ("-p", "--full-diff", "--no-merges", f"--max-count={CANDIDATES}", "--format=commit %H", *_DIFF)
    found = _patch_ids(place, _log(place, *options, target, f"^{head}", "--", paths[0]))
    return next((sha for patch, sha in found if patch == wanted[0][0]), None) if wanted else None


def _picked(place: Path, head: str, target: str) -> str | None:
    """The commit of `target` with the patch of the last commit of the work, if it has those of all others too."""
    commits = git("cherry", target, head, cwd=place).split("\n")[:-1]
    if not commits or any(not line.startswith("- ") for line in commits):
        return None
    last = commits[-1].removeprefix("- ")
    return _same_patch(place, f"{last}^", last, target)


def _paths(place: Path, base: str, head: str) -> list[str]:
    return git("diff", "--name-only", "--no-renames", "-z", base, head, "--", cwd=place).split("\0")[:-1]


def _patch_ids(place: Path, patches: str) -> list[list[str]]:
    """[patch id, commit] of each."""
    listed = git("patch-id", "--stable", cwd=place, stdin=os.fsencode(patches))
    return [line.split(" ", 1) for line in listed.split("\n")[:-1]]


def _log(place: Path, *args: str) -> str:
    return git("--literal-pathspecs", "-c", "log.showSignature=false", "log", *args, cwd=place)
