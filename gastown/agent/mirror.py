"""A node's bare copy of a rig's repository: fetched incrementally, shared by the clones of all its attempts.

Nothing here deletes a ref that may hold commits found nowhere else, and no git command collects garbage by the way:
clones borrow its objects. See `upkeep` for when and how they are packed.
"""

import fcntl
import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from gastown.agent import credentials, large_files, lending, locks, submodules
from gastown.agent.git import NETWORK_TIMEOUT_S, GitError, git
from gastown.agent.protocol import SNAPSHOT
from gastown.agent.remaking import REMADE, is_damaged, remake

HEADS = "+refs/heads/*:refs/remotes/origin/*"
TAGS = "+refs/tags/*:refs/tags/*"
LOCK_POLL_S = 0.02
MODULES = "modules"
WRITERS = min(8, max(2, os.cpu_count() or 1))  # processes that write the files of a large clone
_SPARSE = ".gitattributes\n"  # all that a clone without files has, at any depth: they say how others are merged
MARK = "GASTOWN_MIRROR"  # in the environment of every git process that may write to a mirror


class Mirror:
    """`home/mirrors/<rig_id>.git`. Every method may be called by several processes at once; all raise GitError.

    The mirror of a bead's own home borrows from that of the node, its `lender`, into which it never writes.
    """

    def __init__(
        self, path: Path, repository: str, lender: Path | None = None, login: tuple[str, ...] | None = None
    ) -> None:
        self.path, self.repository, self.lender = path, repository, lender
        self.login = credentials.options(repository) if login is None else login  # for git that reaches the remote
        self._marked = {MARK: str(path)}

    def _git(self, *args: str, stdin: bytes | None = None) -> str:
        return git(*args, cwd=self.path, env=self._marked, stdin=stdin)

    def _ask(self, *args: str, timeout_s: float = NETWORK_TIMEOUT_S) -> str:
        """The remote."""
        return git(*args, cwd=self.path, env=self._marked, timeout_s=timeout_s, login=self.login)

    @classmethod
    def open(cls, home: Path, rig_id: int, repository: str, shared_home: Path | None = None) -> "Mirror":
        """The mirror of this rig on this machine, made if missing. No network.

        `repository` is a URL or a path. It is given with each command, so a rig whose URL changes needs nothing here.
        `shared_home`: the node's, if `home` is a bead's own.
        """
        name = f"{rig_id}.git"
        lender = None if shared_home is None else shared_home.resolve() / "mirrors" / name
        return cls._at(home.resolve() / "mirrors" / name, repository, lender)

    @classmethod
    def _at(cls, path: Path, repository: str, lender: Path | None, login: tuple[str, ...] | None = None) -> "Mirror":
        mirror = cls(path, absolute(repository), lender, login)
        if not path.is_dir():
            path.parent.mkdir(parents=True, exist_ok=True)
            with mirror.locked():
                mirror.make()
        return mirror

    def module(self, repository: str) -> "Mirror":
        """The mirror of a submodule, `mirrors/modules/<hash of its address>.git`, made if missing. No network."""
        name = f"{hashlib.sha256(os.fsencode(absolute(repository))).hexdigest()[:24]}.git"
        lender = None if self.lender is None else _modules_beside(self.lender) / name
        return self._at(_modules_beside(self.path) / name, repository, lender, self.login)

    def make(self) -> None:
        """Whoever calls it holds the lock."""
        if self.path.is_dir():
            return
        remade = self.path.with_suffix(REMADE)
        if remade.is_dir():  # somebody died between two renames
            remade.rename(self.path)
            return
        unfinished = self.path.with_suffix(".new")
        shutil.rmtree(unfinished, ignore_errors=True)  # of somebody who died here; we hold the lock
        self.make_bare(unfinished)
        if self.lender is not None:
            lending.borrow(unfinished, self.lender)
        unfinished.rename(self.path)

    @staticmethod
    def make_bare(path: Path) -> None:
        git("init", "--quiet", "--bare", str(path), timeout_s=30)
        git("config", "gc.auto", "0", cwd=path, timeout_s=30)  # also for people who look around in it

    def fetch(self, *refspecs: str) -> None:
        """Bring it up to date with the remote; by default all branches (as refs/remotes/origin/*) and tags."""
        wanted = refspecs or (HEADS, TAGS)
        with self.locked():
            try:
                self._twice(lambda: self._fetch(wanted))
            except GitError as error:
                if "exists; cannot create" in error.output and self._set_gone_branches_aside():
                    self._fetch(wanted)
                elif is_damaged(self, error):
                    remake(self)
                    self._fetch(wanted)
                else:
                    raise

    def _fetch(self, refspecs: Sequence[str]) -> None:
        options = ("--quiet", "--no-tags", "--no-prune", "--no-write-fetch-head", "--no-auto-gc", "--force")
        self._ask("fetch", *options, "--", self.repository, *refspecs)

    def resolve(self, rev: str) -> str | None:
        """The SHA of the commit that `rev` names, or None when the mirror has no such commit."""
        try:
            found = self._git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{rev}^{{commit}}")
        except GitError as error:
            if error.exit_code in (1, 128) and "not a git repository" not in error.output:
                return None
            raise
        return found.strip()

    def target(self, branch: str) -> str | None:
        """The head of a branch of the remote, as of the last fetch."""
        return self.resolve(f"refs/remotes/origin/{branch}")

    def withholds(self, branch: str) -> bool:
        """Whether the remote names a branch that a fetch did not bring: then it is a shallow clone. Network."""
        ref = f"refs/heads/{branch}"
        return self.target(branch) is None and any(found == ref for _, found in self.list_remote(ref))

    def is_snapshot(self, sha: str) -> bool:
        """Whether the commit holds uncommitted work, on top of its first parent."""
        return bool(self._git("log", "-1", f"--format=%(trailers:key={SNAPSHOT})", sha, "--").strip())

    def push(self, *refspecs: str, options: Sequence[str] = (), timeout_s: float = NETWORK_TIMEOUT_S) -> None:
        """Push from the mirror to the remote, large files first. `options` go before the repository."""
        sources = [source for source in (each.lstrip("+").partition(":")[0] for each in refspecs) if source]
        large_files.upload(self, sources, timeout_s)
        self._ask("push", "--quiet", "--porcelain", *options, "--", self.repository, *refspecs, timeout_s=timeout_s)

    def list_remote(self, *patterns: str, timeout_s: float = NETWORK_TIMEOUT_S) -> list[list[str]]:
        """[SHA, ref] of each ref that the remote has now."""
        listed = self._ask("ls-remote", "--", self.repository, *patterns, timeout_s=timeout_s)
        return [line.split("\t", 1) for line in listed.split("\n")[:-1]]

    def keep(self, worktree: Path, *refspecs: str) -> None:
        """Bring commits of a clone into the mirror, as in `keep(worktree, f"+{sha}:{wip_ref}")`. No network."""
        self._twice(lambda: git("push", "--quiet", "--", str(self.path), *refspecs, cwd=worktree, env=self._marked))

    def take(self, source: Path, refspecs: Sequence[str]) -> None:
        """Bring refs of a repository of our own on this machine. No network."""
        options = ("--quiet", "--no-tags", "--no-prune", "--no-write-fetch-head", "--no-auto-gc", "--force")
        self._twice(lambda: self._git("fetch", *options, "--", str(source), *refspecs))

    def set_ref(self, ref: str, sha: str) -> None:
        """Point one of our own refs (refs/gastown/...) at a commit that the mirror has."""
        self._twice(lambda: self._git("update-ref", ref, sha))

    def update_refs(self, commands: Sequence[str]) -> None:
        """Lines for `git update-ref --stdin`, such as `delete <ref> <value it has>`: all of them, or none."""
        if commands:
            lines = os.fsencode("\n".join(commands) + "\n")
            self._twice(lambda: self._git("update-ref", "--stdin", stdin=lines))

    def clone(self, worktree: Path, sha: str, branch: str, *, files: bool = True) -> list[str]:
        """A clone of its own, with `sha` checked out as `branch`, that borrows the mirror's objects.

        No network, but for submodules and large files that this node does not have yet; returns remarks on these.
        Without `files` it is for git alone, which merges and rebases in it without writing what it does not touch.

        `worktree` must not exist, or be empty. What was made is removed again when it fails (a full disk).
        """
        if worktree.is_dir() and any(worktree.iterdir()):
            raise GitError(f"clone {worktree}", "fatal: the directory exists and is not empty", 128)
        worktree.parent.mkdir(parents=True, exist_ok=True)
        try:
            return self._clone(worktree, sha, branch, files)
        except GitError as error:
            with self.locked():
                if not is_damaged(self, error):
                    raise
                remake(self)
                self._fetch((HEADS, TAGS))
            return self._clone(worktree, sha, branch, files)

    def _clone(self, worktree: Path, sha: str, branch: str, files: bool) -> list[str]:
        try:
            git("init", "--quiet", str(worktree), timeout_s=30)
            self._lend(worktree / ".git")
            if not files and self._can_do_without(sha):
                _leave_files_out(worktree / ".git")
            parallel = ("-c", f"checkout.workers={WRITERS}")
            checkout, failed = (*parallel, "checkout", "--quiet", "--force", "-B", branch, sha, "--"), None
            try:
                git(*checkout, cwd=worktree, login=self.login)
            except GitError as error:
                if not large_files.is_missing(error):
                    raise
                failed = error
                git(*checkout, cwd=worktree, env=large_files.LENIENT, login=self.login)
            return [*submodules.check_out(self, worktree), *large_files.remarks(worktree, failed)]
        except BaseException:
            shutil.rmtree(worktree, ignore_errors=True)
            raise

    def _can_do_without(self, sha: str) -> bool:
        """With submodules it takes their commits to merge them, and they are found by way of the files."""
        return not git("ls-tree", sha, "--", ".gitmodules", cwd=self.path)

    def _lend(self, git_dir: Path) -> None:
        """Objects by reference, branches and tags as one packed file: thousands of them cost no more than one."""
        refs = self._git("for-each-ref", "--format=%(objectname) %(refname)", "refs/remotes/origin", "refs/tags")
        (git_dir / "packed-refs").write_bytes(os.fsencode(refs))
        info = git_dir / "objects" / "info"
        info.mkdir(exist_ok=True)
        (info / "alternates").write_bytes(os.fsencode(self.path / "objects") + b"\n")
        lfs = f'[lfs]\n\tstorage = "{_quoted(str(large_files.store(self.path)))}"\n'  # is lost with the clone otherwise
        if filters := large_files.filters(self.path):
            lfs += '[filter "lfs"]\n' + "".join(f'\t{key} = "{_quoted(value)}"\n' for key, value in filters.items())
        origin = f'[remote "origin"]\n\turl = "{_quoted(self.repository)}"\n\tfetch = {HEADS}\n[gc]\n\tauto = 0\n'
        with (git_dir / "config").open("ab") as config:
            config.write(os.fsencode(origin + lfs))

    def _twice(self, command: Callable[[], object]) -> None:
        """Run it, and once more when it met the lock file of a git process that is dead."""
        try:
            command()
        except GitError as error:
            if not self._remove_stale_lock(error):
                raise
            command()

    def _remove_stale_lock(self, error: GitError) -> bool:
        """A git process that was killed leaves its lock file; git itself never takes that as a sign of death."""
        lock = locks.named_in(error.output, self.path)
        return lock is not None and locks.remove_own(lock, MARK, str(self.path))

    def _set_gone_branches_aside(self) -> bool:
        """The remote replaced branch `a` by `a/b`: the old one moves to refs/gastown/gone/<sha>."""
        present = {ref.removeprefix("refs/heads/") for _, ref in self.list_remote("refs/heads/*")}
        moves = []
        known = self._git("for-each-ref", "--format=%(objectname) %(refname:lstrip=3)", "refs/remotes/origin")
        for line in known.split("\n")[:-1]:
            sha, branch = line.split(" ", 1)
            if branch not in present:
                moves += [f"update refs/gastown/gone/{sha} {sha}", f"delete refs/remotes/origin/{branch} {sha}"]
        self.update_refs(moves)
        return bool(moves)

    @contextmanager
    def locked(self, what: str = "lock") -> Iterator[None]:
        """One fetch, or one push into a checkout, at a time; the lock goes with the process that holds it."""
        deadline = time.monotonic() + NETWORK_TIMEOUT_S
        with self.path.with_suffix(f".{what}").open("ab") as file:
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise GitError(what, "fatal: another use of this mirror does not end", None) from None
                    time.sleep(LOCK_POLL_S)
            yield


def _modules_beside(mirror: Path) -> Path:
    return mirror.parent if mirror.parent.name == MODULES else mirror.parent / MODULES


def _leave_files_out(git_dir: Path) -> None:
    (git_dir / "info").mkdir(exist_ok=True)
    (git_dir / "info" / "sparse-checkout").write_text(_SPARSE)
    with (git_dir / "config").open("a") as config:
        config.write("[core]\n\tsparseCheckout = true\n\tsparseCheckoutCone = false\n")


def _quoted(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def absolute(repository: str) -> str:
    """A path made absolute, so that it means the same everywhere; a URL as it is."""
    path = Path(repository).expanduser()
    return str(path.resolve()) if "://" not in repository and path.exists() else repository
