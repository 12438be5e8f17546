"""Convoys: their members before somebody starts them, and the beads that land what they made."""

from datetime import datetime, timedelta

from gastown.reconcile.actions import CloseLanding, EndConvoy, Escalate, FailBead, OpenLanding
from gastown.reconcile.decision import Decision
from gastown.reconcile.policy import Policy
from gastown.reconcile.views import BeadView, LandingView
from gastown.states import BeadStatus, ConvoyStatus, Verdict

STUCK_LOOK = timedelta(seconds=60)  # nobody tells a landing that a member began to wait for one that failed


def end_convoy(view: BeadView, now: datetime, policy: Policy) -> Decision | None:
    """The last landing of a convoy has ended, and the convoy with it."""
    landing = view.landing
    if landing is None or not view.terminal or not landing.others_over:
        return None
    if landing.convoy_status in (ConvoyStatus.CLOSED, ConvoyStatus.FAILED):
        return None
    return Decision(Verdict.TERMINAL, f"{view.status}: convoy {landing.convoy} ends", (EndConvoy(),))


def stage(view: BeadView, now: datetime, policy: Policy) -> Decision | None:
    """Its convoy is staged: nothing of it starts before somebody says so."""
    if view.staged is None:
        return None
    return Decision(Verdict.STAGED, f"convoy {view.staged} is staged")


def hold_landing(view: BeadView, now: datetime, policy: Policy) -> Decision | None:
    """A member of its convoy failed: a person retries or cancels it, or lands the others without it."""
    landing = _to_land(view)
    if landing is None or landing.partial or not landing.failed:
        return None
    failed = ", ".join(landing.failures) + (" and others" if landing.failed > len(landing.failures) else "")
    ask = Escalate(
        cause=f"member:{view.id}",
        message=f"convoy {landing.convoy} does not land: {failed} failed. gastown bead retry BEAD, "
        f"gastown bead cancel BEAD, or gastown convoy land {landing.convoy} --partial",
    )
    return Decision(Verdict.MEMBER_FAILED, f"{failed} failed; {_progress(landing)}", (ask,))


def await_members(view: BeadView, now: datetime, policy: Policy) -> Decision | None:
    """Members of its convoy are not over yet; each wakes it when it is. One that waits for a failed one is left out of
    a partial landing."""
    landing = _to_land(view)
    if landing is None or (landing.waiting == 0 and (landing.partial or landing.stuck == 0)):
        return None
    unstable = landing.partial or landing.failed or landing.canceled
    return Decision(Verdict.AWAITING_MEMBERS, _progress(landing), (), now + STUCK_LOOK if unstable else None)


def close_empty(view: BeadView, now: datetime, policy: Policy) -> Decision | None:
    """The members are over and there is nothing to land: they changed nothing, or each was merged by itself."""
    landing = _to_land(view)
    if landing is None or landing.has_head:
        return None
    message = "nothing to land: no member changed anything" if landing.branch else _progress(landing)
    return Decision(Verdict.TERMINAL, message, (CloseLanding(message=message),))


def give_up_landing(view: BeadView, now: datetime, policy: Policy) -> Decision | None:
    """Its merge requests failed so often, since somebody last retried it, that a person has to look."""
    landing = _to_land(view)
    if landing is None or landing.attempts < policy.landing_attempts:
        return None
    message = f"not landed after {landing.attempts} tries"
    return Decision(Verdict.EXHAUSTED, message, (FailBead(code="landing_failed", message=message),))


def land(view: BeadView, now: datetime, policy: Policy) -> Decision | None:
    """All members are over: what they made together goes into the queue of the target, and through its gates."""
    landing = _to_land(view)
    if landing is None:
        return None
    return Decision(Verdict.AWAITING_MERGE, f"all members are over: {landing.branch} lands", (OpenLanding(),))


def _to_land(view: BeadView) -> LandingView | None:
    return view.landing if view.status is BeadStatus.OPEN and view.held_reason is None else None


def _progress(landing: LandingView) -> str:
    waiting = landing.waiting + landing.stuck
    parts = {"done": landing.released, "failed": landing.failed, "canceled": landing.canceled, "waiting": waiting}
    counted = ", ".join(f"{count} {what}" for what, count in parts.items() if count)
    return f"{counted} of {landing.members} members"
