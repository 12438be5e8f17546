"""What a piece of work changed, out of a rig's mirror."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gastown.agent.git import GitError, git
from gastown.agent.mirror import Mirror
from gastown.errors import NotFound
from gastown.refinery import making
from gastown.refinery.remote import has_commit, translated


@dataclass(frozen=True)
class Change:
    """All that lies between two commits of a mirror."""

    mirror: Mirror
    base_sha: str
    sha: str

    def text(self, *options: str) -> str:
        """As `git diff` says it. Raises RepositoryUnavailable and GitFailed."""
        try:
            flags = ("--no-ext-diff", "--no-textconv", *options)
            return git("diff", *flags, self.base_sha, self.sha, "--", cwd=self.mirror.path)
        except GitError as error:
            raise translated(error, self.mirror.repository) from error


def merged(home: Path, rig_id: int, repository: str, sha: str, refs: Sequence[str], dispatch_id: str) -> Change:
    """What a merge brought: against its first parent, or against what its first rebased commit stands on.

    Raises NotFound when neither mirror nor remote has it, RepositoryUnavailable when the mirror has it not and the
    remote gives no answer, and GitFailed.
    """
    mirror = _with(home, rig_id, repository, sha, refs)
    try:
        return Change(mirror, making.stands_on(mirror, sha, dispatch_id), sha)
    except GitError as error:
        raise translated(error, repository) from error


def unmerged(
    home: Path, rig_id: int, repository: str, sha: str, refs: Sequence[str], base_sha: str | None, target: str
) -> Change:
    """What an attempt made of its base; of an unknown base, of the newest commit that it has in common with the target.

    Raises as `merged` does.
    """
    mirror = _with(home, rig_id, repository, sha, refs)
    try:
        if base_sha is not None and mirror.resolve(base_sha):
            return Change(mirror, base_sha, sha)
        tip = mirror.target(target)
        if tip is None:
            mirror.fetch()
            tip = mirror.target(target)
        shared = making.common(mirror, sha, tip) if tip else []
    except GitError as error:
        raise translated(error, repository) from error
    if not shared:
        raise NotFound(
            "commit", f"that {sha[:12]} and {target} have in common", hint=f"git -C {mirror.path} show {sha}"
        )
    return Change(mirror, shared[0], sha)


def _with(home: Path, rig_id: int, repository: str, sha: str, refs: Sequence[str]) -> Mirror:
    try:
        mirror = Mirror.open(home, rig_id, repository)
        if not has_commit(mirror, sha, *refs):
            hint = f"another machine may have it, or somebody removed it from {repository}"
            raise NotFound("commit", f"{sha[:12]} in this machine's mirror or on {repository}", hint=hint)
    except GitError as error:
        raise translated(error, repository) from error
    return mirror
