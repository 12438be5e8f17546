"""One attempt's work, as people look at it and get it back."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from gastown.agent.git import GitError, git, succeeds
from gastown.agent.mirror import Mirror

# Where to look, the newest first.
_NAMES = ("wip", "archive", "head", "remote/wip", "remote/archive", "remote/head")


@dataclass(frozen=True, kw_only=True)
class Work:
    """What an attempt made, against what it started from."""

    sha: str
    ref: str  # in the mirror; what keeps it
    commits: int
    uncommitted: bool  # the last commit is a snapshot of uncommitted work
    files: int
    added: int
    removed: int


class BranchExists(Exception):
    """There is a branch of this name, or one that leaves no room for it."""


def work_of(mirror: Mirror, refs: Mapping[str, str], branch: str, base: str | None, head: str | None) -> Work | None:
    """Of one attempt, whose refs these are; None when it left nothing. Raises GitError.

    `base` and `head` are what it offered to merge, if it did; otherwise its work is what `branch` does not have.
    """
    held = [(ref, refs[ref]) for kind in _NAMES for ref in refs if ref.startswith(f"refs/gastown/{kind}/")]
    if not held:
        return None
    ref, sha = held[0]
    if head and mirror.resolve(head):
        sha = head
    base = mirror.resolve(base) if base else _fork(mirror, sha, branch)
    uncommitted = mirror.is_snapshot(sha)
    since = [sha, *([f"^{base}"] if base else [])]
    count = int(git("rev-list", "--count", "--first-parent", *since, "--", cwd=mirror.path))
    files, added, removed = _size(mirror, base, sha)
    return Work(
        sha=sha,
        ref=ref,
        commits=count - uncommitted,
        uncommitted=uncommitted,
        files=files,
        added=added,
        removed=removed,
    )


def _fork(mirror: Mirror, sha: str, branch: str) -> str | None:
    target = mirror.target(branch)
    if target is None or not succeeds("merge-base", sha, target, cwd=mirror.path):
        return None
    return git("merge-base", sha, target, cwd=mirror.path).strip()


def _size(mirror: Mirror, base: str | None, sha: str) -> tuple[int, int, int]:
    """(files, lines added, lines removed); without a base, all that is there."""
    empty = git("hash-object", "-t", "tree", "--stdin", cwd=mirror.path, stdin=b"").strip()
    listed = git("diff-tree", "--shortstat", "-r", base or empty, sha, "--", cwd=mirror.path)
    found = {unit: int(number) for number, unit in re.findall(r"(\d+) (file|insertion|deletion)", listed)}
    return found.get("file", 0), found.get("insertion", 0), found.get("deletion", 0)


def is_branch_name(name: str) -> bool:
    return not name.startswith("-") and succeeds("check-ref-format", f"refs/heads/{name}")


def make_branch(mirror: Mirror, name: str, sha: str) -> None:
    """In the rig's repository. Raises BranchExists, whatever that branch is at; and GitError."""
    ref = f"refs/heads/{name}"
    if any(taken == ref for _, taken in mirror.list_remote(ref)):
        raise BranchExists(f"there is a branch {name} already")
    try:
        mirror.push(f"{sha}:{ref}", options=(f"--force-with-lease={ref}:",))
    except GitError as error:
        if error.stale:
            raise BranchExists(f"there is a branch {name} already") from error
        if re.search(r"exists; cannot create|directory/file conflict|Is a directory", error.output):
            raise BranchExists(f"a branch leaves no room for {name}: one name is a folder of the other") from error
        raise
