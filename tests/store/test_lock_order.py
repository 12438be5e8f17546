"""Who locks several beads: in one order, or without waiting. Nobody who is slow with one costs the others a tick."""

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import select, text
from sqlalchemy.orm import Session

from gastown.agent.protocol import Done
from gastown.commands import attempt, work
from gastown.db import transaction
from gastown.models import Bead, BeadDependency, Town
from gastown.states import BeadStatus, DispatchStatus, FailureCode, MergeStatus
from gastown.store import merges
from gastown.store.moves import lock_beads, set_bead
from gastown.tasks.reconcile import reconcile_town
from tests.builders import BASE, a_bead, a_merge, a_node, an_attempt, now
from tests.calls import finish
from tests.checks import check_invariants
from tests.conftest import Clock
from tests.races import Thread, committed, wait_until_blocked
from tests.store.merging import MERGED, asked, claim, make, push
from tests.ticks import batch, live, tick, verdict_of
from tests.views import after

UNUSABLE = FailureCode.PRESET_UNUSABLE


def waits_for(session: Session, bead_id: str, blocker_id: str) -> None:
    session.add(BeadDependency(bead_id=bead_id, blocker_id=blocker_id))


# --- a tick holds many beads, so it waits for nobody


def test_a_reclaimed_merge_wakes_the_next_one_unless_somebody_is_at_it(town: Town, clock: Clock) -> None:
    """Else the tick would wait, holding a batch of beads, and lose all of it when that took too long."""
    request, next_one = make(), make()
    tick()
    claim(request)
    tick()
    asked()
    clock.advance(45)
    committed(lambda session: a_node(session).__setattr__("heartbeat_at", clock.now))
    committed(lambda session: set_bead(session, next_one.bead_id, wake_at=after(50)))  # it had looked a moment ago
    other = committed(a_bead)
    with transaction() as session:
        lock_beads(session, {next_one.bead_id})
        reconcile_town(town.id)
        assert now(request).status == MergeStatus.OPEN
        assert [each.bead_id for each in live()] == [other.id]
        assert now(session.get_one(Bead, next_one.bead_id)).wake_at == after(50)
    committed(lambda session: merges.record_merged(session, _pushed(request), MERGED))
    tick()
    clock.advance(10)
    asked()
    tick()
    assert asked() == [next_one.id]


def _pushed(request: Any) -> merges.MergeOrder:
    order = claim(request)
    assert push(order)
    return order


def test_a_bead_whose_neighbour_is_busy_is_failed_later_and_alone(town: Town, clock: Clock) -> None:
    """What waits for it has to be woken, and somebody is at that: the rest of the batch is not for him to hold up."""
    dependant = committed(a_bead)
    hopeless = committed(lambda session: an_attempt(session, DispatchStatus.FAILED, code=UNUSABLE)).bead_id
    others = [committed(a_bead) for _ in range(2)]
    with transaction() as session:
        waits_for(session, dependant.id, hopeless)
        set_bead(session, hopeless, failure_class="config", failure_code=UNUSABLE, failure_message="no such preset")
    with transaction() as session:
        lock_beads(session, {dependant.id})
        reconcile_town(town.id)
        assert {each.bead_id for each in live()} == {each.id for each in others}
        failing = now(session.get_one(Bead, hopeless))
        assert (failing.status, failing.wake_at) == (BeadStatus.IN_PROGRESS, after(1))
    with transaction() as session:
        check_invariants(session)
    clock.advance(1)
    tick()
    assert now(failing).status == BeadStatus.FAILED
    assert verdict_of(dependant) == "blocker_failed"


def test_a_tick_is_impatient_for_a_moment_only(town: Town) -> None:
    """What comes after it in the same transaction, the nodes' rows for one, is worth a wait again."""
    hopeless = committed(lambda session: an_attempt(session, DispatchStatus.FAILED, code=UNUSABLE)).bead_id
    committed(lambda session: set_bead(session, hopeless, failure_class="config", failure_code=UNUSABLE))
    with transaction() as session:
        usual = session.scalar(text("SHOW lock_timeout"))
        batch(session, town)
        assert session.get_one(Bead, hopeless, populate_existing=True).status == BeadStatus.FAILED
        assert session.scalar(text("SHOW lock_timeout")) == usual


# --- what ends a bead, or opens it again, locks it together with those that wait for it, in the one order


def _cancel(session: Session, town_id: int) -> tuple[str, Callable[[Session], Any]]:
    bead = a_bead(session)
    return bead.id, lambda other: work.cancel(other, town_id, bead.id)


def _retry(session: Session, town_id: int) -> tuple[str, Callable[[Session], Any]]:
    bead = a_bead(session, status=BeadStatus.FAILED)
    return bead.id, lambda other: work.retry(other, town_id, bead.id)


def _no_changes(session: Session, town_id: int) -> tuple[str, Callable[[Session], Any]]:
    dispatch = an_attempt(session)
    done = Done(outcome="succeeded", base_sha=BASE, head_sha=BASE)
    return dispatch.bead_id, lambda other: attempt.finish(other, dispatch.id, done)


def _merged(session: Session, town_id: int) -> tuple[str, Callable[[Session], Any]]:
    request = a_merge(session)
    order = merges.claim_merge(session, request.id, "w")
    assert order is not None
    assert merges.begin_push(session, order, MERGED, BASE)
    return request.bead_id, lambda other: merges.record_merged(other, order, MERGED)


@pytest.mark.parametrize("make_one", [_cancel, _retry, _no_changes, _merged])
def test_nobody_holds_a_bead_while_it_waits_for_one_before_it(
    town: Town, make_one: Callable[[Session, int], tuple[str, Callable[[Session], Any]]]
) -> None:
    """Who edits the edge between the two locks both, the smaller id first: else each would wait for the other."""
    with transaction() as session:
        dependant = a_bead(session)
        bead_id, end = make_one(session, town.id)
        waits_for(session, dependant.id, bead_id)
    assert dependant.id < bead_id
    with transaction() as session:
        lock_beads(session, {dependant.id})
        thread = Thread(lambda: committed(end))
        wait_until_blocked(thread)
        free = select(Bead.id).where(Bead.id == bead_id).with_for_update(key_share=True, nowait=True)
        assert session.scalar(free) == bead_id
    thread.value()
    tick()


def test_an_attempt_asked_to_stop_for_a_reason_of_a_newer_version(town: Town) -> None:
    """It ends as if its node drained: that was asked for, and costs its bead nothing."""
    for report in (True, False):
        dispatch = committed(lambda session: an_attempt(session, started_at=after(-99)))
        values = {"stop_code": "tired", "stop_reason": "it yawned", "stop_asked_at": after(-80)}
        committed(lambda session: _set(session, dispatch, values))  # noqa: B023
        if report:
            assert [finish(dispatch, Done(outcome="stopped")) for _ in range(2)] == ["stopped"] * 2
        tick()
        ended = now(dispatch)
        assert (ended.status, ended.code, ended.failure_class) == (DispatchStatus.STOPPED, "drained", None)
        assert "it yawned" in (ended.message or "")
        tick()
        assert dispatch.bead_id in {each.bead_id for each in live()}


def _set(session: Session, dispatch: Any, values: dict[str, Any]) -> None:
    row = session.get_one(type(dispatch), dispatch.id)
    for name, value in values.items():
        setattr(row, name, value)
