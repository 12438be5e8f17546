"""Feature branches: made before the first merge into one, and restored when what was merged there is missing.

The branch of a convoy may be deleted or moved by anybody; what its members made is known by the head that was recorded
with the last merge into it.
"""

from typing import assert_never

from gastown.agent.mirror import Mirror
from gastown.refinery import pushing
from gastown.refinery.jobs import (
    Dirty,
    Held,
    MergeJob,
    Moved,
    Prepared,
    Pushed,
    PushOutcome,
    PushRefused,
    Unknown,
    presentable,
)
from gastown.refinery.remote import fetch_target, has_commit, is_ancestor
from gastown.states import HoldCode

ABSENT = ""  # as the head of a branch that a push expects


def ensure(mirror: Mirror, job: MergeJob) -> str | Held:
    """The head of the job's target on the remote, which has all that was merged into it before. Raises GitError."""
    head = fetch_target(mirror, job.target)
    wanted = _recorded(mirror, job, head) if job.made_at else head or _base(mirror, job)
    if isinstance(wanted, Held) or wanted == head:
        return wanted
    restored = Prepared(merge_sha=wanted, base_sha=wanted, expected_sha=head or ABSENT)
    refused = _why_not(job, pushing.push(job, restored))
    return wanted if refused is None else refused


def _base(mirror: Mirror, job: MergeJob) -> str | Held:
    """Nothing was merged yet: it begins where it lands."""
    assert job.made_from is not None
    base = fetch_target(mirror, job.made_from)
    if base is not None:
        return base
    reason = f"{job.repository} has no branch {job.made_from} any more"
    return Held(code=HoldCode.UNREACHABLE, reason=presentable(reason))


def _recorded(mirror: Mirror, job: MergeJob, head: str | None) -> str | Held:
    """What it was, with whatever somebody pushed on top of that."""
    assert job.made_at is not None
    if not has_commit(mirror, job.made_at, f"refs/heads/{job.target}"):
        reason = f"{job.target} was at {job.made_at[:12]}, which is neither on {job.repository} nor in this mirror"
        return Held(code=HoldCode.HEAD_MISSING, reason=presentable(reason))
    if head is None or is_ancestor(mirror, head, job.made_at):
        return job.made_at
    if is_ancestor(mirror, job.made_at, head):
        return head
    reason = (
        f"somebody rewrote {job.target} on {job.repository}: it lacks {job.made_at[:12]}, which members of its convoy "
        f"were merged as. Delete the branch there, and it is made anew from that, or push a merge of both"
    )
    return Held(code=HoldCode.HEAD_MISSING, reason=presentable(reason))


def _why_not(job: MergeJob, outcome: PushOutcome) -> Held | None:
    match outcome:
        case Pushed():
            return None
        case PushRefused(reason=reason):
            return Held(code=HoldCode.PUSH_REFUSED, reason=reason)
        case Moved():
            return Held(code=HoldCode.UNREACHABLE, reason=f"{job.target} moved while it was made")
        case Dirty(paths=paths):
            reason = f"uncommitted changes in {job.repository} are in the way: {', '.join(paths[:5])}"
            return Held(code=HoldCode.UNREACHABLE, reason=presentable(reason))
        case Unknown(reason=reason):
            return Held(code=HoldCode.UNREACHABLE, reason=reason)
        case _:
            assert_never(outcome)
