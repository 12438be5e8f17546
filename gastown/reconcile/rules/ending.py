"""Beads that are over, or have to be."""

from datetime import datetime

from gastown.reconcile.actions import CleanUp, Escalate, FailBead, HoldBead, StopContainer
from gastown.reconcile.decision import Decision
from gastown.reconcile.policy import Policy
from gastown.reconcile.views import BeadView
from gastown.states import FailureClass, Verdict


def clean_up_terminal(view: BeadView, now: datetime, policy: Policy) -> Decision | None:
    """A bead ended while an attempt was live or an agent hooked: both are released."""
    if not view.terminal or (view.live is None and view.agent is None):
        return None
    stop = () if view.live is None else (StopContainer(dispatch_id=view.live.id, node=view.live.node),)
    return Decision(Verdict.TERMINAL, f"{view.status}: its attempt is stopped", (CleanUp(), *stop))


def rest_terminal(view: BeadView, now: datetime, policy: Policy) -> Decision | None:
    """A bead that ended is never looked at again, unless somebody retries it."""
    return Decision(Verdict.TERMINAL, str(view.status)) if view.terminal else None


def fail_misconfigured(view: BeadView, now: datetime, policy: Policy) -> Decision | None:
    """The last attempt failed for a reason that no further attempt can change."""
    failure = view.failure
    if failure is None or failure.failure_class is not FailureClass.CONFIG:
        return None
    return Decision(Verdict.EXHAUSTED, failure.message, (FailBead(code=failure.code, message=failure.message),))


def hold_unauthorized(view: BeadView, now: datetime, policy: Policy) -> Decision | None:
    """The provider did not let its agent in: no attempt can succeed until a person has put the login right."""
    if view.failure is None or view.failure.failure_class is not FailureClass.AUTH or view.held_reason is not None:
        return None
    return _hold(view, "auth", f"its agent was not let in: {view.failure.message}", "When that is mended")


def hold_over_cap(view: BeadView, now: datetime, policy: Policy) -> Decision | None:
    """The last attempt used more than its cap: a person decides whether another one may."""
    if view.failure is None or view.failure.failure_class is not FailureClass.BUDGET or view.held_reason is not None:
        return None
    raised = "Give it a higher cap (gastown rig set RIG --policy attempt_cap_usd=USD), then"
    return _hold(view, "budget", view.failure.message, raised)


def _hold(view: BeadView, cause: str, reason: str, before: str) -> Decision:
    ask = Escalate(
        cause=f"{cause}:{view.id}",
        message=f"{view.id} is held: {reason}. {before}: gastown bead release {view.id}",
    )
    return Decision(Verdict.HELD, f"held: {reason}", (HoldBead(reason=reason), ask))


def fail_exhausted(view: BeadView, now: datetime, policy: Policy) -> Decision | None:
    """The agent failed as often as it may, stalled and overlong attempts included: the bead fails, and says of what."""
    if view.failure is None or view.agent_failures < policy.max_agent_failures:
        return None
    message = f"{view.agent_failures} attempts failed; the last one: {view.failure.message}"
    return Decision(Verdict.EXHAUSTED, message, (FailBead(code="attempts_exhausted", message=message),))
