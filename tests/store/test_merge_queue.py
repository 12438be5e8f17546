"""The queue of merges into one target: holds, who is next and who is woken, and stacks on a dirty checkout."""

from datetime import timedelta

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from gastown.commands import work
from gastown.db import transaction
from gastown.errors import Refused
from gastown.models import Event, MergeRequest
from gastown.states import BeadStatus, HoldCode, MergeStatus, Verdict
from gastown.store import merges
from gastown.store.moves import set_bead
from gastown.store.orders import MergeOrder
from tests.builders import (
    HEAD,
    a_node,
    attempts_on,
    now,
)
from tests.conftest import Clock
from tests.races import committed, race
from tests.store.merging import CONFLICT, MERGED, ONTO, asked, bead, claim, hold, make, push, refused
from tests.ticks import tick
from tests.views import after

OPEN, CLOSED = MergeStatus.OPEN, MergeStatus.CLOSED
PUSHING = MergeStatus.PUSHING
DIRTY = HoldCode.DIRTY_CHECKOUT
STAGED = "f" * 40


# --- holds and the queue


def test_hold_keeps_the_output_and_says_it_once(town_id: int, clock: Clock) -> None:
    request = make()
    assert hold(claim(request), output="begun\n" + "x" * 18 + "\n" + "1234 678\n" * 3_000 + "\x00red")
    held = now(request)
    assert (held.status, held.held_code, held.held_reason, held.look_at) == (OPEN, CONFLICT, "it cannot be", None)
    assert held.held_output is not None
    assert len(held.held_output) <= merges.HELD_OUTPUT_CHARACTERS
    note, *lines, last = held.held_output.splitlines()
    assert (note, set(lines), last) == (f"... {3_002 - len(lines)} earlier lines", {"1234 678"}, "red")
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


@pytest.mark.parametrize(
    ("code", "looks_s"),
    [
        (HoldCode.UNREACHABLE, [10, 10, 20, 40, 80, 160, 300, 300]),
        (HoldCode.HEAD_MISSING, [10, 10, 20, 40, 80, 160, 300, 300]),
        (DIRTY, [10, 10, 20, 30, 30]),
    ],
)
def test_what_waits_long_is_looked_at_less_often(
    town_id: int, clock: Clock, code: HoldCode, looks_s: list[float]
) -> None:
    request = make()
    for wait_s in looks_s:
        assert hold(claim(request), code, look_again=True)
        assert now(request).look_at == clock.now + timedelta(seconds=wait_s)
        clock.advance(wait_s)


def test_a_new_hold_is_looked_at_soon(town_id: int, clock: Clock) -> None:
    request = make()
    hold(claim(request), HoldCode.UNREACHABLE, look_again=True)
    clock.advance(3600)
    hold(claim(request), HoldCode.UNREACHABLE, look_again=True)
    assert now(request).look_at == clock.now + timedelta(seconds=300)
    committed(lambda session: work.retry(session, town_id, request.bead_id))
    hold(claim(request), HoldCode.UNREACHABLE, look_again=True)
    assert now(request).look_at == clock.now + timedelta(seconds=10)
    with transaction() as session:
        assert session.scalars(select(Event.kind).where(Event.kind == "merge_held")).all() == ["merge_held"] * 2


def test_nothing_stacks_on_what_could_not_be_pushed(town_id: int, clock: Clock) -> None:
    """It waits for the remote: a merge on top of it would wait for a checkout that nobody has to clean up."""
    first, second = make(), make()
    assert hold(claim(first), HoldCode.UNREACHABLE, staged_sha="1" * 40, look_again=True)
    assert claim(second).staged_sha is None


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
    """A better one that came while this was merged waits until then; so does the next in line."""
    request, next_one = make(), make()
    tick()
    order = claim(request)
    urgent = make(priority=0)
    tick()
    tick()
    asked()
    assert bead(urgent).verdict_reason == "other merges into main go first"
    assert bead(urgent).wake_at == bead(next_one).wake_at == after(10)
    committed(lambda session: set_bead(session, urgent.bead_id, wake_at=None))
    committed(lambda session: set_bead(session, next_one.bead_id, wake_at=None))
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


def test_a_merge_that_ended_as_the_next_one_came_is_seen_soon(town_id: int, clock: Clock) -> None:
    """Its end selects whom to wake before the new one is there, and commits after a tick that saw it at work."""
    request = make()
    claim(request)
    tick()
    with transaction() as ending:
        work.cancel(ending, town_id, request.bead_id)
        late = make()
        tick()
    asked()
    clock.advance(10)
    tick()
    assert asked() == [late.id]


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


# --- a lease that ends and is beaten at once


def expired(clock: Clock, *, pushing: bool = True) -> MergeOrder:
    """A merge whose worker was silent for longer than its lease."""
    order = claim(make())
    assert not pushing or push(order)
    clock.advance(46)
    return order


def test_no_lease_is_beaten_that_a_claim_takes_over(town_id: int, clock: Clock) -> None:
    order = expired(clock)
    taken: list[MergeOrder | None] = []
    beaten = race(
        lambda session: taken.append(merges.claim_merge(session, order.id, "other@there")),
        lambda session: merges.beat_merge(session, order.id, order.merge_epoch),
    )
    assert (beaten, [each and each.merge_epoch for each in taken]) == (False, [order.merge_epoch + 1])


@pytest.mark.parametrize("pushing", [True, False])
def test_no_lease_is_taken_over_that_was_just_beaten(town_id: int, clock: Clock, pushing: bool) -> None:
    """Found by the simulation: the beat was committed between the other one's read and its write."""
    order = expired(clock, pushing=pushing)

    def beat(session: Session) -> None:
        assert merges.beat_merge(session, order.id, order.merge_epoch)

    def take(session: Session) -> object:
        if pushing:
            return merges.claim_merge(session, order.id, "other@there")
        return merges.reclaim(session, order.id) or None

    assert race(beat, take) is None
    with transaction() as session:
        row = session.get_one(MergeRequest, order.id)
    assert (row.merge_epoch, row.lease_expires_at) == (order.merge_epoch, after(91))
