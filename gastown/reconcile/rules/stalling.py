"""Attempts that beat and get nowhere: a permission prompt, a question, a loop. The progress clock sees them."""

from datetime import datetime, timedelta

from gastown.reconcile.actions import Action, Escalate, NoteStall
from gastown.reconcile.decision import Decision
from gastown.reconcile.policy import Policy
from gastown.reconcile.views import BeadView, DispatchView
from gastown.states import DispatchStatus, Verdict

NUDGED, ASKED = 1, 2  # tiers as they are stored


def stands_still_since(view: BeadView) -> datetime | None:
    """Since when it shows no progress. None: nobody can say, because a tool runs or the API was away of late.

    After a silence of the API the clock begins anew: what happened meanwhile may not have arrived.
    """
    live = view.live
    if live is None or live.status is not DispatchStatus.RUNNING or live.tool_running or view.outage:
        return None
    since = live.progress_at or live.started_at
    if since is None or live.api_back_at is None:
        return since
    return max(since, live.api_back_at)


def next_tier_at(view: BeadView, policy: Policy) -> datetime | None:
    """When it will have stood still for the next tier that it has not had."""
    since = stands_still_since(view)
    if view.live is None or since is None:
        return None
    waits = (policy.stall_nudge_s, policy.stall_escalate_s, policy.stall_stop_s)
    return since + timedelta(seconds=waits[min(view.live.stall_tier, ASKED)])


def escalate_stalled(view: BeadView, now: datetime, policy: Policy) -> Decision | None:
    """No progress for long: a person is asked, once for each attempt."""
    since = stands_still_since(view)
    if view.live is None or since is None or view.live.stall_tier >= ASKED:
        return None
    if now < since + timedelta(seconds=policy.stall_escalate_s):
        return None
    stop_at = since + timedelta(seconds=policy.stall_stop_s)
    words = f"attempt {view.live.epoch} shows no progress since {since:%H:%M:%S} UTC"
    message = f"{view.id}: {words}; look at `gastown logs {view.id}`. It is stopped at {stop_at:%H:%M:%S} UTC"
    return _note(view, view.live, now, ASKED, words, (Escalate(cause=f"stalled:{view.id}", message=message),))


def nudge_stalled(view: BeadView, now: datetime, policy: Policy) -> Decision | None:
    """No progress for a while, and no tool runs: it is noted, once for each attempt."""
    since = stands_still_since(view)
    if view.live is None or since is None or view.live.stall_tier >= NUDGED:
        return None
    if now < since + timedelta(seconds=policy.stall_nudge_s):
        return None
    words = f"attempt {view.live.epoch} shows no progress since {since:%H:%M:%S} UTC"
    return _note(view, view.live, now, NUDGED, words, ())


def _note(
    view: BeadView, live: DispatchView, now: datetime, tier: int, words: str, more: tuple[Action, ...]
) -> Decision:
    """Looked at once more at once, with the tier on its row."""
    note = NoteStall(dispatch_id=live.id, tier=tier, message=words)
    return Decision(Verdict.AWAITING_AGENT, words, (note, *more), now)
