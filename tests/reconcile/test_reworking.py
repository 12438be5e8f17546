"""Merges that an agent mends: when a round begins, and when a person has to."""

import pytest

from gastown.reconcile import decide
from gastown.reconcile.actions import CreateRework, FailMerge
from gastown.reconcile.decision import Decision
from gastown.reconcile.policy import Policy
from gastown.reconcile.views import BeadView, BlockerView
from gastown.states import REWORKED, BeadStatus, HoldCode, MergeStatus, Purpose, Resolution, Verdict
from tests.views import NOON, after, in_review


def look(view: BeadView, **numbers: float) -> Decision:
    return decide(view, NOON, Policy(**numbers))  # type: ignore[arg-type]


def held(code: HoldCode = HoldCode.GATE_FAILED, **facts: object) -> BeadView:
    """A merge that an agent may mend, unless told otherwise."""
    return in_review(**{"held_code": code, "held_reason": "gate `make` is red", "rework_agent": "fixer"} | facts)


def mended_by(status: BeadStatus, resolution: Resolution | None = None) -> BlockerView:
    return BlockerView(id="gt-mender", status=status, resolution=resolution)


@pytest.mark.parametrize(
    ("code", "purpose"),
    [
        (HoldCode.CONFLICT, Purpose.CONFLICT),
        (HoldCode.GATE_FAILED, Purpose.REWORK),
        (HoldCode.CHANGES_REQUESTED, Purpose.REWORK),
    ],
)
def test_a_round_begins(code: HoldCode, purpose: Purpose) -> None:
    said = look(held(code))
    assert (said.verdict, said.rule) == (Verdict.AWAITING_REWORK, "rework")
    assert said.actions == (CreateRework(merge_id=3, purpose=purpose, agent="fixer"),)
    assert said.reason == "fixer is to mend what holds its merge: gate `make` is red"
    assert said.next_look == NOON


@pytest.mark.parametrize("code", [code for code in HoldCode if code not in REWORKED])
def test_what_no_agent_can_mend_is_for_a_person(code: HoldCode) -> None:
    assert not look(held(code, look_at=after(10))).actions


def test_without_anybody_who_may_a_person_has_to() -> None:
    said = look(held(rework_agent=None))
    assert (said.verdict, said.actions) == (Verdict.MERGE_HELD, ())


def test_a_merge_in_hand_is_left_alone() -> None:
    said = look(held(status=MergeStatus.IN_PROGRESS, lease_expires_at=after(10)))
    assert (said.rule, said.actions) == ("await_merge", ())


@pytest.mark.parametrize("status", [BeadStatus.OPEN, BeadStatus.IN_PROGRESS])
def test_it_waits_for_the_one_that_mends_it(status: BeadStatus) -> None:
    said = look(held(rework=mended_by(status), rounds=2))
    assert (said.verdict, said.actions, said.next_look) == (Verdict.AWAITING_REWORK, (), None)
    assert said.reason == "gt-mender mends what holds its merge (round 2): gate `make` is red"


@pytest.mark.parametrize(
    ("status", "resolution", "ended"),
    [
        (BeadStatus.FAILED, None, "failed"),
        (BeadStatus.CLOSED, Resolution.CANCELED, "canceled"),
        (BeadStatus.CLOSED, Resolution.NO_CHANGES, "no_changes"),
    ],
)
def test_one_that_ended_otherwise_leaves_it_to_a_person(
    status: BeadStatus, resolution: Resolution | None, ended: str
) -> None:
    said = look(held(rework=mended_by(status, resolution), rounds=1))
    assert (said.verdict, said.actions) == (Verdict.MERGE_HELD, ())
    assert said.reason == f"gate `make` is red; gt-mender was to mend that, and is {ended}"


@pytest.mark.parametrize(("rounds", "failed"), [(0, False), (2, False), (3, True), (4, True)])
def test_after_three_rounds_it_fails(rounds: int, failed: bool) -> None:
    said = look(held(rounds=rounds))
    assert isinstance(said.actions[0], FailMerge if failed else CreateRework)
    if failed:
        message = f"not merged after {rounds} rounds of rework: gate `make` is red"
        assert (said.verdict, said.reason) == (Verdict.EXHAUSTED, message)


def test_without_rounds_it_is_a_persons_from_the_start() -> None:
    assert look(held(), rework_rounds=0).verdict is Verdict.MERGE_HELD
