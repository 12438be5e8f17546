"""Commits of what is in a worktree, made without touching the agent's index, branch or files."""

import os
import shutil
import stat
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from gastown.agent.git import GitError, git

# Never taken from untracked files, whatever .gitignore says: caches and environments that a set-up makes again.
EXCLUDED = frozenset(
    {
        ".git",
        ".gastown",
        "node_modules",
        ".venv",
        "venv",
        "__pycache__",
        ".mypy_cache",
        ".pytest_cache",
        ".ruff_cache",
        ".tox",
        ".nox",
        ".DS_Store",
    }
)
EXCLUDED_SUFFIXES = (".pyc", ".pyo")
LARGEST_BYTES = 10 * 1024 * 1024  # DESIGN 5: an untracked file over 10 MB is left out and reported


@dataclass(frozen=True)
class Person:
    """Who commits."""

    name: str
    email: str

    @property
    def environment(self) -> dict[str, str]:
        return {
            f"GIT_{role}_{what}": value
            for role in ("AUTHOR", "COMMITTER")
            for what, value in (("NAME", self.name), ("EMAIL", self.email))
        }


@dataclass(frozen=True)
class Tree:
    """The content of a worktree as git objects."""

    sha: str
    head: str  # the commit that is checked out
    head_tree: str
    left_out: list[str] = field(default_factory=list)  # untracked files that are too large
    unsaved: list[str] = field(default_factory=list)  # what is wanted and cannot be had: the worktree has to stay

    @property
    def changed(self) -> bool:
        return self.sha != self.head_tree


def write_tree(worktree: Path, scratch: Path) -> Tree:
    """Everything tracked as it is now, and the untracked files that are wanted. `scratch` takes a temporary index.

    Raises GitError, for instance when the agent destroyed `.git`.
    """
    head, head_tree = _git(worktree, "rev-parse", "HEAD", "HEAD^{tree}").split()
    index = scratch / f"index.{os.getpid()}"
    environment = {"GIT_INDEX_FILE": os.fspath(index)}
    try:
        try:
            shutil.copyfile(_index_of(worktree), index)  # what git knows about unchanged files makes this fast
            tracked = _add_tracked(worktree, environment)
        except (OSError, GitError):
            index.unlink(missing_ok=True)
            _git(worktree, "read-tree", "HEAD", environment=environment)
            tracked = _add_tracked(worktree, environment)
        wanted, left_out, unsaved = _untracked(worktree, environment)
        _add(worktree, environment, wanted)
        sha = _git(worktree, "write-tree", environment=environment).strip()
    finally:
        for leftover in (index, index.with_name(index.name + ".lock")):
            leftover.unlink(missing_ok=True)
    return Tree(sha, head, head_tree, left_out, tracked + unsaved)


def usable(worktree: Path) -> bool:
    """Whether the agent left a repository with a commit checked out."""
    try:
        _git(worktree, "rev-parse", "--verify", "--quiet", "HEAD^{tree}")
    except GitError:
        return False
    return True


def commit_tree(git_dir: Path, tree: str, parents: Sequence[str], message: str, person: Person) -> str:
    arguments = [part for parent in parents for part in ("-p", parent)]
    return git(
        "commit-tree",
        tree,
        *arguments,
        cwd=git_dir,
        env=person.environment,
        stdin=message.encode("utf-8", "surrogateescape"),
    ).strip()


def _git(worktree: Path, *arguments: str, environment: dict[str, str] | None = None, stdin: bytes | None = None) -> str:
    """In this repository and no other: without its .git, git would look for one further up."""
    where = {"GIT_DIR": os.fspath(worktree / ".git"), "GIT_WORK_TREE": os.fspath(worktree)}
    return git(*arguments, cwd=worktree, env={**where, **(environment or {})}, stdin=stdin)


def _index_of(worktree: Path) -> Path:
    return worktree / ".git" / "index"


def _add_tracked(worktree: Path, environment: dict[str, str]) -> list[str]:
    """Take changes and deletions of tracked files; returns what could not be read."""
    try:
        _git(worktree, "add", "--update", "--ignore-errors", "--", ".", environment=environment)
    except GitError as error:
        if "unable to index file" not in error.output and "Permission denied" not in error.output:
            raise
        return [f"a change of a tracked file ({error.reason})"]
    return []


def _untracked(worktree: Path, environment: dict[str, str]) -> tuple[list[str], list[str], list[str]]:
    """(paths to take, what is left out on purpose, what cannot be taken)"""
    listed = _git(worktree, "ls-files", "--others", "--exclude-standard", "-z", environment=environment)
    wanted, left_out, unsaved = [], [], []
    for name in filter(None, listed.split("\0")):
        if EXCLUDED.intersection(name.split("/")) or name.endswith(EXCLUDED_SUFFIXES):
            continue
        if name.endswith("/"):
            unsaved.append(f"{name} (a git repository of its own)")
            continue
        path = os.path.join(worktree, name)
        with suppress(OSError):
            found = os.lstat(path)
            if stat.S_ISREG(found.st_mode) and found.st_size > LARGEST_BYTES:
                left_out.append(f"{name} ({found.st_size / 1e6:.0f} MB)")
            elif stat.S_ISREG(found.st_mode) and not os.access(path, os.R_OK):
                unsaved.append(f"{name} (cannot be read)")
            else:
                wanted.append(name)
    return wanted, left_out, unsaved


def _add(worktree: Path, environment: dict[str, str], paths: list[str]) -> None:
    if not paths:
        return
    stdin = "\0".join(paths).encode("utf-8", "surrogateescape") + b"\0"
    _git(
        worktree,
        "update-index",
        "--add",
        "--remove",
        "--replace",
        "-z",
        "--stdin",
        environment=environment,
        stdin=stdin,
    )
