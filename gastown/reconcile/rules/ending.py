"""Beads that are over, or have to be."""

from datetime import datetime

from gastown.reconcile.actions import CleanUp, FailBead, StopContainer
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


def fail_exhausted(view: BeadView, now: datetime, policy: Policy) -> Decision | None:
    """The agent failed as often as it may: the bead fails, and says what the last attempt said."""
    if view.failure is None or view.agent_failures < policy.max_agent_failures:
        return None
    message = f"{view.agent_failures} attempts failed; the last one: {view.failure.message}"
    return Decision(Verdict.EXHAUSTED, message, (FailBead(code="attempts_exhausted", message=message),))
