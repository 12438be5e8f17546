"""Merge requests that an agent has to mend, or to read, before they are merged."""

from datetime import datetime

from gastown.reconcile.actions import CloseReview, CreateReview, CreateRework, FailMerge
from gastown.reconcile.decision import Decision
from gastown.reconcile.policy import Policy
from gastown.reconcile.views import BeadView, MergeView
from gastown.states import MERGING, REWORKED, HoldCode, Purpose, Verdict


def await_rework(view: BeadView, now: datetime, policy: Policy) -> Decision | None:
    """A bead of its own mends what holds its merge; when that is done, the merge goes on by itself."""
    merge = view.merge
    if merge is None or merge.rework is None or merge.rework.over:
        return None
    reason = f"{merge.rework.id} mends what holds its merge (round {merge.rounds}): {merge.held_reason}"
    return Decision(Verdict.AWAITING_REWORK, reason)


def give_up_merge(view: BeadView, now: datetime, policy: Policy) -> Decision | None:
    """So many rounds of rework did not get it merged: it fails, and a person is asked."""
    merge = _to_rework(view, policy)
    if merge is None or merge.rounds < policy.rework_rounds:
        return None
    message = f"not merged after {merge.rounds} rounds of rework: {merge.held_reason}"
    return Decision(Verdict.EXHAUSTED, message, (FailMerge(merge_id=merge.id, message=message),))


def rework(view: BeadView, now: datetime, policy: Policy) -> Decision | None:
    """A conflict, a red gate or a reviewer holds its merge: an agent mends that, from the head of the merge request."""
    merge = _to_rework(view, policy)
    if merge is None or merge.rework_agent is None:
        return None
    purpose = Purpose.CONFLICT if merge.held_code == HoldCode.CONFLICT else Purpose.REWORK
    action = CreateRework(merge_id=merge.id, purpose=purpose, agent=merge.rework_agent)
    reason = f"{merge.rework_agent} is to mend what holds its merge: {merge.held_reason}"
    return Decision(Verdict.AWAITING_REWORK, reason, (action,), now)  # again at once: its name is known then


def _to_rework(view: BeadView, policy: Policy) -> MergeView | None:
    """Its merge, if that is held by what an agent may mend, and none has begun to."""
    merge = view.merge
    if merge is None or merge.rework is not None or merge.rework_agent is None or policy.rework_rounds == 0:
        return None
    return merge if merge.status not in MERGING and merge.held_code in REWORKED else None


def close_unasked(view: BeadView, now: datetime, policy: Policy) -> Decision | None:
    """A review that was answered, or whose merge request went on without it, is closed: no further attempt reads it."""
    if not view.unasked or view.live is not None:
        return None
    reason = "nobody waits for this review any more"
    return Decision(Verdict.TERMINAL, reason, (CloseReview(reason=reason),))


def await_review(view: BeadView, now: datetime, policy: Policy) -> Decision | None:
    """Another agent has to approve its head, and has not yet."""
    merge = view.merge
    if merge is None or merge.review_agent is None or merge.reviewed or merge.review is None:
        return None
    if not merge.review.over:
        return Decision(Verdict.AWAITING_REVIEW, f"{merge.review.id} reviews it")
    ended = merge.review.resolution or merge.review.status
    reason = f"{merge.review.id} was to review it, and is {ended}"
    return Decision(Verdict.AWAITING_REVIEW, reason)


def ask_review(view: BeadView, now: datetime, policy: Policy) -> Decision | None:
    """Its rig wants each head approved before it is merged: a bead is made for an agent that reads it."""
    merge = view.merge
    if merge is None or merge.review_agent is None or merge.reviewed or merge.status in MERGING:
        return None
    action = CreateReview(merge_id=merge.id, agent=merge.review_agent)
    return Decision(Verdict.AWAITING_REVIEW, f"{merge.review_agent} is to review it", (action,), now)
