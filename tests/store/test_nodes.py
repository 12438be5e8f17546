"""A node that a person drains: what starts, what goes on, what winds down, and what is said of it (S34)."""

import pytest
from sqlalchemy import select

from gastown.agent.protocol import Done, Heartbeat
from gastown.commands import attempt, nodes, towns
from gastown.db import in_transaction, transaction
from gastown.errors import NotFound
from gastown.models import Event, Node, Town
from gastown.reconcile.actions import StartContainer
from gastown.states import DispatchStatus
from gastown.store import attempts, claims, fleet
from gastown.store.explain import explain
from tests.builders import a_bead, a_node, agent_of, an_attempt, attempts_on, bead_of, failures_of, now
from tests.calls import SUCCEEDED, finish, make
from tests.conftest import Clock
from tests.races import Thread, committed, wait_until_blocked
from tests.ticks import batch, live, tick, verdict_of

QUEUED, STARTING, RUNNING = DispatchStatus.QUEUED, DispatchStatus.STARTING, DispatchStatus.RUNNING


def drain(town: Town, name: str = "here") -> bool:
    return in_transaction(lambda session: nodes.drain(session, town.id, name))


def reopen(town: Town, name: str = "here") -> bool:
    return in_transaction(lambda session: nodes.reopen(session, town.id, name))


def stop_all(name: str = "here") -> int:
    return in_transaction(lambda session: nodes.stop_attempts(session, name, actor="ada"))


def state(town: Town, name: str = "here") -> str:
    with transaction() as session:
        return {row.name: row.state for row in fleet.list_nodes(session, town.id)}[name]


def beats(name: str = "here") -> None:
    in_transaction(lambda session: towns.beat_node(session, name, "process", 8))


def test_nothing_starts_there_until_it_is_undone_whoever_beats(town: Town, clock: Clock) -> None:
    running, bead = make(RUNNING), committed(a_bead)
    assert [drain(town), drain(town)] == [True, False]
    clock.advance(1)
    beats()
    tick()
    assert [each.id for each in live()] == [running.id]
    assert state(town) == "draining"
    with transaction() as session:
        said = explain(session, town.id, [bead.id])[0]
        assert claims.something_due(session, town.id) is False
    assert (said.verdict, said.gate) == ("draining", "draining")
    assert said.reason == "draining: here (by hand since 12:00:00 UTC)"
    assert said.command == "gastown node drain here --undo"
    assert finish(running, SUCCEEDED) == "succeeded"  # what ran went on to its end
    assert state(town) == "drained"
    assert [reopen(town), reopen(town)] == [True, False]
    tick()
    assert [each.bead_id for each in live()] == [bead.id]
    with transaction() as session:
        kinds = session.scalars(select(Event.kind).where(Event.bead_id.is_(None)).order_by(Event.id)).all()
    assert kinds == ["node_drained", "node_reopened"]


def test_starts_go_elsewhere(town: Town) -> None:
    committed(lambda session: a_node(session, "there", capacity=1))
    beads = [committed(a_bead) for _ in range(2)]
    drain(town)
    tick()
    [started] = live()
    with transaction() as session:
        assert session.get_one(Node, started.node_id).name == "there"
        waiting = next(each.id for each in beads if each.id != started.bead_id)
        reason = explain(session, town.id, [waiting])[0].reason
    assert reason == "every node is full: there 1 of 1; draining: here (by hand since 12:00:00 UTC)"


def test_what_runs_there_winds_down_when_it_is_asked_to_and_goes_on_elsewhere(town: Town) -> None:
    queued, starting, running = make(QUEUED), make(STARTING), make(RUNNING)
    other = committed(lambda session: an_attempt(session, RUNNING, node=a_node(session, "there")))
    drain(town)
    assert stop_all() == 3
    assert (now(queued).status, now(queued).code) == (DispatchStatus.STOPPED, "drained")
    assert in_transaction(lambda session: attempts.claim_start(session, queued.id, "worker@here")) is None
    for each in (starting, running):
        beat = Heartbeat(phase="agent", progressed=True)
        heard = in_transaction(lambda session: attempt.heartbeat(session, each.id, beat))  # noqa: B023
        assert (heard.stop_code, heard.stop_reason) == ("drained", "here is drained by ada")
        assert finish(each, Done(outcome="stopped", wip_sha="c" * 40)) == "stopped"
    assert now(other).stop_code is None
    assert [failures_of(each) for each in (queued, starting, running)] == [0, 0, 0]
    tick()
    for each in (queued, starting, running):
        assert [row.status for row in attempts_on(each.bead_id)] == ["stopped", "queued"]
        assert attempts_on(each.bead_id)[1].node_id == other.node_id
        assert agent_of(each).bead_id == each.bead_id  # the hook stayed
    assert stop_all() == 0


def test_one_that_is_told_to_stop_by_hand_on_a_drained_node_costs_nothing(town: Town) -> None:
    running = make(RUNNING)
    drain(town)
    assert finish(running, Done(outcome="stopped")) == "stopped"
    assert (now(running).code, failures_of(running)) == ("drained", 0)
    tick()
    assert verdict_of(bead_of(running)) == "ready"


def test_a_tick_that_starts_something_comes_before_the_drain_or_not_at_all(town: Town) -> None:
    committed(a_bead)
    with transaction() as session:
        effects = batch(session, town).effects
        drained = Thread(lambda: drain(town))
        wait_until_blocked(drained)
    assert [type(each) for each in effects] == [StartContainer]
    assert drained.value() is True
    assert stop_all() == 1  # and so it is seen


def test_a_node_that_nobody_knows(town: Town) -> None:
    for work in (drain, reopen):
        with pytest.raises(NotFound, match="nowhere"):
            work(town, "nowhere")
    with pytest.raises(NotFound, match="nowhere"):
        stop_all("nowhere")
