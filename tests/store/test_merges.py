"""Merge requests in the database: one at a time per target, each write fenced by its epoch, nobody left waiting."""

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import select, text
from sqlalchemy.orm import Session

from gastown.commands import work
from gastown.db import in_transaction, transaction
from gastown.errors import Refused
from gastown.models import Bead, Event, MergeRequest
from gastown.states import BeadStatus, DispatchStatus, HoldCode, MergeStatus, Resolution, Verdict
from gastown.store import merges
from gastown.store.merges import MergeOrder
from tests.builders import (
    HEAD,
    a_bead,
    a_merge,
    a_node,
    a_rig,
    a_town,
    an_attempt,
    attempts_on,
    now,
    the_api_is_there,
)
from tests.conftest import Clock
from tests.races import committed, race, together
from tests.ticks import live, take_messages, tick
from tests.views import after

OPEN, CLOSED = MergeStatus.OPEN, MergeStatus.CLOSED
MERGING, PUSHING = MergeStatus.IN_PROGRESS, MergeStatus.PUSHING
CONFLICT, DIRTY = HoldCode.CONFLICT, HoldCode.DIRTY_CHECKOUT
MERGED, ONTO, STAGED = "d" * 40, "e" * 40, "f" * 40


@pytest.fixture
def town_id(clock: Clock) -> int:
    with transaction() as session:
        the_api_is_there(session)
        a_node(session)
        a_rig(session, gates=["make test"], setup="make", environment={"A": "1"})
        return a_town(session).id


def make(**values: Any) -> MergeRequest:
    """A merge request with the bead and the attempt that it came from; `priority` is the bead's too."""
    return committed(lambda session: a_merge(session, **values))


def bead(request: MergeRequest) -> Bead:
    with transaction() as session:
        return session.get_one(Bead, request.bead_id)


def claim(request: MergeRequest, worker: str = "worker@here") -> MergeOrder:
    order = in_transaction(lambda session: merges.claim_merge(session, request.id, worker))
    assert order is not None
    return order


def refused(request: MergeRequest) -> bool:
    return in_transaction(lambda session: merges.claim_merge(session, request.id, "worker@here")) is None


def push(order: MergeOrder) -> bool:
    return committed(lambda session: merges.begin_push(session, order, MERGED, ONTO))


def hold(order: MergeOrder, code: HoldCode = CONFLICT, **more: Any) -> bool:
    return committed(lambda session: merges.hold(session, order, code, "it cannot be", **more))


def asked() -> list[int]:
    """Which merges a worker is asked for."""
    return [args[0] for task, args in take_messages("merge") if task == "gastown.merge"]


# --- claims


def test_claim(town_id: int, clock: Clock) -> None:
    request = make()
    order = claim(request)
    assert (order.merge_epoch, order.head_sha, order.target, order.repository) == (1, HEAD, "main", "/srv/repository")
    assert (order.gates, order.setup, order.environment) == (("make test",), "make", {"A": "1"})
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


def test_a_worker_that_came_back_has_its_merges_taken_up_at_once(town_id: int, clock: Clock) -> None:
    mine = make()
    claim(mine, "merge@here")
    assert committed(lambda session: merges.expire_merges_of(session, "other@here")) == []
    assert committed(lambda session: merges.expire_merges_of(session, "merge@here")) == [mine.bead_id]
    tick()
    assert asked() == [mine.id]
    order = claim(mine)
    assert push(order)
    assert committed(lambda session: merges.expire_merges_of(session, "worker@here")) == []  # a push may outlive it


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
    assert bead(behind).wake_at is None
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


def test_what_the_target_has_already_is_recorded_without_a_push(town_id: int) -> None:
    request = make()
    assert committed(lambda session: merges.record_merged(session, claim(request), MERGED))
    assert now(request).merged_sha == MERGED


# --- holds and the queue


def test_hold_keeps_the_output_and_says_it_once(town_id: int, clock: Clock) -> None:
    request = make()
    assert hold(claim(request), output="x" * 30_000 + "\x00red")
    held = now(request)
    assert (held.status, held.held_code, held.held_reason, held.look_at) == (OPEN, CONFLICT, "it cannot be", None)
    assert held.held_output is not None
    assert (len(held.held_output), held.held_output[-4:]) == (merges.HELD_OUTPUT_CHARACTERS, "xred")
    tick()
    assert (bead(request).verdict, bead(request).wake_at) == (Verdict.MERGE_HELD, None)
    assert refused(request)
    committed(lambda session: work.retry(session, town_id, request.bead_id))
    tick()
    assert asked() == [request.id]
    assert hold(claim(request), look_again=True)
    assert now(request).look_at == after(10)
    tick()
    assert bead(request).wake_at == after(10)
    with transaction() as session:
        assert session.scalars(select(Event.kind).where(Event.kind == "merge_held")).all() == ["merge_held"] * 2


def test_retry_of_a_merge_that_nothing_holds_is_refused(town_id: int) -> None:
    request = make()
    with pytest.raises(Refused, match="nothing holds it"):
        committed(lambda session: work.retry(session, town_id, request.bead_id))


def test_a_held_merge_can_be_worked_on_again(town_id: int) -> None:
    request = make()
    hold(claim(request), output="conflict in a.py")
    committed(lambda session: work.retry(session, town_id, request.bead_id, again=True))
    assert (now(request).status, bead(request).status, bead(request).base_sha) == (CLOSED, BeadStatus.OPEN, HEAD)
    assert bead(request).failure_message == "it cannot be\n\nconflict in a.py"
    tick()
    assert [each.epoch for each in attempts_on(request.bead_id)] == [1, 2]


def test_the_queue_is_by_priority_then_age(town_id: int) -> None:
    low, first, second, urgent = make(priority=3), make(), make(), make(priority=0)
    order = []
    tick()
    for _ in range(4):
        [next_] = asked()
        order.append(next_)
        request = next(each for each in (low, first, second, urgent) if each.id == next_)
        claimed = claim(request)
        tick()
        assert asked() == []
        assert push(claimed)
        committed(lambda session: merges.record_merged(session, claimed, MERGED))  # noqa: B023
        tick()
    assert order == [urgent.id, first.id, second.id, low.id]


@pytest.mark.parametrize("end", ["recorded", "held", "requeued", "reclaimed", "canceled", "tried again", "unreachable"])
def test_whoever_waits_is_woken_by_any_end_of_the_merge_before(town_id: int, clock: Clock, end: str) -> None:
    """A better one that came while this was merged sleeps until then; so does the next in line."""
    request, next_one = make(), make()
    tick()
    order = claim(request)
    urgent = make(priority=0)
    tick()
    tick()
    asked()
    assert bead(urgent).verdict_reason == "other merges into main go first"
    assert bead(urgent).wake_at is bead(next_one).wake_at is None
    clock.advance(45)
    if end == "recorded":
        assert push(order)
        assert committed(lambda session: merges.record_merged(session, order, MERGED))
    elif end in ("held", "unreachable"):
        assert hold(order, look_again=end == "unreachable")
    elif end == "requeued":
        assert committed(lambda session: merges.requeue(session, order, "moved"))
    elif end == "canceled":
        committed(lambda session: work.cancel(session, town_id, request.bead_id))
    elif end == "tried again":
        committed(lambda session: work.retry(session, town_id, request.bead_id, again=True))
    committed(lambda session: a_node(session).__setattr__("heartbeat_at", clock.now))
    tick()
    assert asked() == [urgent.id]
    assert bead(next_one).verdict_reason == "other merges into main go first"


def test_two_held_ones_do_not_hold_the_rest(town_id: int) -> None:
    first, second, third = make(), make(), make()
    for each in (first, second):
        assert hold(claim(each))
    tick()
    assert asked() == [third.id]


# --- merges that wait for a clean checkout


def stage(request: MergeRequest, sha: str) -> None:
    assert hold(claim(request), DIRTY, staged_sha=sha, look_again=True)


def test_later_merges_stack_on_the_newest_staged_one(town_id: int, clock: Clock) -> None:
    """S62."""
    first, second, third = make(), make(), make()
    stage(first, "1" * 40)
    clock.advance(1)
    assert claim(second).staged_sha == "1" * 40
    hold(order_of(second), DIRTY, staged_sha="2" * 40, look_again=True)
    order = claim(third)
    assert (order.staged_sha, order.own_staged_sha) == ("2" * 40, None)
    hold(order)
    clock.advance(10)
    assert claim(first).own_staged_sha == "1" * 40


def order_of(request: MergeRequest) -> MergeOrder:
    """The order of the claim that is under way."""
    with transaction() as session:
        row = session.get_one(MergeRequest, request.id)
        fields = dict.fromkeys(MergeOrder.__dataclass_fields__) | {"id": row.id, "merge_epoch": row.merge_epoch}
        return MergeOrder(**fields)  # type: ignore[arg-type]


def test_canceling_a_staged_one_unstages_what_stands_on_it(town_id: int, clock: Clock) -> None:
    """S67 through a stack: what was canceled must not land with what stands on it."""
    first, second, third = make(), make(), make()
    stage(first, "1" * 40)
    stage(second, "2" * 40)
    preparing = claim(third)
    assert preparing.staged_sha == "2" * 40
    committed(lambda session: work.cancel(session, town_id, first.bead_id))
    assert (now(second).staged_sha, now(second).held_code) == (None, None)
    assert bead(second).wake_at == clock.now
    assert not push(preparing)  # it was prepared on top of what is gone
    clock.advance(45)
    tick()
    assert now(third).status == OPEN


def test_canceling_a_staged_one_stops_the_landing_of_what_stands_on_it(town_id: int, clock: Clock) -> None:
    first, second = make(), make()
    stage(first, "1" * 40)
    stage(second, "2" * 40)
    clock.advance(10)
    landing = claim(second)
    assert landing.own_staged_sha == "2" * 40
    committed(lambda session: work.cancel(session, town_id, first.bead_id))
    assert not push(landing)


@pytest.mark.parametrize("first_", ["cancel", "push"])
def test_cancel_of_a_staged_one_and_the_push_on_top_of_it_at_once(town_id: int, clock: Clock, first_: str) -> None:
    first, second = make(), make()
    stage(first, "1" * 40)
    order = claim(second)
    begin = lambda session: merges.begin_push(session, order, MERGED, ONTO)  # noqa: E731
    cancel = lambda session: work.cancel(session, town_id, first.bead_id)  # noqa: E731
    if first_ == "cancel":
        assert race(cancel, begin) is False
    else:
        with pytest.raises(Refused, match="is being pushed to main right now"):
            race(begin, cancel)
        assert bead(first).status == BeadStatus.IN_REVIEW


@pytest.mark.parametrize("end", ["refused", "moved", "landed"])
def test_a_staged_one_that_is_given_up_takes_the_stack_with_it(town_id: int, clock: Clock, end: str) -> None:
    first, second = make(), make()
    stage(first, "1" * 40)
    stage(second, "2" * 40)
    clock.advance(10)
    order = claim(first)
    assert push(order)
    if end == "refused":
        assert hold(order, HoldCode.PUSH_REFUSED)
    elif end == "moved":
        assert committed(lambda session: merges.requeue(session, order, "moved"))
    else:
        assert committed(lambda session: merges.record_merged(session, order, "1" * 40))
    assert now(second).staged_sha == ("2" * 40 if end == "landed" else None)
    assert now(first).staged_sha is None


def test_staged_again_keeps_its_place(town_id: int, clock: Clock) -> None:
    request = make()
    stage(request, STAGED)
    clock.advance(10)
    assert hold(claim(request), DIRTY, staged_sha=STAGED, look_again=True)
    assert (now(request).staged_at, now(request).look_at) == (after(0), after(20))
