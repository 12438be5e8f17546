"""Attempts that are queued or starting: until their first call, nobody knows whether they exist."""

from datetime import datetime, timedelta

from gastown.reconcile.actions import InspectContainers, RollBack, StartContainer
from gastown.reconcile.decision import Decision
from gastown.reconcile.policy import Policy
from gastown.reconcile.views import BeadView
from gastown.states import DispatchStatus, FailureCode, Verdict


def give_up_unclaimed(view: BeadView, now: datetime, policy: Policy) -> Decision | None:
    """No worker of the node claimed the start: it is rolled back and placed anew.

    Not while the API is away or has just come back: the machine slept, perhaps, and the node is not to blame.
    """
    live = view.live
    if live is None or live.status is not DispatchStatus.QUEUED or view.outage:
        return None
    if now < live.queued_at + timedelta(seconds=policy.queued_timeout_s):
        return None
    message = f"no worker on {live.node} took the start for {policy.queued_timeout_s:.0f} s"
    action = RollBack(dispatch_id=live.id, code=FailureCode.NO_NODE, message=message)
    return Decision(Verdict.ROLLED_BACK, message, (action,), now)


def publish_queued(view: BeadView, now: datetime, policy: Policy) -> Decision | None:
    """The message may be lost: it is published again, ever more rarely. Claiming makes a double harmless."""
    live = view.live
    if live is None or live.status is not DispatchStatus.QUEUED:
        return None
    give_up = live.queued_at + timedelta(seconds=policy.queued_timeout_s)
    if give_up <= now:
        give_up = now + timedelta(seconds=policy.api_silence_s)
    later = [at for delay in policy.republish_s if (at := live.queued_at + timedelta(seconds=delay)) > now]
    again = () if now < live.queued_at + timedelta(seconds=policy.republish_s[0]) else _start(view)
    return Decision(
        Verdict.AWAITING_START, f"attempt {live.epoch} is queued on {live.node}", again, min([*later, give_up])
    )


def _start(view: BeadView) -> tuple[StartContainer, ...]:
    assert view.live is not None
    return (StartContainer(dispatch_id=view.live.id, node=view.live.node),)


def roll_back_absent(view: BeadView, now: datetime, policy: Policy) -> Decision | None:
    """Nobody is inside the start any more, and an inspection after that found nothing: it did not start."""
    live = view.live
    if live is None or live.status is not DispatchStatus.STARTING or live.seen != "absent":
        return None
    if live.call_ended_at is None or live.seen_at is None or live.seen_at < live.call_ended_at:
        return None
    message = f"attempt {live.epoch} was not there after its start"
    action = RollBack(dispatch_id=live.id, code=FailureCode.START_ERROR, message=message)
    return Decision(Verdict.ROLLED_BACK, message, (action,), now)


def expire_start(view: BeadView, now: datetime, policy: Policy) -> Decision | None:
    """No first call for the whole start lease. What became of it is unknown, so its retry waits a while."""
    live = view.live
    if live is None or live.status is not DispatchStatus.STARTING or live.starting_at is None or view.outage:
        return None
    if now < live.starting_at + timedelta(seconds=policy.start_timeout_s):
        return None
    message = f"attempt {live.epoch} made no call within {policy.start_timeout_s:.0f} s of its start"
    action = RollBack(dispatch_id=live.id, code=FailureCode.START_TIMEOUT, message=message)
    return Decision(Verdict.ROLLED_BACK, message, (action,), now)


def await_first_call(view: BeadView, now: datetime, policy: Policy) -> Decision | None:
    """A start under way. When it takes long, its node is asked whether it is there."""
    live = view.live
    if live is None or live.status is not DispatchStatus.STARTING:
        return None
    began = live.starting_at or live.queued_at
    ask_at = began + timedelta(seconds=policy.inspect_start_s)
    doubtful = live.call_ended_at is not None and (live.seen_at is None or live.seen_at < live.call_ended_at)
    late = now >= ask_at
    inspect = (InspectContainers(node=live.node),) if late or (doubtful and live.heartbeat_at is None) else ()
    next_look = now + timedelta(seconds=policy.inspect_start_s) if late else ask_at
    return Decision(Verdict.AWAITING_START, f"attempt {live.epoch} is starting on {live.node}", inspect, next_look)
