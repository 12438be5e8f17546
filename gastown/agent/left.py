"""What a clone holds besides its result: branches, tags, stashes, and commits that only its reflogs know.

An agent commits, and then checks something else out, resets, or stashes once more. What it made that way exists in its
clone alone, so it goes to the mirror, under refs/gastown/left/<bead>/<epoch>/, before the clone goes.
"""

import os
from collections.abc import Iterable
from pathlib import Path

from gastown.agent.git import git
from gastown.agent.mirror import Mirror

REFSPECS_AT_ONCE = 500  # each of up to some hundred bytes, on one command line


def keep_left(mirror: Mirror, worktree: Path, bead_id: str, epoch: int) -> None:
    """Keep every ref whose commit no ref of the mirror reaches, and what only reflogs reach. Raises GitError."""
    prefix = f"refs/gastown/left/{bead_id}/{epoch}"
    held = set(git("for-each-ref", "--format=%(objectname)", cwd=mirror.path).split())
    missing, tips = _missing(worktree, held)
    wanted: dict[str, str] = {}  # where to -> what
    maybe: dict[str, str] = {}  # the same, where it is enough that the mirror has the object: the remote's own
    named = set()
    listed = git("for-each-ref", "--format=%(objecttype) %(objectname) %(refname)", env=_only(worktree), cwd=worktree)
    for line in listed.split("\n")[:-1]:
        kind, sha, name = line.split(" ", 2)
        if sha in missing or (kind != "commit" and sha not in held):
            found = maybe if name.startswith("refs/remotes/") else wanted
            found[f"{prefix}/{name.removeprefix('refs/')}"] = sha
            named.add(sha)
    maybe |= {f"{prefix}/reflog/{sha}": sha for sha in tips - named}
    known = _objects(mirror, maybe.values())
    wanted |= {ref: sha for ref, sha in maybe.items() if sha not in known}
    refspecs = [f"+{sha}:{ref}" for ref, sha in wanted.items()]
    for first in range(0, len(refspecs), REFSPECS_AT_ONCE):
        mirror.keep(worktree, *refspecs[first : first + REFSPECS_AT_ONCE])


def _only(worktree: Path) -> dict[str, str]:
    """This repository and none further up, and its commits as they are, whatever `git replace` says."""
    return {"GIT_DIR": os.fspath(worktree / ".git"), "GIT_NO_REPLACE_OBJECTS": "1"}


def _missing(worktree: Path, held: set[str]) -> tuple[set[str], set[str]]:
    """The commits of the clone that `held` does not reach; and those of them that are nobody's parent."""
    without = "".join(f"^{sha}\n" for sha in sorted(held)).encode()
    arguments = ("rev-list", "--parents", "--all", "--reflog", "--stdin")
    lines = git(*arguments, cwd=worktree, env=_only(worktree), stdin=without).splitlines()
    commits, parents = set(), set()
    for line in lines:
        sha, *above = line.split()
        commits.add(sha)
        parents.update(above)
    return commits, commits - parents


def _objects(mirror: Mirror, shas: Iterable[str]) -> set[str]:
    """Those that the mirror has. It loses none, so it has all that they refer to as well."""
    asked = "".join(f"{sha}\n" for sha in sorted(set(shas))).encode()
    if not asked:
        return set()
    answers = git("cat-file", "--batch-check=%(objectname) %(objecttype)", cwd=mirror.path, stdin=asked)
    return {line.split()[0] for line in answers.splitlines() if not line.endswith(" missing")}
