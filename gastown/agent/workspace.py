"""The attempt's own clone: how it is made, how its work is kept, and when it may go.

Work is kept in the node's mirror first. Only then may a worktree be removed, and it is renamed before it is, so that
nobody takes a half-removed one for the agent's work; in the same way it gets its name only when it is complete.
"""

import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from gastown.agent import submodules
from gastown.agent.git import GitError, git, succeeds
from gastown.agent.left import keep_left
from gastown.agent.mirror import Mirror
from gastown.agent.protocol import SNAPSHOT, head_ref, wip_ref
from gastown.agent.snapshot import Person, Tree, commit_tree, usable, write_tree


@dataclass(frozen=True)
class Candidate:
    """What an attempt has to offer. `head_sha == base_sha`: nothing."""

    base_sha: str
    head_sha: str


class TwoResults(Exception):
    """The attempt's branch and what is checked out each have work that the other lacks: which is meant?"""


class Workspace:
    """home/work/<bead>/<epoch>, a clone on the branch gt/<bead>. Its methods raise GitError and OSError."""

    def __init__(
        self, home: Path, mirror: Mirror, bead_id: str, epoch: int, person: Person, note: Callable[[str], None]
    ) -> None:
        self.mirror, self.bead_id, self.epoch, self.person = mirror, bead_id, epoch, person
        self.path = home / "work" / bead_id / str(epoch)
        self.wip_ref = wip_ref(bead_id, epoch)
        self.left_out: list[str] = []  # as of the last save
        self._note = note
        self._saved: tuple[str, str, str | None] | None = None  # (head, tree, aside)
        self._unsaved: list[str] = []
        self._taken: str | None = None  # the branch's head that was last taken instead of what is checked out
        self.wip_sha: str | None = None
        self._start_file = self.path.with_name(f".start-{epoch}")
        self.start_sha, self.target_sha = self._recorded_start()
        self._target_ref = ""  # the target in the clone, where the agent may have fetched it anew

    def make(self, branch: str, target: str, start: str) -> None:
        """Clone at `start`, of work for `branch`, which is at `target`.

        Where `start` is a snapshot, its content comes back as the uncommitted work it was.
        """
        self.target_sha, self.start_sha, self._target_ref = target, start, f"refs/remotes/origin/{branch}"
        unfinished = self.path.with_name(f".new-{self.epoch}")
        shutil.rmtree(unfinished, ignore_errors=True)
        for remark in self.mirror.clone(unfinished, start, f"gt/{self.bead_id}"):
            self._note(remark)
        if start != target and self.mirror.is_snapshot(start):
            git("reset", "--quiet", "--mixed", "HEAD^1", cwd=unfinished)
            self.start_sha = git("rev-parse", "HEAD", cwd=unfinished).strip()
        self._start_file.write_text(f"{self.start_sha}\n{target}\n")
        unfinished.rename(self.path)

    def save(self) -> str | None:
        """Keep everything as it is now under the WIP ref in the mirror; returns its SHA when that is news.

        Commits are kept as they are, uncommitted work in a snapshot on top. Snapshots form a chain, so that an earlier
        one stays reachable whatever the agent does to its branch. So does that branch, when it checked out another.
        """
        self._save_modules()
        tree, aside = self._found()
        if (tree.head, tree.sha, aside) == self._saved:
            return None
        if not tree.changed and tree.head == self.start_sha and aside is None:
            return None
        before = self.mirror.resolve(self.wip_ref)
        sha = tree.head
        if tree.changed or aside or (before and not _contains(self.path, before, tree.head)):
            others = dict.fromkeys(parent for parent in (before, aside) if parent and parent != tree.head)
            sha = self._commit(tree, [tree.head, *others], self._snapshot_message())
        self._keep(sha, self.wip_ref)
        self._saved, self.wip_sha = (tree.head, tree.sha, aside), sha
        return sha

    def candidate(self, title: str, trailers: dict[str, str]) -> Candidate:
        """Commit what is left, and keep the result under the candidate's ref in the mirror.

        The base is where this work and the target's head of the attempt's start part. Nothing was changed when the
        result has the content of either: then there is nothing to merge, however many commits say so.
        Raises TwoResults.
        """
        assert self.target_sha is not None
        self._save_modules()
        tree, aside = self._found()
        if aside is not None:
            raise TwoResults(
                f"the work is in two places: branch gt/{self.bead_id} ({aside[:12]}) has commits that what is checked "
                f"out ({tree.head[:12]}) lacks, and that has changes of its own. Both are kept. "
                f"Bring them together on gt/{self.bead_id}, and leave it checked out"
            )
        head = tree.head
        if tree.changed:
            lines = "\n".join(f"{name}: {value}" for name, value in trailers.items())
            head = self._commit(tree, [tree.head], f"{one_line(title)}\n\n{lines}\n")
        self._keep(head, head_ref(self.bead_id, self.epoch))
        if head != self.target_sha:  # in case nobody hears of it: the next attempt then starts from here
            self._keep(self._after_snapshots(head), self.wip_ref)
        base = self._merge_base(head, self.target_sha) or self.target_sha
        trees = git("rev-parse", *(f"{sha}^{{tree}}" for sha in (head, base, self.target_sha)), cwd=self.mirror.path)
        mine, theirs, current = trees.split()
        return Candidate(base, base if mine in (theirs, current) else head)

    def _found(self) -> tuple[Tree, str | None]:
        """The work, and what is aside of it: commits of the attempt's branch that are not checked out.

        When what is checked out adds nothing to that branch (the agent went back to the target), the branch is the
        work and nothing is aside.
        """
        tree, own = self._tree(), self._own_branch()
        target = self.target_sha or self.start_sha
        if own is None or target is None or own == tree.head or not self._beyond(own, tree.head, target):
            return tree, None
        fetched = [self._target_ref] if self._target_ref and _has(self.path, self._target_ref) else []
        if tree.changed or self._beyond(tree.head, own, target, *fetched):
            return tree, own
        if own != self._taken:
            self._taken = own
            self._note(f"{tree.head[:12]} is checked out, and the work is on gt/{self.bead_id}: {own[:12]} is taken")
        content = git("rev-parse", f"{own}^{{tree}}", cwd=self.path).strip()
        return replace(tree, head=own, sha=content, head_tree=content), None

    def _own_branch(self) -> str | None:
        name = f"refs/heads/gt/{self.bead_id}^{{commit}}"
        with suppress(GitError):  # the agent deleted it; its commits are in the reflog
            return git("rev-parse", "--verify", "--quiet", name, cwd=self.path).strip()
        return None

    def _beyond(self, sha: str, *known: str) -> bool:
        """Whether it has commits that none of these has."""
        without = (f"^{each}" for each in known)
        return bool(git("rev-list", "--max-count=1", sha, *without, "--", cwd=self.path).strip())

    def _after_snapshots(self, head: str) -> str:
        """`head`, or a snapshot without changes on top of it, so that earlier snapshots stay reachable."""
        before = self.mirror.resolve(self.wip_ref)
        if before is None or _contains(self.path, before, head):
            return head
        return commit_tree(self.path, f"{head}^{{tree}}", [head, before], self._snapshot_message(), self.person)

    def remove(self) -> bool:
        """Call after the last `save` or `candidate`. False: it holds something that could not be saved, so it stays."""
        if self._unsaved:
            return False
        for own, path in submodules.within(self.mirror, self.path):
            keep_left(own, path, self.bead_id, self.epoch)
        keep_left(self.mirror, self.path, self.bead_id, self.epoch)
        discard(self.path)
        return True

    def _save_modules(self) -> None:
        """What was done in submodules goes to their mirrors under the same name. A result names only their commits."""
        for own, path in submodules.within(self.mirror, self.path):
            tree = write_tree(path, self.path.parent)
            if not tree.changed and own.resolve(tree.head) is not None:
                continue
            sha = tree.head
            if tree.changed:
                sha = commit_tree(path, tree.sha, [tree.head], self._snapshot_message(), self.person)
            before = own.resolve(self.wip_ref)
            if before and git("rev-parse", f"{before}^{{tree}}", cwd=own.path).strip() == tree.sha:
                continue
            if before and not _contains(path, before, sha):
                sha = commit_tree(path, tree.sha, [tree.head, before], self._snapshot_message(), self.person)
            own.keep(path, f"+{sha}:{self.wip_ref}")
            kind = "uncommitted work" if tree.changed else "commits"
            self._note(f"{kind} in submodule {path.relative_to(self.path)}: kept as {self.wip_ref} in {own.path}")

    def _tree(self) -> Tree:
        scratch = self.path.parent
        try:
            tree = write_tree(self.path, scratch)
        except GitError as error:
            if usable(self.path):
                raise
            self._note(f"the clone's .git is unusable ({error.reason}); the files are saved without it")
            self._replace_git()
            tree = write_tree(self.path, scratch)
        if (tree.left_out, tree.unsaved) != (self.left_out, self._unsaved):
            for name in tree.left_out:
                self._note(f"left out: {name}")
            for name in tree.unsaved:
                self._note(f"could not be saved, so {self.path} will stay: {name}")
        self.left_out, self._unsaved = tree.left_out, tree.unsaved
        return tree

    def _recorded_start(self) -> tuple[str | None, str | None]:
        """(start, target), as far as they were written down."""
        try:
            start, target, *_ = [*self._start_file.read_text().split(), None, None]
        except OSError:
            return None, None
        return start, target

    def _replace_git(self) -> None:
        """Set a broken .git aside, so that the files count as changes to what the attempt started from."""
        start = self.start_sha or self.mirror.resolve(self.wip_ref)
        if start is None or self.mirror.resolve(start) is None:
            raise GitError("snapshot", f"fatal: {self.path}/.git is broken, and where it started is not known", 128)
        own = self.path / ".git"
        made = self.path.with_name(f".new-{self.epoch}")
        shutil.rmtree(made, ignore_errors=True)
        self.mirror.clone(made, start, f"gt/{self.bead_id}")
        if own.exists():
            own.rename(self.path.with_name(f".broken-{self.epoch}-{os.getpid()}"))
        (made / ".git").rename(own)
        shutil.rmtree(made, ignore_errors=True)

    def _snapshot_message(self) -> str:
        return f"Work in progress on {self.bead_id}\n\n{SNAPSHOT}: {self.epoch}\n"

    def _commit(self, tree: Tree, parents: Sequence[str], message: str) -> str:
        return commit_tree(self.path, tree.sha, parents, message, self.person)

    def _keep(self, sha: str, ref: str) -> None:
        try:
            self.mirror.keep(self.path, f"+{sha}:{ref}")
        except GitError as error:
            lock = self.mirror.path / f"{ref}.lock"
            if not lock.exists():
                raise
            lock.unlink()  # only this attempt writes this ref, and only one process at a time: its writer was killed
            self._note(f"removed a stale lock on {ref} ({error.reason})")
            self.mirror.keep(self.path, f"+{sha}:{ref}")

    def _merge_base(self, head: str, target: str) -> str | None:
        with suppress(GitError):
            return git("merge-base", head, target, cwd=self.mirror.path).strip()
        return None


def leftovers(home: Path, bead_id: str, epoch: int) -> list[int]:
    """Earlier attempts on this bead whose worktree is still here, oldest first."""
    folder = home / "work" / bead_id
    names = os.listdir(folder) if folder.is_dir() else []
    for name in names:
        kind, _, number = name.rpartition("-")
        if kind in (".new", ".gone") and number.isdigit() and int(number) < epoch:
            shutil.rmtree(folder / name, ignore_errors=True)  # never complete, or saved before
        elif kind == ".start" and number not in names and number.isdigit() and int(number) < epoch:
            (folder / name).unlink(missing_ok=True)
    return sorted(int(name) for name in names if name.isdigit() and int(name) < epoch)


def discard(path: Path) -> None:
    """Remove a worktree whose work is safe."""
    gone = path.with_name(f".gone-{path.name}")
    path.with_name(f".start-{path.name}").unlink(missing_ok=True)
    shutil.rmtree(gone, ignore_errors=True)
    path.rename(gone)
    shutil.rmtree(gone, ignore_errors=True)
    with suppress(OSError):
        path.parent.rmdir()  # the bead's, if this was its last


def one_line(title: str) -> str:
    return " ".join(title.split()) or "Untitled"


def _has(worktree: Path, ref: str) -> bool:
    return succeeds("rev-parse", "--verify", "--quiet", f"{ref}^{{commit}}", cwd=worktree)


def _contains(worktree: Path, ancestor: str, descendant: str) -> bool:
    try:
        git("merge-base", "--is-ancestor", ancestor, descendant, cwd=worktree)
    except GitError:
        return False
    return True
