"""Who gets the one start that shows whether a node, or a town, works again: never the same that failed it for ever."""

from typing import Any

import pytest
from sqlalchemy import select

from gastown.db import gastown_now, transaction
from gastown.models import Bead, Dispatch, Node, Rig, Town
from gastown.states import DispatchStatus, FailureCode
from gastown.store import attempts, claims, load
from gastown.tasks.reconcile import reconcile_town
from tests.builders import a_bead, a_node, a_rig, an_attempt, the_api_is_there
from tests.conftest import Clock
from tests.ticks import live
from tests.views import after

STEP_S = 10.0
BREAKERS = {"node": {}, "town": {"node_breaker_failures": 999, "town_breaker_failures": 8}}


def rigs(*names: str) -> list[Rig]:
    with transaction() as session:
        return [a_rig(session, name=name) for name in names]


def sling(rig: Rig, count: int, **values: Any) -> list[Bead]:
    with transaction() as session:
        return [a_bead(session, rig, **values) for _ in range(count)]


def step(town: Town) -> list[Dispatch]:
    """The API and the nodes are there, and the reconciler looks: what runs then."""
    with transaction() as session:
        the_api_is_there(session)
        for node in session.scalars(select(Node)):
            node.heartbeat_at = gastown_now()
    reconcile_town(town.id)
    return live()


def fail(attempt: Dispatch) -> None:
    with transaction() as session:
        assert attempts.roll_back(session, attempt.id, FailureCode.START_ERROR, "no such mount")


def set_policy(town: Town, **numbers: Any) -> None:
    with transaction() as session:
        session.get_one(Town, town.id).policy = numbers


@pytest.mark.parametrize("broken", [1, 5, 40])
@pytest.mark.parametrize("breaker", BREAKERS)
def test_a_rig_that_cannot_start_keeps_no_other_from_it(town: Town, clock: Clock, broken: int, breaker: str) -> None:
    """H1: it has the oldest beads, and more of them than there are probes in hours."""
    set_policy(town, **BREAKERS[breaker])
    bad, good = rigs("bad", "good")
    sling(bad, broken)
    began = None
    for number in range(400):
        if number == 100:
            sling(good, 4)
            began = clock.now
        for attempt in step(town):
            if attempt.rig_id == good.id:
                assert began is not None
                assert (clock.now - began).total_seconds() <= 310  # the longest rest of either breaker
                return
            fail(attempt)
        clock.advance(STEP_S)
    pytest.fail("the healthy rig got no start")


def test_beads_that_all_failed_get_their_turn(town: Town, clock: Clock) -> None:
    set_policy(town, node_breaker_s=[60], backoff_s=[0])
    (rig,) = rigs("bad")
    beads = {each.id for each in sling(rig, 6)}
    order: list[str] = []
    for _ in range(120):
        for attempt in step(town):
            order.append(attempt.bead_id)
            fail(attempt)
        clock.advance(STEP_S)
    probes = order[6:]
    assert len(probes) >= 12
    assert all(set(probes[at : at + 6]) == beads for at in range(len(probes) - 5))


def test_a_good_bead_behind_many_that_failed_is_found(town: Town, clock: Clock) -> None:
    """Of the same rig, and of less urgency."""
    set_policy(town, node_breaker_s=[60])
    (rig,) = rigs("rig")
    with transaction() as session:
        for _ in range(9):
            failed = an_attempt(session, DispatchStatus.ROLLED_BACK, rig=session.get_one(Rig, rig.id))
            bead = session.get_one(Bead, failed.bead_id)
            bead.priority, bead.failure_class, bead.failure_code = 0, "infra", FailureCode.START_ERROR
    (good,) = sling(rig, 1, priority=3)
    step(town)
    clock.advance(60)
    (probe,) = step(town)
    assert probe.bead_id == good.id


def test_a_resting_node_is_tried_with_a_bead_that_did_not_fail(town: Town, clock: Clock) -> None:
    """Where another node works: those that fail go on there."""
    set_policy(town, max_running=3, rig_max_running=9)
    bad, good = rigs("bad", "good")
    with transaction() as session:
        for _ in range(3):
            failed = an_attempt(session, DispatchStatus.ROLLED_BACK, rig=session.get_one(Rig, bad.id))
            bead = session.get_one(Bead, failed.bead_id)
            bead.failure_class, bead.failure_code = "infra", FailureCode.START_ERROR
        here = a_node(session)
        there = a_node(session, "there", capacity=2)
    sling(good, 4, created_at=after(5))
    clock.advance(60)
    on = {attempt.node_id: attempt for attempt in step(town)}
    assert on.keys() == {here.id, there.id}
    assert on[here.id].rig_id == good.id


def test_a_start_at_the_moment_at_which_the_breaker_opens(town: Town, clock: Clock) -> None:
    """It has made its first call, and that commits while the tick decides."""
    set_policy(town, town_breaker_failures=2, node_breaker_failures=99)
    with transaction() as session:
        for _ in range(2):
            an_attempt(session, DispatchStatus.ROLLED_BACK)
        attempt = an_attempt(session, DispatchStatus.STARTING)
    clock.advance(1)
    with transaction() as first:
        attempts.admit(first, attempt.id)
        clock.advance(1)
        with transaction() as tick:
            load.load_room(tick, town.id, claims.clock(tick))
            assert tick.get_one(Town, town.id).breaker_opened_at == after(2)
    with transaction() as session:
        load.load_room(session, town.id, claims.clock(session))
        assert session.get_one(Town, town.id).breaker_opened_at is None
