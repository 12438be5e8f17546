"""Beads that want an attempt, and what holds them."""

from datetime import datetime, timedelta

from gastown.reconcile.actions import CreateDispatch, Escalate
from gastown.reconcile.decision import Decision
from gastown.reconcile.policy import Policy
from gastown.reconcile.views import BeadView
from gastown.states import Verdict


def hold(view: BeadView, now: datetime, policy: Policy) -> Decision | None:
    """Somebody holds it."""
    return None if view.held_reason is None else Decision(Verdict.HELD, f"held: {view.held_reason}")


def wait_for_failed_blocker(view: BeadView, now: datetime, policy: Policy) -> Decision | None:
    """It waits for a bead that will not be merged: a person has to retry that one, or to do without."""
    failed = [blocker for blocker in view.blockers if blocker.failed]
    if not failed:
        return None
    names = ", ".join(f"{each.id} ({each.resolution or each.status})" for each in failed)
    asks = tuple(
        Escalate(
            cause=f"blocker:{each.id}",
            message=f"{each.id} is {each.resolution or each.status}, and {view.id} waits for it: "
            f"gastown bead retry {each.id}, or cancel {view.id}",
        )
        for each in failed
    )
    return Decision(Verdict.BLOCKER_FAILED, f"waits for {names}", asks)


def wait_for_blockers(view: BeadView, now: datetime, policy: Policy) -> Decision | None:
    """It waits for beads that are not merged yet; each wakes it when it is."""
    waiting = [blocker for blocker in view.blockers if not blocker.released]
    if not waiting:
        return None
    return Decision(Verdict.BLOCKED, f"waits for {', '.join(each.id for each in waiting)}")


def wait_out_infra(view: BeadView, now: datetime, policy: Policy) -> Decision | None:
    """Attempts fail by the machine's fault, again and again: it goes on trying, rarely, and a person is asked."""
    if view.failure is None or view.infra_failures < policy.infra_failing_after or not _cools(view, now):
        return None
    code, message = view.failure.code, view.failure.message
    told = f"{view.infra_failures} attempts in a row failed by no fault of the agent"
    ask = Escalate(cause=f"infra:{code}", message=f"{view.id}: {told}, the last with {code}: {message}")
    reason = f"{told}; next attempt at {view.not_before:%H:%M:%S} UTC: {message}"
    return Decision(Verdict.INFRA_FAILING, reason, (ask,), view.not_before)


def _cools(view: BeadView, now: datetime) -> bool:
    return view.not_before is not None and now < view.not_before and not view.forced


def cool_down(view: BeadView, now: datetime, policy: Policy) -> Decision | None:
    """Attempts failed: the next one waits out the backoff, unless somebody asked for it by hand."""
    if not _cools(view, now):
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
