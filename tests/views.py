"""Views for the tests of rules: noon is a value, and a builder names only what the case is about."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from gastown.reconcile.views import BeadView, BlockerView, DispatchView, FailureView, MergeView, Slot
from gastown.states import BeadStatus, DispatchStatus, FailureClass, MergeStatus, Resolution

NOON = datetime(2026, 1, 5, 12, tzinfo=UTC)
SLOT = Slot(node_id=7, node="here")


def after(seconds: float) -> datetime:
    """So many seconds after noon; before it, when negative."""
    return NOON + timedelta(seconds=seconds)


def a_view(**facts: Any) -> BeadView:
    return BeadView(**{"id": "gt-bead", "status": BeadStatus.OPEN} | facts)


def working_on(live: DispatchView, **facts: Any) -> BeadView:
    return a_view(**{"status": BeadStatus.IN_PROGRESS, "live": live} | facts)


def in_review(**facts: Any) -> BeadView:
    """A bead whose merge is open, unless told otherwise."""
    merge = MergeView(id=3, status=MergeStatus.OPEN, target="main")
    return a_view(status=BeadStatus.IN_REVIEW, merge=replace(merge, **facts))


def queued(**facts: Any) -> DispatchView:
    return DispatchView(
        **{"id": "d1", "epoch": 1, "node": "here", "status": DispatchStatus.QUEUED, "queued_at": NOON} | facts
    )


def starting(**facts: Any) -> DispatchView:
    return queued(**{"status": DispatchStatus.STARTING, "starting_at": NOON} | facts)


def running(**facts: Any) -> DispatchView:
    beat = {"heartbeat_at": NOON, "lease_expires_at": after(45), "started_at": NOON, "progress_at": NOON}
    return starting(**{"status": DispatchStatus.RUNNING} | beat | facts)


def a_failure(failure_class: FailureClass = FailureClass.AGENT) -> FailureView:
    return FailureView(failure_class=failure_class, code="agent_failed", message="exit code 1")


def blocked_by(status: BeadStatus, resolution: Resolution | None = None) -> tuple[BlockerView, ...]:
    return (BlockerView(id="gt-other", status=status, resolution=resolution),)
