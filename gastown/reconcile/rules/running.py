"""Attempts that have made their first call."""

from datetime import datetime, timedelta

from gastown.reconcile.actions import AskStop, FreeAgent, Lose, StopAttempt, StopContainer
from gastown.reconcile.decision import Decision
from gastown.reconcile.policy import Policy
from gastown.reconcile.rules.stalling import next_tier_at, stands_still_since
from gastown.reconcile.views import BeadView, DispatchView
from gastown.states import AgentStatus, DispatchStatus, FailureCode, StopCode, Verdict


def finish_stop(view: BeadView, now: datetime, policy: Policy) -> Decision | None:
    """It was asked to stop and is gone, or silent for a whole lease, or did not listen: it is ended, never adopted."""
    live = view.live
    if live is None or live.status is not DispatchStatus.RUNNING or live.stop_code is None:
        return None
    if _is_absent(live):
        how = "is gone"
    elif not view.outage and live.lease_expires_at is not None and now >= live.lease_expires_at:
        how = "is silent"
    elif not view.outage and now >= _stop_deadline(live, now, policy):
        how = f"did not end within {policy.wrap_up_s:g} s"
    else:
        return None
    message = f"attempt {live.epoch} {how} after it was asked to stop: {live.stop_reason}"
    code = StopCode.OVER_CAP if live.over_cap else live.stop_code
    return _end_stopped(live, now, code, message)


def _end_stopped(live: DispatchView, now: datetime, code: StopCode, message: str) -> Decision:
    actions = (
        StopAttempt(dispatch_id=live.id, code=code, message=message),
        StopContainer(dispatch_id=live.id, node=live.node),
    )
    return Decision(Verdict.STOPPING, message, actions, now)


def _stop_deadline(live: DispatchView, now: datetime, policy: Policy) -> datetime:
    """It hears of it with its next heartbeat, and has the time to save its work from then on.

    Before its first call, and while the API is away, it hears of nothing.
    """
    heard = [at for at in (live.stop_asked_at, live.started_at, live.api_back_at) if at is not None]
    return max(heard, default=now) + timedelta(seconds=policy.heartbeat_s + policy.wrap_up_s)


def await_stop(view: BeadView, now: datetime, policy: Policy) -> Decision | None:
    """It was asked to stop: it saves its work and reports."""
    live = view.live
    if live is None or live.status is not DispatchStatus.RUNNING or live.stop_code is None:
        return None
    reason = f"attempt {live.epoch} is asked to stop: {live.stop_reason}"
    return Decision(Verdict.STOPPING, reason, (), _next_look(live, now, policy, _stop_deadline(live, now, policy)))


def _is_absent(live: DispatchView) -> bool:
    """An inspection that began after its last heartbeat found no process of it."""
    if live.seen != "absent" or live.seen_at is None:
        return False
    return live.heartbeat_at is None or live.seen_at > live.heartbeat_at


def end_over_cap(view: BeadView, now: datetime, policy: Policy) -> Decision | None:
    """It used more than its cap, and is gone or silent before it could be asked to stop: it is ended, never adopted.

    Lost, it would be tried again by itself, with another cap.
    """
    live = view.live
    if live is None or live.status is not DispatchStatus.RUNNING or not live.over_cap:
        return None
    if _is_absent(live):
        how = "is gone"
    elif not view.outage and live.lease_expires_at is not None and now >= live.lease_expires_at:
        how = "is silent"
    else:
        return None
    return _end_stopped(live, now, StopCode.OVER_CAP, f"attempt {live.epoch} {how}, and {_cost(live)}")


def lose_vanished(view: BeadView, now: datetime, policy: Policy) -> Decision | None:
    """An inspection after its last heartbeat found no process of it: it is gone, and its lease need not run out.

    When the API was away meanwhile, so was its machine perhaps: a reboot is no fault of the agent.
    """
    live = view.live
    if live is None or live.status is not DispatchStatus.RUNNING or not _is_absent(live):
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


def stop_over_cap(view: BeadView, now: datetime, policy: Policy) -> Decision | None:
    """It says that it used more than its cap: it is asked to stop."""
    live = view.live
    if live is None or live.status is not DispatchStatus.RUNNING or not live.over_cap:
        return None
    return _ask_stop(live, now, policy, StopCode.OVER_CAP, _cost(live))


def _cost(live: DispatchView) -> str:
    return f"it used {live.cost_usd:.2f} USD and may use {live.cap_usd or 0:.2f} (policy attempt_cap_usd)"


def stop_overtime(view: BeadView, now: datetime, policy: Policy) -> Decision | None:
    """It runs for longer than any attempt may: it is asked to wrap up, and the next one goes on from what it left."""
    live, since = view.live, _runs_since(view)
    if live is None or since is None or now < since + timedelta(seconds=policy.max_runtime_s):
        return None
    reason = f"it runs since {since:%H:%M:%S} UTC, longer than {policy.max_runtime_s:g} s (max_runtime_s)"
    return _ask_stop(live, now, policy, StopCode.MAX_RUNTIME, reason)


def _runs_since(view: BeadView) -> datetime | None:
    """From when its runtime counts. None: not now.

    A silence of the API is a machine that slept, perhaps, and the attempt with it: the clock begins anew then.
    """
    live = view.live
    if live is None or live.status is not DispatchStatus.RUNNING or live.started_at is None or view.outage:
        return None
    return live.started_at if live.api_back_at is None else max(live.started_at, live.api_back_at)


def stop_stalled(view: BeadView, now: datetime, policy: Policy) -> Decision | None:
    """No output, tool or change in its worktree for so long that none will come: it is asked to stop, and retried."""
    since = stands_still_since(view)
    if view.live is None or since is None or now < since + timedelta(seconds=policy.stall_stop_s):
        return None
    reason = f"no progress since {since:%H:%M:%S} UTC, longer than {policy.stall_stop_s:g} s (stall_stop_s)"
    return _ask_stop(view.live, now, policy, StopCode.STALLED, reason)


def _ask_stop(live: DispatchView, now: datetime, policy: Policy, code: StopCode, reason: str) -> Decision:
    """The next look comes in time to see whether it listened."""
    action = AskStop(dispatch_id=live.id, code=code, reason=reason)
    deadline = now + timedelta(seconds=policy.heartbeat_s + policy.wrap_up_s)
    words = f"attempt {live.epoch} is asked to stop: {reason}"
    return Decision(Verdict.STOPPING, words, (action,), _next_look(live, now, policy, deadline))


def await_agent(view: BeadView, now: datetime, policy: Policy) -> Decision | None:
    """It is at work. The next look is when its lease would run out, or its time, or the patience with its silence."""
    live = view.live
    if live is None:
        return None
    runs_since = _runs_since(view)
    ends = None if runs_since is None else runs_since + timedelta(seconds=policy.max_runtime_s)
    tier_at, since = next_tier_at(view, policy), stands_still_since(view)
    words = f"attempt {live.epoch} is at work on {live.node}"
    if since is not None and live.stall_tier and now >= since + timedelta(seconds=policy.stall_nudge_s):
        words += f", without progress since {since:%H:%M:%S} UTC"
    return Decision(Verdict.AWAITING_AGENT, words, (), _next_look(live, now, policy, ends, tier_at))


def _next_look(live: DispatchView, now: datetime, policy: Policy, *moments: datetime | None) -> datetime:
    """The end of its lease, or the first of these moments that is still to come.

    If the lease is over and nothing was decided, the API was away, and time has to pass in which it is there.
    """
    lease = live.lease_expires_at
    if lease is None or lease <= now:
        lease = now + timedelta(seconds=policy.api_silence_s)
    return min([lease, *(at for at in moments if at is not None and at > now)])


def release_orphan(view: BeadView, now: datetime, policy: Policy) -> Decision | None:
    """The agent that is hooked to it is at work, they say, with no attempt that lives: it is idle."""
    if view.live is not None or view.agent is not AgentStatus.WORKING:
        return None
    return Decision(Verdict.LOST, "its agent was said to be at work, with no attempt that lives", (FreeAgent(),), now)
