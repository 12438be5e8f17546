"""Beads that want an attempt, and what holds them."""

from datetime import datetime, timedelta

from gastown.reconcile.actions import CreateDispatch
from gastown.reconcile.decision import Decision
from gastown.reconcile.policy import Policy
from gastown.reconcile.views import BeadView
from gastown.states import Verdict


def hold(view: BeadView, now: datetime, policy: Policy) -> Decision | None:
    """Somebody holds it."""
    return None if view.held_reason is None else Decision(Verdict.HELD, f"held: {view.held_reason}")


def wait_for_failed_blocker(view: BeadView, now: datetime, policy: Policy) -> Decision | None:
    """It waits for a bead that will not be merged: a human has to retry that one, or to do without."""
    failed = [blocker for blocker in view.blockers if blocker.failed]
    if not failed:
        return None
    names = ", ".join(f"{each.id} ({each.resolution or each.status})" for each in failed)
    return Decision(Verdict.BLOCKER_FAILED, f"waits for {names}")


def wait_for_blockers(view: BeadView, now: datetime, policy: Policy) -> Decision | None:
    """It waits for beads that are not merged yet; each wakes it when it is."""
    waiting = [blocker for blocker in view.blockers if not blocker.released]
    if not waiting:
        return None
    return Decision(Verdict.BLOCKED, f"waits for {', '.join(each.id for each in waiting)}")


def cool_down(view: BeadView, now: datetime, policy: Policy) -> Decision | None:
    """Attempts failed: the next one waits out the backoff, unless somebody asked for it by hand."""
    if view.not_before is None or now >= view.not_before or view.forced:
        return None
    because = "" if view.failure is None else f": {view.failure.message}"
    return Decision(Verdict.COOLDOWN, f"next attempt at {view.not_before:%H:%M:%S} UTC{because}", (), view.not_before)


def queue_ready(view: BeadView, now: datetime, policy: Policy) -> Decision | None:
    """Nothing about the bead itself holds it: it waits for a slot."""
    return Decision(Verdict.READY, "ready: waits for a free slot") if view.slot is None else None


def dispatch(view: BeadView, now: datetime, policy: Policy) -> Decision | None:
    """A slot is free for it."""
    assert view.slot is not None
    republish_at = now + timedelta(seconds=policy.republish_s[0])
    action = CreateDispatch(node_id=view.slot.node_id)
    return Decision(Verdict.DISPATCH, f"started on {view.slot.node}", (action,), republish_at)
