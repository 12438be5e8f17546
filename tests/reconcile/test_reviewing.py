"""The rules of reviews: who reads a head, who waits for that, and what becomes of a review that nobody waits for."""

from datetime import datetime
from typing import Any

import pytest

from gastown.reconcile import decide
from gastown.reconcile.actions import CloseReview, CreateReview
from gastown.reconcile.policy import Policy
from gastown.reconcile.views import BeadView, BlockerView
from gastown.states import BeadStatus, MergeStatus, Resolution, Verdict
from tests.views import NOON, a_failure, a_view, after, in_review, working_on
from tests.views import running as an_attempt

CREATE = CreateReview(merge_id=3, agent="reader")
READS = BlockerView(id="gt-review", status=BeadStatus.IN_PROGRESS)


def unread(**facts: Any) -> BeadView:
    """In review on a rig where a reader has to approve each head."""
    return in_review(**{"review_agent": "reader"} | facts)


def check(view: BeadView, rule: str, verdict: Verdict, actions: list[Any], again: datetime | None = None) -> str:
    decision = decide(view, NOON, Policy())
    assert (decision.rule, decision.verdict, list(decision.actions)) == (rule, verdict, actions)
    assert decision.next_look == again
    return decision.reason


def test_a_head_that_nobody_approved_is_read() -> None:
    reason = check(unread(), "ask_review", Verdict.AWAITING_REVIEW, [CREATE], NOON)
    assert reason == "reader is to review it"


def test_one_reader_is_enough() -> None:
    assert check(unread(review=READS), "await_review", Verdict.AWAITING_REVIEW, []) == "gt-review reviews it"


@pytest.mark.parametrize(
    ("status", "resolution", "words"),
    [(BeadStatus.FAILED, None, "failed"), (BeadStatus.CLOSED, Resolution.CANCELED, "canceled")],
)
def test_a_review_that_came_to_nothing_is_for_a_person(
    status: BeadStatus, resolution: Resolution | None, words: str
) -> None:
    ended = BlockerView(id="gt-review", status=status, resolution=resolution)
    reason = check(unread(review=ended), "await_review", Verdict.AWAITING_REVIEW, [])
    assert reason == f"gt-review was to review it, and is {words}"


@pytest.mark.parametrize("facts", [{"reviewed": True}, {"review_agent": None}, {"review_agent": None, "review": READS}])
def test_who_is_approved_or_needs_no_approval_is_merged(facts: dict[str, Any]) -> None:
    assert decide(unread(**facts), NOON, Policy()).rule == "ask_merge"


def test_what_holds_a_merge_comes_first() -> None:
    held = unread(held_code="push_refused", held_reason="protected")
    check(held, "hold_merge", Verdict.MERGE_HELD, [])
    merging = unread(status=MergeStatus.IN_PROGRESS, lease_expires_at=after(9))
    check(merging, "await_merge", Verdict.AWAITING_MERGE, [], after(9))
    assert decide(unread(ahead="gt-other"), NOON, Policy()).rule == "ask_review"  # it is read while it waits


@pytest.mark.parametrize(
    "view",
    [
        a_view(unasked=True),
        a_view(unasked=True, held_reason="by hand"),
        a_view(unasked=True, status=BeadStatus.IN_PROGRESS, agent_failures=5, failure=a_failure()),
    ],
)
def test_a_review_that_nobody_waits_for_is_closed(view: BeadView) -> None:
    reason = "nobody waits for this review any more"
    assert check(view, "close_unasked", Verdict.TERMINAL, [CloseReview(reason=reason)]) == reason


def test_its_attempt_ends_in_its_own_time() -> None:
    assert decide(working_on(an_attempt(), unasked=True), NOON, Policy()).rule == "await_agent"
