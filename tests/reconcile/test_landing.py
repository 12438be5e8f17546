"""Convoys: what their landing beads wait for, and what they do then."""

from typing import Any

import pytest

from gastown.reconcile import decide
from gastown.reconcile.actions import CloseLanding, EndConvoy, Escalate, FailBead, OpenLanding
from gastown.reconcile.decision import Decision
from gastown.reconcile.policy import Policy
from gastown.reconcile.rules.landing import STUCK_LOOK
from gastown.reconcile.views import LandingView
from gastown.states import BeadStatus, ConvoyStatus, Resolution, Verdict
from tests.views import NOON, SLOT, a_view, blocked_by

LANDING = {"convoy": "cv-1", "convoy_status": ConvoyStatus.OPEN, "branch": "gastown/x", "has_head": True}


def decided(status: BeadStatus = BeadStatus.OPEN, **facts: Any) -> Decision:
    return decide(a_view(status=status, landing=LandingView(**LANDING | facts)), NOON, Policy())


@pytest.mark.parametrize("slot", [None, SLOT])
def test_nothing_of_a_staged_convoy_starts(slot: Any) -> None:
    member = decide(a_view(staged="cv-1", slot=slot), NOON, Policy())
    assert (member.verdict, member.actions, member.next_look) == (Verdict.STAGED, (), None)
    staged = LandingView(**LANDING | {"convoy_status": ConvoyStatus.STAGED, "members": 1, "released": 1})
    assert decide(a_view(staged="cv-1", landing=staged), NOON, Policy()).verdict is Verdict.STAGED


@pytest.mark.parametrize(
    ("facts", "verdict", "looks"),
    [
        ({"members": 2, "released": 1}, Verdict.AWAITING_MEMBERS, False),
        ({"members": 2, "released": 1, "stuck": 1}, Verdict.AWAITING_MEMBERS, False),
        ({"members": 3, "released": 1, "stuck": 1, "canceled": 1}, Verdict.AWAITING_MEMBERS, True),
        ({"members": 3, "released": 1, "failed": 1, "partial": True}, Verdict.AWAITING_MEMBERS, True),
        ({"members": 2, "released": 1, "failed": 1}, Verdict.MEMBER_FAILED, False),
        ({"members": 3, "released": 1, "failed": 1, "stuck": 1}, Verdict.MEMBER_FAILED, False),
        ({"members": 3, "released": 1, "failed": 1}, Verdict.MEMBER_FAILED, False),  # said while others still work
    ],
)
def test_a_landing_waits_for_its_members(facts: Any, verdict: Verdict, looks: bool) -> None:
    found = decided(**facts)
    assert (found.verdict, found.next_look) == (verdict, NOON + STUCK_LOOK if looks else None)
    assert [type(action) for action in found.actions] == ([Escalate] if verdict is Verdict.MEMBER_FAILED else [])


@pytest.mark.parametrize(
    "facts",
    [
        {"members": 2, "released": 2},
        {"members": 2, "released": 1, "canceled": 1},
        {"members": 3, "released": 1, "failed": 1, "stuck": 1, "partial": True},
    ],
)
def test_it_lands_when_all_that_may_come_is_there(facts: Any) -> None:
    found = decided(**facts)
    assert (found.verdict, found.actions) == (Verdict.AWAITING_MERGE, (OpenLanding(),))


def test_the_members_that_failed_are_named() -> None:
    found = decided(members=3, released=2, failed=1, failures=("gt-b",))
    assert found.reason == "gt-b failed; 2 done, 1 failed of 3 members"
    [ask] = found.actions
    assert isinstance(ask, Escalate)
    assert ask.message == (
        "convoy cv-1 does not land: gt-b failed. gastown bead retry BEAD, "
        "gastown bead cancel BEAD, or gastown convoy land cv-1 --partial"
    )


def test_with_nothing_to_land_it_is_closed() -> None:
    empty = decided(members=2, released=2, has_head=False)
    one_by_one = decided(members=2, released=2, has_head=False, branch=None)
    assert empty.actions == (CloseLanding(message="nothing to land: no member changed anything"),)
    assert one_by_one.actions == (CloseLanding(message="2 done of 2 members"),)


@pytest.mark.parametrize(("attempts", "given_up"), [(4, False), (5, True)])
def test_it_is_given_up_after_five_landings_that_failed(attempts: int, given_up: bool) -> None:
    [action] = decided(members=1, released=1, attempts=attempts).actions
    assert isinstance(action, FailBead if given_up else OpenLanding)


def test_a_held_landing_does_not_land() -> None:
    landing = LandingView(**LANDING | {"members": 1, "released": 1})
    assert decide(a_view(held_reason="not today", landing=landing), NOON, Policy()).verdict is Verdict.HELD


def test_a_landing_is_never_dispatched() -> None:
    landing = LandingView(**LANDING | {"members": 1, "released": 1})
    view = a_view(landing=landing, slot=SLOT, forced=True, blockers=blocked_by(BeadStatus.CLOSED, Resolution.MERGED))
    assert decide(view, NOON, Policy()).actions == (OpenLanding(),)


@pytest.mark.parametrize(
    ("convoy", "others_over", "ends"),
    [
        (ConvoyStatus.OPEN, True, True),
        (ConvoyStatus.LANDING, True, True),
        (ConvoyStatus.LANDING, False, False),
        (ConvoyStatus.CLOSED, True, False),
        (ConvoyStatus.FAILED, True, False),
    ],
)
@pytest.mark.parametrize("status", [BeadStatus.CLOSED, BeadStatus.FAILED])
def test_a_convoy_ends_with_the_last_of_its_landings(
    status: BeadStatus, convoy: ConvoyStatus, others_over: bool, ends: bool
) -> None:
    found = decided(status, convoy_status=convoy, others_over=others_over)
    assert found.verdict is Verdict.TERMINAL
    assert (found.actions == (EndConvoy(),)) is ends
