"""Submodules of a clone: each is a clone of its own, from a mirror of its own that all rigs of this node share.

A submodule that cannot be had is left empty, and said so: many repositories have one that only some people may read.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from gastown.agent.git import GitError, git

if TYPE_CHECKING:
    from gastown.agent.mirror import Mirror

BRANCH = "gastown"  # what is checked out in them


def check_out(mirror: "Mirror", worktree: Path) -> list[str]:
    """Bring the submodules of a clone of this mirror, and theirs, to what its index names.

    Returns what to say of those that stay empty, or as they are.
    """
    if not (worktree / ".gitmodules").is_file():
        return []
    try:
        wanted = _wanted(worktree)
    except GitError as error:
        return [f"no submodule is checked out: {error.reason}"]
    remarks = []
    for path, url, sha in wanted:
        try:
            remarks += _check_out(mirror, worktree / path, url, sha)
        except GitError as error:
            remarks.append(f"submodule {path} is not checked out: {error.reason}")
    return remarks


def _wanted(worktree: Path) -> list[tuple[str, str, str]]:
    """(path, address, commit); addresses relative to the repository's own are resolved as git does it."""
    listed = git("ls-files", "--stage", "-z", cwd=worktree).split("\0")[:-1]
    links = {path: entry.split()[1] for entry, path in (each.split("\t", 1) for each in listed if each[:6] == "160000")}
    if not links:
        return []
    git("submodule", "--quiet", "init", cwd=worktree)
    names = _config(worktree, ("--file", ".gitmodules"), "path")
    urls = _config(worktree, ("--local",), "url")
    return [(path, urls[name], links[path]) for name, path in names.items() if path in links and name in urls]


def _config(worktree: Path, source: tuple[str, ...], what: str) -> dict[str, str]:
    listed = git("config", *source, "-z", "--get-regexp", rf"^submodule\..*\.{what}$", cwd=worktree)
    pairs = (entry.split("\n", 1) for entry in listed.split("\0")[:-1])
    return {key.removeprefix("submodule.").removesuffix(f".{what}"): value for key, value in pairs}


def _check_out(mirror: "Mirror", path: Path, url: str, sha: str) -> list[str]:
    if _is_local(url) and not _is_local(mirror.repository):  # as git itself: no remote may name files of this machine
        raise GitError("submodule", f"fatal: {url} is on this machine, and the repository is not", 128)
    own = mirror.module(url)
    if own.resolve(sha) is None:
        own.fetch()
    if own.resolve(sha) is None:
        own.fetch(f"{sha}:refs/gastown/linked/{sha}")  # on no branch: some servers give it all the same
    if not (path / ".git").is_dir():
        return own.clone(path, sha, BRANCH)
    if git("rev-parse", "HEAD", cwd=path).strip() != sha:
        git("checkout", "--quiet", "-B", BRANCH, sha, "--", cwd=path)
    return check_out(own, path)


def _is_local(repository: str) -> bool:
    return repository.startswith(("file:", "/", ".")) or Path(repository).exists()


def within(mirror: "Mirror", worktree: Path) -> Iterator[tuple["Mirror", Path]]:
    """The submodules that are checked out, the innermost first, each with its mirror."""
    if not (worktree / ".gitmodules").is_file():
        return
    try:
        wanted = _wanted(worktree)
    except GitError:
        return
    for path, url, _ in wanted:
        lender = worktree / path / ".git" / "objects" / "info" / "alternates"
        own = mirror.module(url)
        if lender.is_file() and os.fsencode(own.path) in lender.read_bytes():
            yield from within(own, worktree / path)
            yield own, worktree / path
