"""The strategy `branch`: the work is a branch gt/<bead> on the rig's own remote, and a person merges that."""

from collections.abc import Collection
from dataclasses import replace

from gastown.agent.git import GitError
from gastown.agent.mirror import Mirror
from gastown.errors import RepositoryUnavailable
from gastown.gates import MergeMethod
from gastown.refinery import arriving, making, worktrees
from gastown.refinery.forges import (
    ByHand,
    Closed,
    Conflicting,
    HeadMoved,
    Merged,
    MergeOutcome,
    OpenOutcome,
    Published,
    PushRefused,
    Status,
    Taken,
    Unknown,
    Waiting,
)
from gastown.refinery.jobs import Held, MergeJob, presentable
from gastown.refinery.pushing import refusal_of
from gastown.refinery.remote import fetch_target, has_commit, is_ancestor, translated

HEADS = "refs/heads/"
TRIES = 3  # of a push, when the branch moves under it


def branch_of(bead_id: str) -> str:
    return f"gt/{bead_id}"


class BranchForge:
    """A `Forge` without a forge: what people did is read from the branches of the remote."""

    def open(self, job: MergeJob, ours: Collection[str]) -> OpenOutcome:
        """Also published when somebody has put commits on top of the head there."""
        mirror = Mirror.open(job.home, job.rig_id, job.repository)
        try:
            if not has_commit(mirror, job.head_sha, job.head_ref):
                return PushRefused(f"commit {job.head_sha[:12]} is neither on this machine nor on {job.repository}")
            for _ in range(TRIES):
                outcome = _open(mirror, job, ours)
                if outcome is not None:
                    return outcome
        except GitError as error:
            return Unknown(presentable(error.reason))
        return Unknown(f"{branch_of(job.bead_id)} moved each time while it was pushed")

    def status(self, job: MergeJob, published: Published, seen: str | None = None) -> Status:
        mirror = Mirror.open(job.home, job.rig_id, job.repository)
        try:
            return _status(mirror, job, published, seen)
        except GitError as error:
            known = translated(error, job.repository)
            if isinstance(known, RepositoryUnavailable):
                return Unknown(str(known))
            raise known from error

    def merge(self, job: MergeJob, published: Published, head_sha: str) -> MergeOutcome:
        try:
            there = _heads(Mirror.open(job.home, job.rig_id, job.repository), published.ref).get(published.ref)
        except GitError as error:
            return Unknown(presentable(error.reason))
        return ByHand() if there == head_sha else HeadMoved(there)

    def close(self, job: MergeJob, published: Published) -> str | None:
        mirror = Mirror.open(job.home, job.rig_id, job.repository)
        try:
            there = _heads(mirror, published.ref).get(published.ref)
            if there is None:
                return None
            if there != published.sha:
                return f"somebody pushed to it: it is at {there[:12]}, and was published at {published.sha[:12]}"
            mirror.push(f":{HEADS}{published.ref}", options=(_lease(published.ref, published.sha),))
        except GitError as error:
            return presentable(error.reason)
        return None


def _open(mirror: Mirror, job: MergeJob, ours: Collection[str]) -> OpenOutcome | None:
    """None: it moved between look and push. Raises GitError when there is no answer."""
    branch = branch_of(job.bead_id)
    published = Published(ref=branch, sha=job.head_sha)
    there = _heads(mirror, branch).get(branch)
    if there == job.head_sha:
        return published
    if there is not None and there not in ours:
        if fetch_target(mirror, branch) == there and is_ancestor(mirror, job.head_sha, there):
            return published
        return Taken(
            f"branch {branch} of {job.repository} is at {there[:12]}, which Gastown did not put there: "
            f"it is not overwritten"
        )
    try:
        mirror.push(f"{job.head_sha}:{HEADS}{branch}", options=(_lease(branch, there or ""),))
    except GitError as error:
        if error.stale:
            return None
        if "branch is currently checked out" in error.output:
            return PushRefused(f"branch {branch} is checked out in {job.repository}: check out another one there")
        refused = refusal_of(error, job.repository)
        return Unknown(presentable(error.reason)) if refused is None else refused
    return published


def _status(mirror: Mirror, job: MergeJob, published: Published, seen: str | None) -> Status:
    branch = published.ref
    heads = _heads(mirror, job.target, branch)
    there = heads.get(branch)
    if seen is not None and heads.get(job.target) == seen and there == published.sha:
        return Waiting(target_sha=seen)
    if there is not None:
        there = fetch_target(mirror, branch)
    target = fetch_target(mirror, job.target)  # after the branch: it may have been merged, and deleted, meanwhile
    if target is None:
        return Unknown(f"{job.repository} has no branch {job.target} any more")
    if not has_commit(mirror, published.sha, job.head_ref):
        return Unknown(f"commit {published.sha[:12]} is neither in this machine's mirror nor on {job.repository}")
    known = mirror.target(branch)  # also that of a branch which is gone, as it was seen last
    on_top = known is not None and known != published.sha and is_ancestor(mirror, published.sha, known)
    tip = known if known is not None and on_top else published.sha
    for head in dict.fromkeys((published.sha, tip)):
        if (brought := arriving.arrived(mirror, head, target, seen)) is not None:
            return Merged(brought)
    if there is None:
        return Closed(f"branch {branch} was deleted, and {job.target} does not have its commits")
    if there not in (published.sha, tip):
        return Waiting(target_sha=target, remark=f"somebody moved it to {there[:12]}, which lacks what was gated")
    return _against(mirror, job, tip, target, theirs=tip != published.sha)


def _against(mirror: Mirror, job: MergeJob, tip: str, target: str, *, theirs: bool) -> Status:
    """What a merge would make of it. A conflict in a branch that a person works on is left to that person."""
    parent = worktrees.directory(job.home, job.rig_id)
    trial = replace(job, head_sha=tip, method=MergeMethod.MERGE)
    path = parent / f"{job.bead_id}-{job.merge_epoch}"
    with worktrees.fresh(mirror, path, target, job.target, files=False) as worktree:
        made = making.make(trial, mirror, worktree.path, target)
    added = "somebody added commits to it"
    if not isinstance(made, Held):
        if making.is_empty(mirror, made, target):
            return Merged(arriving.last_change(mirror, tip, target))
        return Waiting(target_sha=target, remark=added if theirs else "")
    if theirs:
        return Waiting(target_sha=target, remark=f"{added}, and it {made.reason}")
    return Conflicting(reason=made.reason, output=made.output, target_sha=target)


def _heads(mirror: Mirror, *branches: str) -> dict[str, str]:
    """The commit of each of these branches that the remote has now."""
    listed = mirror.list_remote(*(f"{HEADS}{branch}" for branch in branches))
    names = {f"{HEADS}{branch}": branch for branch in branches}  # a pattern also matches refs that only end like it
    return {names[ref]: sha for sha, ref in listed if ref in names}


def _lease(branch: str, expected: str) -> str:
    return f"--force-with-lease={HEADS}{branch}:{expected}"
