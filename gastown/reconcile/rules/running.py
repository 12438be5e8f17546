"""Attempts that have made their first call."""

from datetime import datetime, timedelta

from gastown.reconcile.actions import Lose
from gastown.reconcile.decision import Decision
from gastown.reconcile.policy import Policy
from gastown.reconcile.views import BeadView
from gastown.states import DispatchStatus, FailureCode, Verdict


def lose_vanished(view: BeadView, now: datetime, policy: Policy) -> Decision | None:
    """An inspection after its last heartbeat found no process of it: it is gone, and its lease need not run out.

    When the API was away meanwhile, so was its machine perhaps: a reboot is no fault of the agent.
    """
    live = view.live
    if live is None or live.status is not DispatchStatus.RUNNING or live.seen != "absent":
        return None
    if live.seen_at is None or (live.heartbeat_at is not None and live.seen_at <= live.heartbeat_at):
        return None
    gone = FailureCode.NODE_LOST if live.api_was_away else FailureCode.VANISHED
    code = FailureCode.OOM if live.seen_oom else gone
    ending = "no exit code is known" if live.seen_exit_code is None else f"exit code {live.seen_exit_code}"
    message = f"the process of attempt {live.epoch} is gone from {live.node} ({ending})"
    action = Lose(dispatch_id=live.id, code=code, message=message, exit_code=live.seen_exit_code)
    return Decision(Verdict.LOST, message, (action,), now)


def lose_silent(view: BeadView, now: datetime, policy: Policy) -> Decision | None:
    """No heartbeat for a whole lease in which the API was there: the agent or its host is gone."""
    live = view.live
    if live is None or live.status is not DispatchStatus.RUNNING or view.outage or live.lease_expires_at is None:
        return None
    if now < live.lease_expires_at:
        return None
    silent = "never" if live.heartbeat_at is None else f"since {live.heartbeat_at:%H:%M:%S}"
    message = f"attempt {live.epoch} is silent {silent}"
    return Decision(
        Verdict.LOST, message, (Lose(dispatch_id=live.id, code=FailureCode.HEARTBEAT_LOST, message=message),), now
    )


def await_agent(view: BeadView, now: datetime, policy: Policy) -> Decision | None:
    """It is at work. The next look is when its lease would run out."""
    live = view.live
    if live is None:
        return None
    expiry = live.lease_expires_at or now
    # the lease is over and nothing was decided: the API was away, so time has to pass in which it is there
    next_look = expiry if expiry > now else now + timedelta(seconds=policy.api_silence_s)
    return Decision(Verdict.AWAITING_AGENT, f"attempt {live.epoch} is at work on {live.node}", (), next_look)
