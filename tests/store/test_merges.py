"""Merge requests in the database: one at a time per target, each write fenced by its epoch."""

from collections.abc import Callable

import pytest
from sqlalchemy import select, text
from sqlalchemy.orm import Session

from gastown.commands import work
from gastown.db import in_transaction, transaction
from gastown.errors import Refused
from gastown.models import Event, MergeRequest
from gastown.states import BeadStatus, DispatchStatus, HoldCode, MergeStatus, Resolution, Verdict
from gastown.store import beads, merges
from gastown.store.moves import set_bead
from gastown.store.orders import MergeOrder
from tests.builders import (
    HEAD,
    a_bead,
    a_rig,
    an_attempt,
    now,
)
from tests.conftest import Clock
from tests.races import committed, race, together
from tests.store.merging import CONFLICT, MERGED, ONTO, asked, bead, claim, make, push, refused
from tests.ticks import live, tick
from tests.views import after

OPEN, CLOSED = MergeStatus.OPEN, MergeStatus.CLOSED
MERGING, PUSHING = MergeStatus.IN_PROGRESS, MergeStatus.PUSHING


# --- claims


def test_claim(town_id: int, clock: Clock) -> None:
    request = make()
    order = claim(request)
    assert (order.merge_epoch, order.head_sha, order.target, order.repository) == (1, HEAD, "main", "/srv/repository")
    assert ([gate.command for gate in order.gates], order.setup, order.environment) == (
        ["make test"],
        "make",
        {"A": "1"},
    )
    assert order.head_ref == f"refs/gastown/head/{request.bead_id}/1"
    assert (order.staged_sha, order.own_staged_sha, order.pushing_sha) == (None, None, None)
    claimed = now(request)
    assert (claimed.status, claimed.lease_expires_at, claimed.merge_epoch) == (MERGING, after(45), 1)
    assert bead(request).wake_at == clock.now


def test_claims_of_one_request_at_once(town_id: int) -> None:
    request = make()
    take = lambda: in_transaction(lambda session: merges.claim_merge(session, request.id, "w"))  # noqa: E731
    assert sorted(order is None for order in together(take, take, take)) == [False, True, True]


def test_claims_of_one_target_at_once(town_id: int) -> None:
    """One merge per rig and target; S64: another rig's goes on beside it."""
    first, second = make(), make()
    with transaction() as session:
        attempt = an_attempt(session, DispatchStatus.SUCCEEDED, rig=a_rig(session, name="other"))
        other = session.scalars(select(MergeRequest).where(MergeRequest.dispatch_id == attempt.id)).one()
    takes = [
        lambda key=each.id: in_transaction(lambda session: merges.claim_merge(session, key, "w"))
        for each in (first, second, other)
    ]
    orders = together(*takes)
    assert [order is None for order in orders[:2]].count(True) == 1
    assert orders[2] is not None


@pytest.mark.parametrize("status", [CLOSED, MergeStatus.FAILED])
def test_what_is_over_is_not_claimed(town_id: int, status: MergeStatus) -> None:
    assert refused(make(status=status))
    assert committed(lambda session: merges.claim_merge(session, 4711, "w")) is None


@pytest.mark.parametrize(("look_s", "claimable"), [(None, False), (1, False), (0, True), (-1, True)])
def test_a_held_one_is_claimed_when_it_is_time_to_look_again(
    town_id: int, look_s: float | None, claimable: bool
) -> None:
    look_at = None if look_s is None else after(look_s)
    assert refused(make(held_code=CONFLICT, held_reason="x", look_at=look_at)) is not claimable


def test_a_lease_is_beaten_and_expires(town_id: int, clock: Clock) -> None:
    request = make()
    order = claim(request)
    clock.advance(30)
    assert committed(lambda session: merges.beat_merge(session, order.id, 1, "gate 1"))
    assert (now(request).lease_expires_at, now(request).step) == (after(75), "gate 1")
    assert not committed(lambda session: merges.beat_merge(session, order.id, 2))
    assert not committed(lambda session: merges.beat_merge(session, 4711, 1))
    clock.advance(44)
    assert not committed(lambda session: merges.reclaim(session, order.id))
    clock.advance(1)
    assert committed(lambda session: merges.reclaim(session, order.id))
    assert (now(request).status, now(request).lease_expires_at) == (OPEN, None)
    assert not committed(lambda session: merges.reclaim(session, order.id))
    assert not committed(lambda session: merges.beat_merge(session, order.id, 1))


def test_a_merge_that_ends_its_workers_is_held_for_a_person(town_id: int, clock: Clock) -> None:
    """A gate that kills its worker would be run for ever (G6). A retry gives it as many workers again."""
    request = make()

    def lose_a_worker() -> None:
        epoch = claim(request).merge_epoch
        committed(lambda session: merges.beat_merge(session, request.id, epoch, "gate 1"))
        clock.advance(46)
        assert committed(lambda session: merges.reclaim(session, request.id))

    def lose_workers(count: int) -> None:
        for _ in range(count):
            lose_a_worker()

    lose_workers(4)
    committed(lambda session: merges.requeue(session, claim(request), "main moved meanwhile"))
    for _ in range(2):
        lose_workers(4)
        assert now(request).held_code is None
        lose_workers(1)
        held = now(request)
        assert (held.status, held.held_code, held.look_at) == (OPEN, HoldCode.MERGE_ERROR, None)
        assert held.held_reason == "5 workers in a row were gone before it was merged, the last one at the step gate 1"
        committed(lambda session: work.retry(session, town_id, request.bead_id))


def test_a_worker_that_came_back_has_its_merges_taken_up_at_once(town_id: int, clock: Clock) -> None:
    mine = make()
    claim(mine, f"merge@here/{'a' * 12}")

    def expired_for(worker: str) -> list[str]:
        return committed(lambda session: merges.expire_merges_of(session, worker))

    assert expired_for(f"other@here/{'b' * 12}") == expired_for(f"merge@here/{'a' * 12}") == []  # its own is no old one
    assert expired_for(f"merge@here/{'b' * 12}") == [mine.bead_id]
    tick()
    assert asked() == [mine.id]
    order = claim(mine)
    assert push(order)
    assert expired_for(f"worker@here/{'b' * 12}") == []  # a push may outlive it


# --- the fence


def writes(order: MergeOrder) -> dict[str, Callable[[Session], bool]]:
    return {
        "beat": lambda session: merges.beat_merge(session, order.id, order.merge_epoch),
        "begin_push": lambda session: merges.begin_push(session, order, MERGED, ONTO),
        "record": lambda session: merges.record_merged(session, order, MERGED),
        "hold": lambda session: merges.hold(session, order, CONFLICT, "x"),
        "requeue": lambda session: merges.requeue(session, order, "x"),
    }


@pytest.mark.parametrize("case", ["reclaimed", "claimed anew", "canceled", "merged by another", "tried again"])
def test_a_worker_that_lost_its_claim_writes_nothing(town_id: int, clock: Clock, case: str) -> None:
    """S52, S67: whatever it comes back with."""
    request = make()
    order = claim(request)
    if case in ("reclaimed", "claimed anew"):
        clock.advance(45)
        assert committed(lambda session: merges.reclaim(session, order.id))
    if case == "claimed anew":
        claim(request)
    if case == "canceled":
        committed(lambda session: work.cancel(session, town_id, request.bead_id))
    if case == "merged by another":
        clock.advance(45)
        committed(lambda session: merges.reclaim(session, order.id))
        again = claim(request)
        assert push(again)
        assert committed(lambda session: merges.record_merged(session, again, MERGED))
    if case == "tried again":
        committed(lambda session: work.retry(session, town_id, request.bead_id, again=True))
    before = (now(request).__dict__ | {"_sa_instance_state": 0}, bead(request).__dict__ | {"_sa_instance_state": 0})
    for name, write in writes(order).items():
        assert not committed(write), name
    after_ = (now(request).__dict__ | {"_sa_instance_state": 0}, bead(request).__dict__ | {"_sa_instance_state": 0})
    assert after_ == before


def test_a_push_that_nobody_finished_is_settled_by_the_next_claim(town_id: int, clock: Clock) -> None:
    """S52: never back into the queue unlooked, because it may have arrived."""
    request = make()
    assert push(claim(request))
    assert (now(request).status, now(request).merge_sha, now(request).expected_sha) == (PUSHING, MERGED, ONTO)
    assert refused(request)  # its worker may still be at it
    assert not committed(lambda session: merges.reclaim(session, request.id))
    clock.advance(45)
    assert not committed(lambda session: merges.reclaim(session, request.id))
    tick()
    assert asked() == [request.id]
    order = claim(request)
    assert (order.pushing_sha, order.merge_epoch) == (MERGED, 2)
    assert now(request).status == PUSHING
    assert committed(lambda session: merges.record_merged(session, order, MERGED))
    assert bead(request).resolution == Resolution.MERGED


def test_a_push_that_had_not_arrived_is_merged_anew(town_id: int, clock: Clock) -> None:
    request = make()
    assert push(claim(request))
    clock.advance(45)
    assert committed(lambda session: merges.requeue(session, claim(request), "had not arrived"))
    assert (now(request).status, now(request).lease_expires_at) == (OPEN, None)
    tick()
    assert asked() == [request.id]
    assert claim(request).pushing_sha is None


# --- cancel: before, between gates and push, during the push


def test_cancel_before_the_push_means_no_push(town_id: int) -> None:
    """S67, model: merge_fence."""
    request = make()
    order = claim(request)
    committed(lambda session: work.cancel(session, town_id, request.bead_id))
    assert not push(order)
    assert (now(request).status, now(request).merged_sha) == (CLOSED, None)
    assert bead(request).resolution == Resolution.CANCELED


def test_cancel_during_the_push_is_refused(town_id: int) -> None:
    request = make()
    order = claim(request)
    assert push(order)
    with pytest.raises(Refused, match=f"{request.bead_id} is being pushed"):
        committed(lambda session: work.cancel(session, town_id, request.bead_id))
    with pytest.raises(Refused, match=f"{request.bead_id} is being pushed"):
        committed(lambda session: work.retry(session, town_id, request.bead_id, again=True))
    assert committed(lambda session: merges.record_merged(session, order, MERGED))
    with pytest.raises(Refused, match="is merged already"):
        committed(lambda session: work.cancel(session, town_id, request.bead_id))


@pytest.mark.parametrize("first", ["cancel", "push"])
def test_cancel_and_push_at_once(town_id: int, first: str) -> None:
    request = make()
    order = claim(request)
    begin = lambda session: merges.begin_push(session, order, MERGED, ONTO)  # noqa: E731
    cancel = lambda session: work.cancel(session, town_id, request.bead_id)  # noqa: E731
    if first == "cancel":
        assert race(cancel, begin) is False
        assert bead(request).resolution == Resolution.CANCELED
    else:
        with pytest.raises(Refused):
            race(begin, cancel)
        assert bead(request).status == BeadStatus.IN_REVIEW


# --- record


def test_record_wakes_exactly_who_waits(town_id: int, clock: Clock) -> None:
    """G4, S50: dependants are released by the merge; others sleep on."""
    request, behind, unrelated = make(), make(), make(target="next")
    with transaction() as session:
        waiting, bystander = a_bead(session), a_bead(session, held_at=after(0), held_reason="x")
        edge = "INSERT INTO bead_dependencies (bead_id, blocker_id) VALUES (:a, :b)"
        session.execute(text(edge), {"a": waiting.id, "b": request.bead_id})
    tick()
    order = claim(request)
    tick()
    assert now(waiting).verdict == Verdict.BLOCKED
    assert bead(behind).wake_at == after(10)
    assert push(order)
    clock.advance(1)
    assert committed(lambda session: merges.record_merged(session, order, MERGED))
    merged = now(request)
    assert (merged.status, merged.merged_sha, merged.merged_at) == (CLOSED, MERGED, clock.now)
    assert (bead(request).status, bead(request).closed_at) == (BeadStatus.CLOSED, clock.now)
    assert [now(waiting).wake_at, bead(behind).wake_at] == [clock.now, clock.now]
    assert now(bystander).wake_at is None
    assert bead(unrelated).wake_at != clock.now
    asked()
    tick()
    assert asked() == [behind.id]
    assert [each.bead_id for each in live()] == [waiting.id]
    with transaction() as session:
        told = session.scalars(select(Event.message).where(Event.kind == "merged")).all()
    assert told == [f"merged into main as {MERGED[:12]}"]


def test_one_that_begins_to_wait_while_the_merge_is_recorded_is_woken(town_id: int) -> None:
    """A tick has seen it blocked, after the record had asked who waits, and before it had the lock."""
    request = make()
    with transaction() as session:
        waiting = a_bead(session)
    order = claim(request)
    assert push(order)

    def begin_to_wait(session: Session) -> None:
        beads.add_blockers(session, waiting.id, [request.bead_id], town_id)
        set_bead(session, waiting.id, wake_at=None, verdict=Verdict.BLOCKED)

    assert race(begin_to_wait, lambda session: merges.record_merged(session, order, MERGED))
    assert now(waiting).wake_at is not None


def test_what_the_target_has_already_is_recorded_without_a_push(town_id: int) -> None:
    request = make()
    assert committed(lambda session: merges.record_merged(session, claim(request), MERGED))
    assert now(request).merged_sha == MERGED
