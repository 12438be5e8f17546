"""A town's gates, from its rows: breakers that open and close, budgets, rests, and what a tick makes of them."""

import math
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from gastown.db import gastown_now, transaction
from gastown.models import Bead, Dispatch, Escalation, Event, Node, RateLimit, Rig, Town
from gastown.reconcile.placement import Room
from gastown.reconcile.views import TownView
from gastown.states import BeadStatus, DispatchStatus, FailureCode, Verdict
from gastown.store import claims, load
from gastown.store.attempts import roll_back
from gastown.store.explain import explain
from tests.builders import a_bead, a_node, a_rig, a_town, an_attempt, bead_of, the_api_is_there
from tests.conftest import Clock
from tests.ticks import live, tick, verdict_of
from tests.views import NOON, after

LOST, ROLLED_BACK = DispatchStatus.LOST, DispatchStatus.ROLLED_BACK
RUNNING, STARTING = DispatchStatus.RUNNING, DispatchStatus.STARTING


def room_now(town: Town) -> Room:
    with transaction() as session:
        return load.load_room(session, town.id, claims.clock(session))


def view_now(town: Town) -> TownView:
    with transaction() as session:
        return load.load_town(session, town.id, claims.clock(session))


def fail_starts(count: int, **values: Any) -> None:
    """So many starts that were rolled back now, each on a bead that has given up on them."""
    with transaction() as session:
        for _ in range(count):
            attempt = an_attempt(session, ROLLED_BACK, **values)
            bead = bead_of_row(session, attempt)
            bead.not_before = bead.wake_at = after(99_999)


def bead_of_row(session: Session, attempt: Dispatch) -> Bead:
    return session.get_one(Bead, attempt.bead_id)


def set_policy(town: Town, **numbers: Any) -> None:
    with transaction() as session:
        session.get_one(Town, town.id).policy = numbers


def events(kind: str) -> list[str]:
    with transaction() as session:
        return list(session.scalars(select(Event.message).where(Event.kind == kind).order_by(Event.id)))


def open_causes() -> list[str]:
    with transaction() as session:
        return list(session.scalars(select(Escalation.cause).where(Escalation.settled_at.is_(None))))


def breaker_of(town: Town) -> datetime | None:
    with transaction() as session:
        return session.get_one(Town, town.id).breaker_opened_at


def keep_alive() -> None:
    with transaction() as session:
        the_api_is_there(session)
        for node in session.scalars(select(Node)):
            node.heartbeat_at = gastown_now()


def test_an_empty_town_has_all_its_room(town: Town) -> None:
    room = room_now(town)
    assert (room.town, room.slots, room.budget_usd, room.resting) == (4, 4, None, frozenset())
    assert [(node.name, node.free) for node in room.nodes] == [("here", 8)]
    assert view_now(town).down is False


def test_a_town_without_rigs_has_none(town: Town) -> None:
    with transaction() as session:
        other = a_town(session, name="other")
    assert (room_now(other).slots, view_now(other).used) == (0, 0)


def test_what_is_live_is_counted_by_town_rig_and_node(town: Town) -> None:
    with transaction() as session:
        for status in (DispatchStatus.QUEUED, STARTING, RUNNING, DispatchStatus.FAILED):
            an_attempt(session, status)
        elsewhere = a_rig(session, town_id=a_town(session, name="other").id)
        an_attempt(session, RUNNING, rig=elsewhere)
        a_rig(session, name="second", policy={"rig_max_running": 2})
    view = view_now(town)
    assert (view.used, view.starting) == (3, 2)
    assert [(rig.name, rig.used, rig.limit) for rig in view.rigs.values()] == [("rig", 3, 4), ("second", 0, 2)]
    assert [(node.used, node.starting) for node in view.nodes] == [(4, 2)]  # nodes serve all towns
    assert room_now(town).used == {rig_id: rig.used for rig_id, rig in view.rigs.items()}


def test_the_breaker_opens_probes_and_closes(town: Town, clock: Clock) -> None:
    """S11, S12: every start fails; then the cause is repaired, and work resumes with nobody touching anything."""
    set_policy(town, town_breaker_failures=3, node_breaker_failures=99, unknown_start_delay_s=0, backoff_s=[0])
    with transaction() as session:
        beads = [a_bead(session) for _ in range(4)]
    tick()
    assert len(live()) == 4
    for attempt in live()[:2]:
        with transaction() as session:
            assert roll_back(session, attempt.id, FailureCode.START_ERROR, "no disk")
    clock.advance(1)
    tick()  # two failures: both are tried again
    assert len(live()) == 4
    for attempt in live():
        with transaction() as session:
            assert roll_back(session, attempt.id, FailureCode.START_ERROR, "no disk")
    clock.advance(1)
    tick()
    assert live() == []
    assert breaker_of(town) == clock.now
    assert open_causes() == ["breaker"]
    assert {verdict_of(bead) for bead in beads} == {"ready"}
    with transaction() as session:
        (why,) = explain(session, town.id, [beads[0].id])
    assert (why.verdict, why.gate, why.next_look) == (Verdict.BREAKER_OPEN, "town_breaker", after(302))
    assert "start_error: no disk" in why.reason

    clock.advance(299)
    keep_alive()
    tick()
    assert live() == []
    clock.advance(1)
    tick()
    (probe,) = live()  # exactly one, also when it is looked at again
    tick()
    assert len(live()) == 1
    with transaction() as session:
        assert roll_back(session, probe.id, FailureCode.START_ERROR, "no disk")
    clock.advance(299)
    keep_alive()
    tick()
    assert live() == []
    clock.advance(1)
    tick()
    (probe,) = live()

    with transaction() as session:  # its first call
        row = session.get_one(Dispatch, probe.id)
        row.status, row.starting_at, row.started_at = RUNNING, gastown_now(), gastown_now()
        row.heartbeat_at, row.lease_expires_at = gastown_now(), gastown_now() + timedelta(seconds=45)
    tick()
    assert len(live()) == 4
    assert breaker_of(town) is None
    assert open_causes() == []
    assert len(events("escalation")) == 1
    assert len(events("breaker_closed")) == 1


def test_the_breaker_closes_though_nothing_else_is_ready(town: Town, clock: Clock) -> None:
    with transaction() as session:
        session.get_one(Town, town.id).breaker_opened_at = after(-1)
        attempt = an_attempt(session, RUNNING)
        attempt.started_at = gastown_now()
        bead_of_row(session, attempt).wake_at = gastown_now()
    tick()
    assert breaker_of(town) is None


def test_looking_at_the_room_does_not_move_the_breaker(town: Town) -> None:
    set_policy(town, town_breaker_failures=2)
    fail_starts(2)
    with transaction() as session:
        assert load.read_room(session, town.id, claims.clock(session)).slots == 0
    assert breaker_of(town) is None
    assert room_now(town).slots == 0
    assert room_now(town).slots == 0  # and opens it once
    assert breaker_of(town) == NOON
    assert len(events("escalation")) == 1


@pytest.mark.parametrize(
    ("failures", "opens"),
    [
        ([{"code": FailureCode.START_ERROR}] * 2, True),
        ([{"code": FailureCode.START_ERROR}], False),
        ([{"code": FailureCode.AGENT_FAILED, "failure_class": "agent"}] * 2, False),
        ([{"code": FailureCode.RATE_LIMITED, "failure_class": "rate_limit"}] * 2, False),
        ([{"ended_at": after(-1800)}] * 2, False),  # out of the window
        ([{"ended_at": after(-1799)}] * 2, True),
    ],
)
def test_what_counts_for_the_breaker(town: Town, failures: list[dict[str, Any]], opens: bool) -> None:
    set_policy(town, town_breaker_failures=2)
    for values in failures:
        fail_starts(1, **values)
    assert (room_now(town).slots == 0) is opens


def test_failures_of_another_town_open_no_breaker(town: Town) -> None:
    set_policy(town, town_breaker_failures=2, node_breaker_failures=9)
    with transaction() as session:
        elsewhere = a_rig(session, town_id=a_town(session, name="other").id)
    fail_starts(2, rig=elsewhere)
    assert room_now(town).slots == 4


def test_a_node_whose_starts_fail_rests_and_others_are_used(town: Town, clock: Clock) -> None:
    fail_starts(3)
    with transaction() as session:
        bead = a_bead(session)
        there = a_node(session, "there", capacity=1)
    assert {node.name: node.free for node in room_now(town).nodes} == {"here": 0, "there": 1}
    tick()
    (attempt,) = live()
    assert (attempt.bead_id, attempt.node_id) == (bead.id, there.id)
    clock.advance(60)
    keep_alive()
    assert {node.name: node.free for node in room_now(town).nodes} == {"here": 1, "there": 0}


@pytest.mark.parametrize(
    ("values", "counts"),
    [
        ({}, True),
        ({"code": FailureCode.PRESET_UNUSABLE, "failure_class": "config"}, False),  # no fault of the node
    ],
)
def test_what_counts_for_a_node(town: Town, values: dict[str, Any], counts: bool) -> None:
    fail_starts(3, **values)
    assert (view_now(town).nodes[0].failures == 3) is counts


def test_a_start_that_worked_ends_the_row_of_failures(town: Town, clock: Clock) -> None:
    fail_starts(3)
    clock.advance(1)
    with transaction() as session:
        an_attempt(session, LOST)  # it had started
    assert view_now(town).nodes[0].failures == 0
    clock.advance(1)
    fail_starts(1, message="no disk")
    node = view_now(town).nodes[0]
    assert (node.failures, node.failed_at, node.failure) == (1, clock.now, "start_error: no disk")


def test_a_budget_is_spent_by_what_ended_and_reserved_by_what_lives(town: Town, clock: Clock) -> None:
    set_policy(town, budget_usd_per_day=10, attempt_cap_usd=2)
    with transaction() as session:
        an_attempt(session, LOST, cost_usd=1.5, ended_at=after(-86_399))
        an_attempt(session, LOST, cost_usd=50, ended_at=after(-86_400))
        an_attempt(session, RUNNING, cost_usd=0.5, cap_usd=2)
        an_attempt(session, RUNNING, cost_usd=3, cap_usd=2)  # it will be stopped; until then, what it used counts
        a_rig(session, name="cheap", policy={"attempt_cap_usd": 0.5})
    view = view_now(town)
    assert (view.spent_usd, view.spent_since, view.reserved_usd) == (1.5, after(-86_399), 5)
    with transaction() as session:  # by a hand: no report of an agent comes that far
        for cost in (math.nan, math.inf):
            an_attempt(session, LOST, cost_usd=cost, ended_at=clock.now)
            an_attempt(session, RUNNING, cost_usd=cost)
    view = view_now(town)
    assert (view.spent_usd, view.reserved_usd) == (1.5, 5)
    room = room_now(town)
    assert room.budget_usd == 3.5
    assert sorted(room.caps_usd.values()) == [0.5, 2]
    set_policy(town, budget_usd_per_day=6.5, attempt_cap_usd=2)
    assert room_now(town).slots == 0
    with transaction() as session:
        bead = a_bead(session)
        (why,) = explain(session, town.id, [bead.id])
    assert (why.verdict, why.next_look) == (Verdict.OVER_BUDGET, after(1))
    assert "1.50 USD spent in 24 h and 5.00 reserved" in why.reason


def test_a_budget_bounds_what_a_tick_starts(town: Town) -> None:
    """S76, with nothing spent yet: what is reserved counts."""
    set_policy(town, budget_usd_per_day=5, attempt_cap_usd=2)
    with transaction() as session:
        beads = [a_bead(session) for _ in range(4)]
    tick()
    assert len(live()) == 2
    assert [attempt.cap_usd for attempt in live()] == [2, 2]
    assert [verdict_of(bead) for bead in beads].count("ready") == 2


def test_a_preset_at_rest_holds_its_beads_only(town: Town, clock: Clock) -> None:
    with transaction() as session:
        session.add(RateLimit(town_id=town.id, preset="shell", until=after(30), reason="429"))
        session.add(RateLimit(town_id=town.id, preset="codex", until=after(0), reason="over"))
        held = a_bead(session)
        free = a_bead(session, agent="claude")
        over = a_bead(session, agent="codex")
    assert room_now(town).resting == {"shell"}
    tick()
    assert {attempt.bead_id for attempt in live()} == {free.id, over.id}
    with transaction() as session:
        (why,) = explain(session, town.id, [held.id])
    assert (why.verdict, why.reason) == (Verdict.RATE_LIMITED, "shell rests until 12:00:30 UTC: 429")
    assert why.next_look == after(30)
    clock.advance(30)
    tick()
    assert held.id in {attempt.bead_id for attempt in live()}


def test_a_policy_that_makes_no_sense_starts_nothing_and_is_named(town: Town) -> None:
    with transaction() as session:
        rig = a_rig(session)
        bead, other = a_bead(session), a_bead(session, a_rig(session, name="other"))
        session.get_one(Rig, rig.id).policy = {"rig_max_running": -1}
    tick()
    assert [attempt.bead_id for attempt in live()] == [other.id]
    with transaction() as session:
        (why,) = explain(session, town.id, [bead.id])
    assert (why.verdict, why.gate) == (Verdict.MISCONFIGURED, "misconfigured")
    assert "rig_max_running = -1" in why.reason
    assert why.command == "gastown rig set rig --unset KEY"
    set_policy(town, max_running=-1)
    with transaction() as session:
        (why,) = explain(session, town.id, [bead.id])
    assert (why.verdict, why.command) == (Verdict.MISCONFIGURED, "gastown town set --unset KEY")


@pytest.mark.parametrize("whose", ["town", "rig"])
def test_what_is_paused_says_how_to_go_on(town: Town, whose: str) -> None:
    with transaction() as session:
        bead = a_bead(session)
        row: Any = session.get_one(Town, town.id) if whose == "town" else session.get_one(Rig, bead.rig_id)
        row.paused_at = gastown_now()
    tick()
    assert live() == []
    with transaction() as session:
        (why,) = explain(session, town.id, [bead.id])
    assert why.verdict == Verdict.PAUSED
    assert why.command == ("gastown resume" if whose == "town" else "gastown resume --rig rig")


def test_rigs_take_turns(town: Town) -> None:
    """The younger rig's beads are not kept waiting by the longer queue of the older one."""
    with transaction() as session:
        older, younger = a_rig(session), a_rig(session, name="younger")
        for number in range(10):
            a_bead(session, older, created_at=after(number - 100))
        for number in range(2):
            a_bead(session, younger, created_at=after(number))
    tick()
    assert sorted(attempt.rig_id for attempt in live()) == [older.id, older.id, younger.id, younger.id]


def test_an_attempt_that_failed_on_a_login_is_held_until_somebody_looked(town: Town) -> None:
    with transaction() as session:
        attempt = an_attempt(
            session, DispatchStatus.FAILED, code=FailureCode.AUTH_FAILED, failure_class="auth", message="401"
        )
        bead = bead_of_row(session, attempt)
        bead.failure_class, bead.failure_code, bead.failure_message = "auth", "auth_failed", "401"
        bead.wake_at = gastown_now()
    tick()
    bead = bead_of(attempt)
    assert (bead.status, bead.held_reason) == (BeadStatus.IN_PROGRESS, "its agent was not let in: 401")
    assert live() == []
    assert open_causes() == [f"auth:{bead.id}"]
