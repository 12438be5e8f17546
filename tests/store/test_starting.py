"""Ticks of the real reconciler without workers: who is started, where, in which order, and how many."""

from collections.abc import Sequence
from typing import Any

import pytest
from sqlalchemy import func, select, text

from gastown.commands import towns, work
from gastown.commands.work import NewBead
from gastown.db import in_transaction, transaction
from gastown.errors import StartMisconfigured
from gastown.models import Agent, Bead, Dispatch, Event, Town
from gastown.reconcile.actions import Effect, StartContainer
from gastown.runtimes import registry
from gastown.states import AgentStatus, BeadStatus, DispatchStatus, FailureClass, FailureCode, Verdict
from gastown.store import attempts, claims
from gastown.tasks import containers
from gastown.tasks import reconcile as ticking
from tests.builders import (
    a_bead,
    a_node,
    a_rig,
    a_town,
    agent_of,
    an_attempt,
    attempts_on,
    now,
    the_api_is_there,
)
from tests.conftest import Clock
from tests.races import Thread, committed, together, wait_until_blocked
from tests.ticks import batch, live, take_messages, tick, verdict_of
from tests.views import after

QUEUED, RUNNING, LOST = DispatchStatus.QUEUED, DispatchStatus.RUNNING, DispatchStatus.LOST
ERROR = FailureCode.START_ERROR


# --- starting


def test_what_no_start_can_mend_fails_the_bead_at_once_and_says_what_to_do(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    bead = committed(a_bead)
    tick()
    [dispatch] = live()
    monkeypatch.setattr(registry, "get", registry.get.__wrapped__)  # what it keeps for others is of another home
    monkeypatch.setenv(registry.CONTAINERISED, "1")
    with pytest.raises(StartMisconfigured) as caught:
        containers.start_container(str(dispatch.id))
    containers.start_container.on_failure(caught.value, "", (str(dispatch.id),), {}, None)
    [dispatch] = attempts_on(bead.id)
    assert (dispatch.status, dispatch.code) == (DispatchStatus.ROLLED_BACK, FailureCode.CONTAINER_UNUSABLE)
    tick()
    assert (now(bead).status, now(bead).failure_class) == (BeadStatus.FAILED, FailureClass.CONFIG)
    assert "next: GASTOWN_RUNTIME=docker" in str(now(bead).failure_message)
    assert len(attempts_on(bead.id)) == 1


def test_a_new_bead_is_started(town: Town) -> None:
    bead = committed(a_bead)
    tick()
    [dispatch] = live()
    assert (dispatch.bead_id, dispatch.epoch, dispatch.status) == (bead.id, 1, QUEUED)
    assert (now(bead).status, now(bead).ready_at, now(bead).wake_at) == (BeadStatus.IN_PROGRESS, None, after(10))
    assert agent_of(dispatch).status == AgentStatus.WORKING
    assert take_messages("node.here") == [("gastown.start_container", [str(dispatch.id)])]


def test_effects_are_published_after_the_commit(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    """L6: a worker that is faster than we are finds the row."""
    seen, publish = [], ticking.publish_all

    def look_then_publish(effects: Sequence[Effect]) -> bool:
        for effect in effects:
            assert isinstance(effect, StartContainer)
            with transaction() as session:
                seen.append(session.scalar(select(Dispatch.status).where(Dispatch.id == effect.dispatch_id)))
        return publish(effects)

    monkeypatch.setattr(ticking, "publish_all", look_then_publish)
    committed(a_bead)
    tick()
    assert seen == [QUEUED]


def test_a_lost_message_is_published_again_by_the_rows(town: Town, clock: Clock) -> None:
    """G5, S06: the reconciler is the outbox."""
    committed(a_bead)
    tick()
    published = take_messages("node.here")  # lost
    for seconds in (9, 1, 10, 20):
        clock.advance(seconds)
        tick()
        assert take_messages("node.here") == ([] if seconds == 9 else published)
    clock.advance(80)
    committed(the_api_is_there)
    committed(lambda session: towns.beat_node(session, "here", "process", 8))
    tick()  # nobody took it: rolled back, and at once placed anew
    [dispatch] = live()
    assert (dispatch.epoch, dispatch.status) == (2, QUEUED)


def test_the_first_retry_is_on_the_next_tick(town: Town, clock: Clock) -> None:
    """G1, S01: no dead zone. The second waits out its backoff."""
    bead = committed(a_bead)
    for _ in range(2):
        tick()
        [dispatch] = live()
        committed(lambda session: attempts.roll_back(session, dispatch.id, ERROR, "no"))  # noqa: B023
    tick()
    assert (len(attempts_on(bead.id)), live(), verdict_of(bead)) == (2, [], Verdict.COOLDOWN)
    clock.advance(34)
    tick()
    assert [each.epoch for each in live()] == [3]
    assert live()[0].agent_id == attempts_on(bead.id)[0].agent_id


def test_agent_failures_exhaust_a_bead_and_infra_never(town: Town, clock: Clock) -> None:
    """S13, S14."""
    beads = {code: committed(a_bead) for code in (FailureCode.AGENT_FAILED, FailureCode.HEARTBEAT_LOST)}
    for _ in range(7):
        tick()
        for dispatch in live():
            code = next(code for code, bead in beads.items() if bead.id == dispatch.bead_id)
            committed(lambda session: attempts.admit(session, dispatch.id))  # noqa: B023
            committed(lambda session: attempts.lose(session, dispatch.id, code, f"{code} {dispatch.epoch}"))  # noqa: B023
        clock.advance(700)
        committed(lambda session: towns.beat_node(session, "here", "process", 8))
        committed(the_api_is_there)
    failed = now(beads[FailureCode.AGENT_FAILED])
    assert (failed.status, failed.failure_code) == (BeadStatus.FAILED, "attempts_exhausted")
    assert failed.failure_message == "5 attempts failed; the last one: agent_failed 5"
    assert len(attempts_on(failed.id)) == 5
    assert len(attempts_on(beads[FailureCode.HEARTBEAT_LOST].id)) == 7
    with transaction() as session:
        assert session.scalar(select(Agent.id).where(Agent.bead_id == failed.id)) is None
        told = session.scalars(select(Event.message).where(Event.kind == "escalation")).all()
    assert told == [f"{failed.id} failed: {failed.failure_message}"]


def test_a_bead_that_can_never_work_fails_at_once(town: Town) -> None:
    """S17."""
    bead = committed(a_bead)
    tick()
    committed(lambda session: attempts.roll_back(session, live()[0].id, FailureCode.COMMAND_NOT_FOUND, "no shell"))
    tick()
    assert (now(bead).status, now(bead).failure_message) == (BeadStatus.FAILED, "no shell")


def test_order_is_forced_then_priority_then_age(town: Town, clock: Clock) -> None:
    committed(lambda session: setattr(session.get_one(Town, town.id), "policy", {"max_running": 0}))
    names = {}
    for name, priority in (("old", 2), ("urgent", 0), ("young", 2), ("forced", 3)):
        names[committed(lambda session: a_bead(session, priority=priority)).id] = name  # noqa: B023
        clock.advance(1)
    forced = next(key for key, name in names.items() if name == "forced")
    committed(lambda session: work.force_dispatch(session, forced))
    tick()
    order = []
    for limit in range(1, 5):
        committed(lambda session: setattr(session.get_one(Town, town.id), "policy", {"max_running": limit}))  # noqa: B023
        tick()
        order.append(names[live()[-1].bead_id])
        clock.advance(1)
    assert order == ["forced", "urgent", "old", "young"]


@pytest.mark.parametrize(
    ("limit", "started"),
    [
        ({"town": {"max_running": 2}}, 2),
        ({"town": {"rig_max_running": 3}}, 3),
        ({"rig": {"rig_max_running": 1}}, 1),
        ({"capacity": 2}, 2),
        ({"town": {"max_running": 9, "rig_max_running": 9}}, 5),
    ],
)
def test_capacity_per_town_rig_and_node(town: Town, limit: dict[str, Any], started: int) -> None:
    """G6, S24: every limit that can be set is enforced."""
    with transaction() as session:
        session.get_one(Town, town.id).policy = limit.get("town", {})
        a_rig(session).policy = limit.get("rig", {})
        a_node(session).capacity = limit.get("capacity", 8)
        for _ in range(5):
            a_bead(session)
    tick()
    tick()
    assert len(live()) == started


def test_other_rigs_are_not_starved_by_one_that_is_full(town: Town) -> None:
    with transaction() as session:
        a_rig(session).policy = {"rig_max_running": 1}
        for _ in range(5):
            a_bead(session, priority=0)
        other = a_bead(session, a_rig(session, name="other"), priority=3)
    tick()
    assert other.id in {each.bead_id for each in live()}


@pytest.mark.parametrize("idle", ["the town is paused", "the rig is paused", "the node is silent", "there is no node"])
def test_gates_of_the_town(town: Town, clock: Clock, idle: str) -> None:
    """They hold no bead by itself: it is ready, and starts when the gate opens."""
    rig = "rig" if idle == "the rig is paused" else None
    if "paused" in idle:
        committed(lambda session: towns.set_paused(session, town.id, True, rig=rig))
    elif idle == "there is no node":
        committed(lambda session: session.execute(text("DELETE FROM nodes")))
    else:
        clock.advance(46)
    bead = committed(a_bead)
    tick()
    assert (live(), verdict_of(bead)) == ([], Verdict.READY)
    if "paused" in idle:
        committed(lambda session: towns.set_paused(session, town.id, False, rig=rig))
    else:
        committed(lambda session: towns.beat_node(session, "here", "process", 8))
    tick()
    assert len(live()) == 1


def test_a_retry_avoids_the_node_that_failed_it_and_else_prefers_its_own(town: Town, clock: Clock) -> None:
    with transaction() as session:
        here, there = a_node(session), a_node(session, "there", capacity=20)
        failed_here = an_attempt(session, DispatchStatus.ROLLED_BACK, node=there)
        lost_here = an_attempt(session, LOST, node=here)
    tick()
    nodes = {each.bead_id: each.node_id for each in live()}
    assert nodes == {failed_here.bead_id: here.id, lost_here.bead_id: here.id}


def test_two_reconcilers_and_slings_at_once_never_exceed_a_limit(town: Town) -> None:
    """S19."""
    with transaction() as session:
        session.get_one(Town, town.id).policy = {"max_running": 2}
        rig = a_rig(session)
        for _ in range(6):
            a_bead(session)

    def slings() -> None:
        for _ in range(4):
            in_transaction(lambda session: work.sling(session, town.id, rig, NewBead(title="more")))

    def ticks() -> None:
        for _ in range(4):
            ticking.reconcile_town(town.id)

    together(ticks, ticks, slings)
    tick()
    assert len(live()) == 2
    with transaction() as session:
        assert session.scalar(select(func.count()).select_from(Dispatch)) == 2
        assert session.scalar(select(func.count()).where(Bead.ready_at.is_not(None))) == 8


def test_two_towns_share_a_node_and_its_capacity(town: Town) -> None:
    """A town's lock does not keep another town from the same node."""
    for capacity in (1, 2, 3):
        with transaction() as session:
            a_node(session).capacity = capacity
            other = a_town(session, name="other")
            for each in (town, other):
                a_bead(session, a_rig(session, town_id=each.id, name="rig"))
                a_bead(session, a_rig(session, town_id=each.id, name="rig"))
        together(lambda: ticking.reconcile_town(town.id), lambda: ticking.reconcile_town(other.id))  # noqa: B023
        assert len(live()) == capacity


def test_a_second_town_waits_for_the_first_to_commit_its_starts(town: Town) -> None:
    with transaction() as session:
        a_node(session).capacity = 1
        other = a_town(session, name="other")
        for each in (town, other):
            a_bead(session, a_rig(session, town_id=each.id, name="rig"), ready_at=after(0), wake_at=None)
    with transaction() as session:
        assert len(batch(session, town)[1]) == 1
        second = Thread(lambda: ticking.reconcile_town(other.id))
        wait_until_blocked(second)
    second.value()
    assert len(live()) == 1


def test_a_node_that_joins_while_nodes_are_locked_is_for_the_next_batch(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its row is not locked, so another town may count the same place (seed 167498839)."""
    with transaction() as session:
        a_node(session).draining_at = after(0)
        a_bead(session, ready_at=after(0), wake_at=None)
    load_room = claims.load_room

    def joined_before(*given: Any) -> Any:
        committed(lambda session: a_node(session, "new"))
        return load_room(*given)

    with transaction() as session:
        monkeypatch.setattr(claims, "load_room", joined_before)
        assert claims.claim_ready(session, town.id, after(0), 10) == {}
    with transaction() as session:
        assert len(claims.claim_ready(session, town.id, after(0), 10)) == 1


def test_a_town_is_one_reconcilers_at_a_time(town: Town) -> None:
    bead = committed(a_bead)
    with transaction() as session:
        assert claims.try_lock_town(session, town.id)
        ticking.reconcile_town(town.id)  # returns at once: the other one sees what it would
    assert live() == []
    assert now(bead).wake_at is not None
    tick()
    assert len(live()) == 1
