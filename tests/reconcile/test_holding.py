"""Beads that no further attempt can help before somebody did something."""

import pytest

from gastown.reconcile import decide
from gastown.reconcile.actions import Escalate, HoldBead
from gastown.reconcile.policy import Policy
from gastown.states import BeadStatus, FailureClass, Verdict
from tests.views import NOON, SLOT, a_failure, a_view, after, blocked_by

IN_PROGRESS = BeadStatus.IN_PROGRESS


HIGHER_CAP = "Give it a higher cap (gastown rig set RIG --policy attempt_cap_usd=USD), then"


@pytest.mark.parametrize(
    ("failure_class", "rule", "cause", "reason"),
    [
        (FailureClass.AUTH, "hold_unauthorized", "auth:gt-bead", "its agent was not let in: exit code 1"),
        (FailureClass.BUDGET, "hold_over_cap", "budget:gt-bead", "exit code 1"),
        (FailureClass.INFRA, "dispatch", "", ""),
        (FailureClass.AGENT, "dispatch", "", ""),
        (FailureClass.RATE_LIMIT, "dispatch", "", ""),  # the gate of its preset holds it
    ],
)
@pytest.mark.parametrize("forced", [False, True])
def test_hold_after_a_failure(failure_class: FailureClass, rule: str, cause: str, reason: str, forced: bool) -> None:
    view = a_view(status=IN_PROGRESS, failure=a_failure(failure_class), slot=SLOT, forced=forced)
    decision = decide(view, NOON, Policy())
    assert decision.rule == rule
    if cause:
        first = "When that is mended" if failure_class is FailureClass.AUTH else HIGHER_CAP
        message = f"gt-bead is held: {reason}. {first}: gastown bead release gt-bead"
        assert decision.actions == (HoldBead(reason=reason), Escalate(cause=cause, message=message))
        assert (decision.verdict, decision.reason, decision.next_look) == (Verdict.HELD, f"held: {reason}", None)


@pytest.mark.parametrize("failure_class", [FailureClass.AUTH, FailureClass.BUDGET])
def test_held_once(failure_class: FailureClass) -> None:
    view = a_view(status=IN_PROGRESS, failure=a_failure(failure_class), held_reason="by me")
    assert (decide(view, NOON, Policy()).rule, decide(view, NOON, Policy()).reason) == ("hold", "held: by me")


@pytest.mark.parametrize(
    ("failures", "left_s", "forced", "rule"),
    [
        (19, 60, False, "cool_down"),
        (20, 60, False, "wait_out_infra"),
        (21, 0.001, False, "wait_out_infra"),
        (20, 0, False, "dispatch"),
        (20, None, False, "dispatch"),
        (20, 60, True, "dispatch"),
    ],
)
def test_wait_out_infra(failures: int, left_s: float | None, forced: bool, rule: str) -> None:
    view = a_view(
        status=IN_PROGRESS,
        failure=a_failure(FailureClass.INFRA),
        infra_failures=failures,
        not_before=None if left_s is None else after(left_s),
        forced=forced,
        slot=SLOT,
    )
    decision = decide(view, NOON, Policy())
    assert decision.rule == rule
    if rule == "wait_out_infra":
        assert decision.verdict is Verdict.INFRA_FAILING
        assert decision.next_look == view.not_before
        told = f"{failures} attempts in a row failed by no fault of the agent"
        message = f"gt-bead: {told}, the last with agent_failed: exit code 1"
        assert decision.actions == (Escalate(cause="infra:agent_failed", message=message),)
        assert decision.reason.startswith(f"{told}; next attempt at 12:0")


def test_an_adopted_attempt_ended_the_row_of_infra_failures() -> None:
    view = a_view(status=IN_PROGRESS, infra_failures=20, not_before=after(60), slot=SLOT)
    assert decide(view, NOON, Policy()).rule == "cool_down"


def test_a_failed_blocker_is_a_reason_to_ask_a_person_once_for_each() -> None:
    blockers = blocked_by(BeadStatus.FAILED) + blocked_by(BeadStatus.OPEN)
    decision = decide(a_view(blockers=blockers), NOON, Policy())
    message = "gt-other is failed, and gt-bead waits for it: gastown bead retry gt-other, or cancel gt-bead"
    assert decision.actions == (Escalate(cause="blocker:gt-other", message=message),)
