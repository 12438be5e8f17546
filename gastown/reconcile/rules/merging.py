"""Beads whose work is done and on its way into the target."""

from datetime import datetime, timedelta

from gastown.reconcile.actions import AskMerge, ReclaimMerge
from gastown.reconcile.decision import Decision
from gastown.reconcile.policy import Policy
from gastown.reconcile.views import BeadView, MergeView
from gastown.states import MERGING, BeadStatus, HoldCode, MergeStatus, Verdict


def await_merge(view: BeadView, now: datetime, policy: Policy) -> Decision | None:
    """It is being merged or pushed: the lease on it runs."""
    merge = view.merge
    if merge is None or merge.status not in MERGING:
        return None
    if merge.lease_expires_at is None or now >= merge.lease_expires_at:
        return None
    what = "merged into" if merge.status is MergeStatus.IN_PROGRESS else "pushed to"
    unknown = f", so far without an answer: {merge.held_reason}" if _had_no_answer(merge) else ""
    return Decision(Verdict.AWAITING_MERGE, f"being {what} {merge.target}{unknown}", (), merge.lease_expires_at)


def reclaim_expired(view: BeadView, now: datetime, policy: Policy) -> Decision | None:
    """The worker of a merge is gone. Before the push it is queued again; in the push, the target is looked at."""
    merge = view.merge
    if merge is None or merge.status not in MERGING:
        return None
    if merge.status is MergeStatus.PUSHING:
        again = now + timedelta(seconds=policy.merge_look_s)
        why = f"the worker that pushed to {merge.target} is gone"
        if _had_no_answer(merge):
            why = f"the push to {merge.target} had no answer ({merge.held_reason})"
        reason = f"{why}; the target is looked at"
        return Decision(Verdict.AWAITING_MERGE, reason, (AskMerge(merge_id=merge.id),), again)
    reason = f"the worker that merged into {merge.target} is gone; merged anew"
    return Decision(Verdict.AWAITING_MERGE, reason, (ReclaimMerge(merge_id=merge.id),), now)


def await_batch(view: BeadView, now: datetime, policy: Policy) -> Decision | None:
    """It is gated together with others of its queue, by the worker of the first of them."""
    merge = view.merge
    if merge is None or merge.batch is None:
        return None
    again = now + timedelta(seconds=policy.merge_look_s)
    return Decision(Verdict.AWAITING_MERGE, f"being merged into {merge.target} together with {merge.batch}", (), again)


def await_approval(view: BeadView, now: datetime, policy: Policy) -> Decision | None:
    """It is on a branch of its own, gated, and a person has to merge that; the target is looked at now and then."""
    merge = view.merge
    if merge is None or merge.held_code != HoldCode.AWAITING_APPROVAL or merge.held_reason is None:
        return None
    if merge.look_at is not None and now >= merge.look_at:
        again = now + timedelta(seconds=policy.merge_look_s)
        return Decision(Verdict.AWAITING_APPROVAL, merge.held_reason, (AskMerge(merge_id=merge.id),), again)
    return Decision(Verdict.AWAITING_APPROVAL, merge.held_reason, (), merge.look_at)


def _had_no_answer(merge: MergeView) -> bool:
    return merge.status is MergeStatus.PUSHING and merge.held_code == HoldCode.UNREACHABLE


def hold_merge(view: BeadView, now: datetime, policy: Policy) -> Decision | None:
    """Something outside has to change first: a conflict, a red gate, a dirty checkout, a repository that is away."""
    merge = view.merge
    if merge is None or merge.held_reason is None:
        return None
    if merge.look_at is not None and now >= merge.look_at:
        again = now + timedelta(seconds=policy.merge_look_s)
        return Decision(Verdict.MERGE_HELD, merge.held_reason, (AskMerge(merge_id=merge.id),), again)
    reason = merge.held_reason
    if merge.rework is not None:
        reason += f"; {merge.rework.id} was to mend that, and is {merge.rework.resolution or merge.rework.status}"
    return Decision(Verdict.MERGE_HELD, reason, (), merge.look_at)


def queue_behind(view: BeadView, now: datetime, policy: Policy) -> Decision | None:
    """Merges into one target go one after another. The one ahead wakes the next, unless it ended as this one came."""
    merge = view.merge
    if merge is None or merge.ahead is None:
        return None
    again = now + timedelta(seconds=policy.merge_look_s)
    return Decision(Verdict.AWAITING_MERGE, f"other merges into {merge.target} go first", (), again)


def ask_merge(view: BeadView, now: datetime, policy: Policy) -> Decision | None:
    """It is next. The message may be lost, so it is asked for again until a worker claims it."""
    merge = view.merge
    if merge is None:
        return Decision(Verdict.AWAITING_MERGE, "nothing to merge") if view.status is BeadStatus.IN_REVIEW else None
    again = timedelta(seconds=policy.merge_look_s)
    reason = f"next to be merged into {merge.target}"
    if merge.asked_at is not None and now < merge.asked_at + again:
        return Decision(Verdict.AWAITING_MERGE, reason, (), merge.asked_at + again)
    return Decision(Verdict.AWAITING_MERGE, reason, (AskMerge(merge_id=merge.id),), now + again)
