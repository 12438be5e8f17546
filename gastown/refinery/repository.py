"""What a repository is, before it becomes a rig, and what in a person's own checkout stands in the way of a merge."""

import re
from dataclasses import dataclass
from pathlib import Path

from gastown.agent import credentials, locks
from gastown.agent.git import GitError, git, succeeds
from gastown.errors import GastownError, GitFailed, NotFound, RepositoryUnavailable, UsageError
from gastown.refinery.jobs import presentable_path

PROBE_TIMEOUT_S = 60.0
SHOWN_BRANCHES = 10
SHA1_LENGTH = 40
# What a checkout is in the middle of while this file or directory is in its git directory.
_OPERATIONS = {
    "rebase-merge": "a rebase",
    "rebase-apply": "a rebase",
    "MERGE_HEAD": "a merge",
    "CHERRY_PICK_HEAD": "a cherry-pick",
    "REVERT_HEAD": "a revert",
    "BISECT_LOG": "a bisect",
}


@dataclass(frozen=True, kw_only=True)
class Probe:
    """What `rig add` needs to know."""

    repository: str  # a URL as given, or the absolute path of the top of the work tree or of the bare repository
    local: bool
    bare: bool  # False also for a URL, of which nobody knows
    branch: str  # the target
    head_sha: str
    branches: tuple[str, ...]


def probe(repository: str, branch: str | None = None) -> Probe:
    """Look at a repository; `branch` None takes the one that its HEAD is on. Changes nothing.

    Raises UsageError when it cannot be a rig as it stands, NotFound for a branch that it does not have, and
    RepositoryUnavailable when it gave no answer.
    """
    path, bare = _local(repository)
    place = str(path) if path else repository
    if not _is_text(place):
        raise UsageError(f"the path {presentable_path(place)} is not UTF-8", hint="move the repository to one that is")
    refs, symbolic = _refs(place)
    branches = tuple(name.removeprefix("refs/heads/") for name in refs if name.startswith("refs/heads/"))
    if not branches:
        raise UsageError(
            f"{place} is empty: it has no branch with a commit", hint="make a first commit, then try again"
        )
    if any(len(sha) > SHA1_LENGTH for sha in refs.values()):
        raise UsageError(
            f"{place} names its objects by SHA-256, which gastown cannot do yet",
            hint="give a repository with SHA-1 names: git init --object-format=sha1",
        )
    chosen = branch or symbolic
    if chosen is None:
        raise UsageError(
            f"{place} has a detached HEAD, so it does not say which branch to merge into",
            hint=f"name one with --branch: {_listed(branches)}",
        )
    if chosen not in branches:
        raise NotFound("branch", f"{presentable_path(chosen)} in {place}", hint=f"it has: {_listed(branches)}")
    if not _is_text(chosen):
        raise UsageError(
            f"the name of the branch {presentable_path(chosen)} in {place} is not UTF-8",
            hint=f"choose another with --branch: {_listed(tuple(filter(_is_text, branches)))}",
        )
    return Probe(
        repository=place,
        local=path is not None,
        bare=bare,
        branch=chosen,
        head_sha=refs[f"refs/heads/{chosen}"],
        branches=branches,
    )


def local_path(repository: str) -> Path | None:
    """The path of a repository on this machine, or None for one that is reached by a URL."""
    if repository.startswith("file:///"):
        return Path(repository.removeprefix("file://"))
    if "://" in repository:
        return None
    path = Path(repository).expanduser()
    # git's own rule: host:path is ssh, unless a slash comes before the colon
    return None if not path.exists() and re.match(r"[^/]+:", repository) else path.absolute()


def dirty_paths(repository: str, branch: str | None = None) -> list[str]:
    """Tracked files with changes in the local checkout of `branch` (None: in the checkout at this path).

    An unfinished rebase, merge or the like comes first, in parentheses. Empty for a bare repository, for a URL, and
    when the branch is checked out nowhere: then nothing of anybody's is in the way.
    """
    path = local_path(repository)
    checkout = path and _checkout(path, branch)
    if not checkout:
        return []
    options = ("--porcelain=v1", "-z", "--no-renames", "--untracked-files=no", "--ignore-submodules=all")
    entries = git("status", *options, cwd=checkout).split("\0")[:-1]
    return unfinished(checkout) + [entry[3:] for entry in entries]


def untracked_in_the_way(repository: str, branch: str, added: list[str]) -> list[str]:
    """Which of the files that a merge adds exist in the checkout of `branch` without being tracked there."""
    path = local_path(repository)
    checkout = path and _checkout(path, branch)
    if not checkout or not added:
        return []
    present = [name for name in added if (checkout / name).exists() or (checkout / name).is_symlink()]
    tracked = set(git("ls-files", "-z", cwd=checkout).split("\0")) if present else set()
    return [name for name in present if name not in tracked]


def unfinished(checkout: Path) -> list[str]:
    """What this checkout is in the middle of. Git would update its files all the same, under the person's hands."""
    git_dir = Path(git("rev-parse", "--absolute-git-dir", cwd=checkout).rstrip("\n"))
    return sorted({f"({name} is in progress)" for file, name in _OPERATIONS.items() if (git_dir / file).exists()})


def unfinished_on(repository: str, branch: str) -> list[str]:
    """`unfinished` in the checkout of this branch, if it has one."""
    path = local_path(repository)
    checkout = path and _checkout(path, branch)
    return unfinished(checkout) if checkout else []


def release_abandoned_locks(repository: str, branch: str) -> bool:
    """Remove lock files that a killed git left in the checkout of `branch`; False: none, or somebody may hold them."""
    path = local_path(repository)
    checkout = path and _checkout(path, branch)
    if path is None or not path.is_dir():
        return False
    found = git("rev-parse", "--absolute-git-dir", "--git-common-dir", cwd=checkout or path).rstrip("\n").split("\n")
    own, common = Path(found[0]), (checkout or path) / found[1]
    candidates = (own / "index.lock", own / "HEAD.lock", common / "refs" / "heads" / f"{branch}.lock")
    removed = [locks.remove_abandoned(lock, checkout or path) for lock in candidates if lock.exists()]
    return bool(removed) and all(removed)


def take_back(repository: str, branch: str, tree: str, expected_sha: str) -> bool:
    """Undo a push that reached the files of a checkout and then not its branch; False: there was none.

    Git updates the files first, so a branch that is locked, or a kill in between, leaves them ahead. Only a checkout
    whose branch is at `expected_sha`, whose index is exactly the pushed `tree` and whose files are exactly its index is
    put back: then nothing in it can be a person's.
    """
    path = local_path(repository)
    checkout = path and _checkout(path, branch)
    if not checkout or unfinished(checkout) or not succeeds("diff-files", "--quiet", cwd=checkout):
        return False
    if (
        git("rev-parse", "HEAD", cwd=checkout).strip() != expected_sha
        or git("write-tree", cwd=checkout).strip() != tree
    ):
        return False
    if succeeds("diff-index", "--quiet", "--cached", expected_sha, "--", cwd=checkout):
        return False
    git("read-tree", "-u", "-m", tree, expected_sha, cwd=checkout)
    return True


def _checkout(path: Path, branch: str | None) -> Path | None:
    """The work tree that has the branch checked out, or whose rebase or bisect started from it."""
    if branch is None:
        bare = git("rev-parse", "--is-bare-repository", cwd=path).strip() == "true"
        return None if bare else path
    for block in git("worktree", "list", "--porcelain", cwd=path).split("\n\n"):
        lines = block.split("\n")
        place = Path(lines[0].removeprefix("worktree "))
        if "bare" in lines or not place.is_dir():
            continue
        if f"branch refs/heads/{branch}" in lines or ("detached" in lines and _left(place) == branch):
            return place
    return None


def _left(checkout: Path) -> str | None:
    """The branch that a detached checkout will come back to when its rebase or bisect ends."""
    git_dir = Path(git("rev-parse", "--absolute-git-dir", cwd=checkout).rstrip("\n"))
    for name in ("rebase-merge/head-name", "rebase-apply/head-name", "BISECT_START"):
        file = git_dir / name
        if file.is_file():
            return file.read_text("utf-8", "surrogateescape").strip().removeprefix("refs/heads/")
    return None


def _local(repository: str) -> tuple[Path | None, bool]:
    """The top of a local repository, and whether it is bare. None for a URL."""
    path = local_path(repository)
    if path is None:
        return None, False
    if not path.is_dir():
        raise UsageError(f"there is no directory {path}", hint="give the path or the URL of a git repository")
    try:
        answers = git("rev-parse", "--absolute-git-dir", "--is-bare-repository", "--is-shallow-repository", cwd=path)
        git_dir, is_bare, is_shallow = answers.rstrip("\n").rsplit("\n", 2)
    except GitError as error:
        raise _explained(error, str(path)) from error
    if is_shallow == "true":
        raise UsageError(
            f"{path} is a shallow clone: merges need the history",
            hint=f"run: git -C {path} fetch --unshallow",
        )
    if is_bare == "true":
        return Path(git_dir).resolve(), True
    if Path(git_dir).name == ".git" and path.resolve().is_relative_to(git_dir):
        path = Path(git_dir).parent  # somebody named the .git directory
    return Path(git("rev-parse", "--show-toplevel", cwd=path).rstrip("\n")).resolve(), False


def _refs(place: str) -> tuple[dict[str, str], str | None]:
    """Every branch with its commit, and the one HEAD is on."""
    try:
        asked = ("ls-remote", "--symref", "--", place, "HEAD", "refs/heads/*")
        listed = git(*asked, timeout_s=PROBE_TIMEOUT_S, login=credentials.options(place))
    except GitError as error:
        raise _explained(error, place) from error
    refs, symbolic = {}, None
    for line in listed.split("\n")[:-1]:
        value, _, name = line.partition("\t")
        if value.startswith("ref: "):
            symbolic = value.removeprefix("ref: refs/heads/") if name == "HEAD" else symbolic
        else:
            refs[name] = value
    return refs, symbolic


def _explained(error: GitError, place: str) -> GastownError:
    if error.untrusted:
        return UsageError(
            f"git does not trust {place}: it belongs to another user",
            hint=f"if you do, run: git config --global --add safe.directory {place}",
        )
    if "not a git repository" in error.output and Path(place).exists():
        return UsageError(f"{place} is not a git repository", hint="run `git init` there, or give another path")
    if error.exit_code == 127:
        return UsageError(error.reason.removeprefix("fatal: "))
    if error.unreachable:
        return RepositoryUnavailable(
            f"{place} gives no answer: {error.reason}", hint=f"check that this works: git ls-remote {place}"
        )
    return GitFailed(error.command, error.output)


def _is_text(name: str) -> bool:
    """Whether Postgres can keep it: git and file systems take any bytes for a name."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _listed(branches: tuple[str, ...]) -> str:
    more = len(branches) - SHOWN_BRANCHES
    return ", ".join(map(presentable_path, branches[:SHOWN_BRANCHES])) + (f" and {more} more" if more > 0 else "")
