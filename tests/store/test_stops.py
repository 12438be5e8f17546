"""Attempts that are asked to stop, through the tick: the rules' actions on rows, and what becomes of the bead."""

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select

from gastown.commands import nodes
from gastown.db import gastown_now, transaction
from gastown.models import Agent, Bead, Dispatch, Escalation, Event, Node, Service, Town
from gastown.states import AgentStatus, DispatchStatus, FailureCode
from gastown.store import attempts
from gastown.store.load import load_town
from gastown.store.moves import wake
from tests.builders import agent_of, an_attempt, bead_of, now, the_api_is_there
from tests.conftest import Clock
from tests.ticks import live, take_messages, tick, verdict_of
from tests.views import after


def go_on(clock: Clock, attempt: Dispatch, seconds: float) -> None:
    """The API, the node and the attempt's heart beat meanwhile, and the bead is due."""
    clock.advance(seconds)
    with transaction() as session:
        the_api_is_there(session)
        session.get_one(Service, "api").back_at = after(-3600)
        row = session.get_one(Dispatch, attempt.id)
        row.heartbeat_at, row.lease_expires_at = gastown_now(), gastown_now() + timedelta(seconds=45)
        session.get_one(Node, row.node_id).heartbeat_at = gastown_now()
        session.get_one(Bead, row.bead_id).wake_at = gastown_now()
    tick()


def causes() -> list[str]:
    with transaction() as session:
        return list(session.scalars(select(Escalation.cause).where(Escalation.settled_at.is_(None))))


def kinds(attempt: Dispatch) -> list[str]:
    with transaction() as session:
        query = select(Event.kind).where(Event.bead_id == attempt.bead_id).order_by(Event.id)
        return list(session.scalars(query))


def an_attempt_now(**values: Any) -> Dispatch:
    with transaction() as session:
        return an_attempt(session, DispatchStatus.RUNNING, **values)


def test_over_cap_is_asked_then_ended_and_its_bead_held(town: Town, clock: Clock) -> None:
    attempt = an_attempt_now(cost_usd=2.5, cap_usd=2)
    go_on(clock, attempt, 1)
    asked = now(attempt)
    assert (asked.status, asked.stop_code, asked.stop_asked_at) == (DispatchStatus.RUNNING, "over_cap", after(1))
    assert verdict_of(bead_of(attempt)) == "stopping"
    go_on(clock, attempt, 69)
    assert now(attempt).status == DispatchStatus.RUNNING  # it has a heartbeat to hear of it, and 60 s
    go_on(clock, attempt, 1)
    ended, bead = now(attempt), bead_of(attempt)
    assert (ended.status, ended.code, ended.failure_class) == (DispatchStatus.STOPPED, "over_cap", "budget")
    assert ("gastown.stop_container", [str(attempt.id)]) in take_messages("node.here")
    assert bead.held_reason is not None
    assert "it used 2.50 USD and may use 2.00" in bead.held_reason
    assert live() == []
    assert agent_of(attempt).status == AgentStatus.IDLE
    assert agent_of(attempt).bead_id is None
    assert causes() == [f"budget:{bead.id}"]


def test_one_that_falls_silent_while_it_stops_is_not_lost(town: Town, clock: Clock) -> None:
    """So it cannot be adopted either, when it comes back."""
    attempt = an_attempt_now(cost_usd=2.5, cap_usd=2)
    go_on(clock, attempt, 1)
    clock.advance(45)
    with transaction() as session:
        the_api_is_there(session)
    tick()
    ended = now(attempt)
    assert (ended.status, ended.code) == (DispatchStatus.STOPPED, "over_cap")
    assert "is silent" in (ended.message or "")


@pytest.mark.parametrize("given_up", [False, True])
def test_one_that_was_asked_before_its_first_call_has_its_time_to_save(
    town: Town, clock: Clock, given_up: bool
) -> None:
    """Its start took longer than that time, and it may have been given up meanwhile."""
    with transaction() as session:
        attempt = an_attempt(session, DispatchStatus.STARTING)
        nodes.stop_attempts(session, "here")
    clock.advance(90)
    with transaction() as session:
        the_api_is_there(session)
        session.get_one(Service, "api").back_at = after(-3600)
        if given_up:
            assert attempts.roll_back(session, attempt.id, FailureCode.START_TIMEOUT, "no call")
    with transaction() as session:
        attempts.admit(session, attempt.id)
        wake(session, attempt.bead_id)
    tick()
    assert now(attempt).status == DispatchStatus.RUNNING
    go_on(clock, attempt, 69)
    assert now(attempt).status == DispatchStatus.RUNNING
    go_on(clock, attempt, 1)
    assert now(attempt).status == DispatchStatus.STOPPED


def test_an_adopted_attempt_that_was_asked_has_its_time_to_save(town: Town, clock: Clock) -> None:
    with transaction() as session:
        asked = {"stop_code": "drained", "stop_reason": "drain", "stop_asked_at": gastown_now()}
        attempt = an_attempt(session, DispatchStatus.LOST, **asked)
    go_on_at = clock.now + timedelta(seconds=300)
    clock.advance(300)
    with transaction() as session:
        the_api_is_there(session)
        attempts.admit(session, attempt.id)
    assert now(attempt).stop_asked_at == go_on_at
    tick()
    assert now(attempt).status == DispatchStatus.RUNNING


def test_a_stall_is_noted_escalated_and_stopped_then_tried_again(town: Town, clock: Clock) -> None:
    with transaction() as session:
        session.get_one(Town, town.id).policy = {"max_runtime_s": 99_999}
    attempt = an_attempt_now()
    go_on(clock, attempt, 900)
    assert now(attempt).stall_tier == 1
    go_on(clock, attempt, 100)
    go_on(clock, attempt, 2600)
    assert now(attempt).stall_tier == 2
    assert causes() == [f"stalled:{attempt.bead_id}"]
    go_on(clock, attempt, 3000)
    assert kinds(attempt).count("stalled") == 2  # once for each tier
    go_on(clock, attempt, 600)
    assert now(attempt).stop_code == "stalled"
    go_on(clock, attempt, 70)
    ended = now(attempt)
    assert (ended.status, ended.code, ended.failure_class) == (DispatchStatus.STOPPED, "stalled", "agent")
    clock.advance(60)
    with transaction() as session:
        session.get_one(Node, ended.node_id).heartbeat_at = gastown_now()
    tick()
    (again,) = live()
    assert (again.bead_id, again.epoch, again.agent_id) == (attempt.bead_id, 2, attempt.agent_id)


@pytest.mark.parametrize("tier", [0, 2])
def test_no_stall_while_a_tool_runs(town: Town, clock: Clock, tier: int) -> None:
    """S16"""
    attempt = an_attempt_now(tool_running=True, stall_tier=tier)
    go_on(clock, attempt, 7200)
    assert (now(attempt).stall_tier, now(attempt).stop_code, causes()) == (tier, None, [])


def test_stopped_attempts_count_like_failed_ones(town: Town, clock: Clock) -> None:
    """S14 for agents that hang: the fifth is the last."""
    with transaction() as session:
        session.get_one(Town, town.id).policy = {"max_agent_failures": 2, "backoff_s": [0], "max_runtime_s": 300}
    attempt = an_attempt_now()
    for _ in range(2):
        (attempt,) = live()
        with transaction() as session:
            row = session.get_one(Dispatch, attempt.id)
            row.status, row.starting_at, row.started_at = DispatchStatus.RUNNING, gastown_now(), gastown_now()
            row.heartbeat_at = gastown_now()
        go_on(clock, attempt, 300)
        assert now(attempt).stop_code == "max_runtime"
        go_on(clock, attempt, 70)
        assert now(attempt).status == DispatchStatus.STOPPED
    bead = bead_of(attempt)
    assert (bead.status, bead.failure_code) == ("failed", "attempts_exhausted")
    assert live() == []


def test_an_orphan_is_freed(town: Town) -> None:
    """At work, they say, with nothing behind it: a hand in the database, or a bug."""
    with transaction() as session:
        attempt = an_attempt(session, DispatchStatus.FAILED)
        session.get_one(Agent, attempt.agent_id).status = AgentStatus.WORKING
        session.get_one(Bead, attempt.bead_id).wake_at = gastown_now()
    tick()
    (again,) = live()
    assert (again.bead_id, again.agent_id, again.epoch) == (attempt.bead_id, attempt.agent_id, 2)


def test_an_asked_attempt_reserves_until_it_ends(town: Town, clock: Clock) -> None:
    attempt = an_attempt_now(cost_usd=2.5, cap_usd=2)
    go_on(clock, attempt, 1)
    with transaction() as session:
        assert load_town(session, town.id, clock.now).reserved_usd == 2.5
