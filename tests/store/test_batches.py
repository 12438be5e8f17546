"""Batches: who is claimed together, what ends a batch, and what becomes of its members when it does."""

from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from gastown.commands import work
from gastown.db import in_transaction, transaction
from gastown.errors import Refused
from gastown.models import Bead, BeadDependency, Convoy, Event, MergeRequest, Rig, Town
from gastown.states import BeadStatus, ConvoyStatus, HoldCode, MergeStatus, Purpose, Resolution, Verdict
from gastown.store import batches, merges
from gastown.store.moves import lock_beads
from gastown.store.orders import MergeOrder
from gastown.store.resync import find_violations
from tests.builders import HEAD, a_bead, a_node, now
from tests.conftest import Clock
from tests.races import Thread, committed, wait_until_blocked
from tests.store.merging import CONFLICT, ONTO, asked, bead, claim, hold, make, push, refused
from tests.ticks import tick

OPEN, CLOSED, PUSHING = MergeStatus.OPEN, MergeStatus.CLOSED, MergeStatus.PUSHING


@pytest.fixture(autouse=True)
def batched(town_id: int) -> None:
    """The town merges up to four at once."""
    committed(lambda session: session.get_one(Town, town_id).__setattr__("policy", {"merge_batch": 4}))


@pytest.fixture(autouse=True)
def consistent(batched: None) -> Any:
    """Whatever a test did, no row contradicts another at its end."""
    yield
    with transaction() as session:
        assert find_violations(session) == []


def taken(order: MergeOrder) -> list[int]:
    return [member.id for member in order.members]


def leaders(*requests: MergeRequest) -> list[int | None]:
    return [now(request).batch_of for request in requests]


def sha(number: int) -> str:
    return f"{number:x}" * 40


def push_all(order: MergeOrder) -> bool:
    """To `pushing`: the leader's commit is 1..., each of its members' is the next, on top of the one before it."""
    along = [
        batches.Along(order=member, merge_sha=sha(number + 1), base_sha=sha(number))
        for number, member in enumerate(order.members, 1)
    ]
    return committed(lambda session: merges.begin_push(session, order, sha(1), ONTO, along))


def record(order: MergeOrder) -> bool:
    return committed(lambda session: merges.record_merged(session, order, sha(1)))


def cancel(request: MergeRequest) -> None:
    in_transaction(lambda session: work.cancel(session, request.town_id, request.bead_id))


# --- the claim


def test_a_claim_takes_the_next_ones_in_the_order_of_the_queue() -> None:
    late, first, second, third = make(priority=3), make(), make(), make(priority=1)
    more = make()
    order = claim(first)
    assert taken(order) == [third.id, second.id, more.id]
    assert leaders(late, first, second, third, more) == [None, None, first.id, first.id, first.id]
    assert [now(each).status for each in (first, second)] == [MergeStatus.IN_PROGRESS, OPEN]
    assert [now(each).merge_epoch for each in (first, second, late)] == [1, 1, 0]
    assert order.members[0].head_ref == claimed_ref(third)


def claimed_ref(request: MergeRequest) -> str:
    return f"refs/gastown/head/{request.bead_id}/1"


def test_one_at_a_time_unless_asked_for(town_id: int) -> None:
    committed(lambda session: session.get_one(Town, town_id).__setattr__("policy", {}))
    first, second = make(), make()
    assert taken(claim(first)) == []
    assert leaders(second) == [None]


def test_a_rig_may_say_otherwise_than_its_town() -> None:
    first, _second, _third = make(), make(), make()
    committed(lambda session: session.get_one(Rig, first.rig_id).__setattr__("policy", {"merge_batch": 2}))
    assert len(claim(first).members) == 1


@pytest.mark.parametrize(
    "values",
    [
        {"held_code": CONFLICT, "held_reason": "it cannot be"},
        {"target": "release"},
        {"published_sha": HEAD, "published_ref": "gt/1"},  # its branch is taken back by the worker that merges it
        {"status": CLOSED},
    ],
    ids=["held", "another target", "published", "over"],
)
def test_who_is_not_taken_along(values: dict[str, Any]) -> None:
    first, other = make(), make()
    committed(lambda session: [setattr(session.get_one(MergeRequest, other.id), *each) for each in values.items()])
    assert taken(claim(first)) == []
    if values.get("status") is CLOSED:  # put right, for the invariants
        committed(lambda session: session.get_one(MergeRequest, other.id).__setattr__("status", OPEN))


@pytest.mark.parametrize("which", [0, 1])
def test_a_landing_is_merged_by_itself(town_id: int, which: int) -> None:
    requests = [make(), make()]

    def land(session: Session) -> None:
        session.add(Convoy(id="cv-1", town_id=town_id, name="c", status=ConvoyStatus.LANDING))
        session.flush()
        landing = session.get_one(Bead, requests[which].bead_id)
        landing.purpose, landing.convoy_id = Purpose.LANDING, "cv-1"

    committed(land)
    assert taken(claim(requests[0])) == []


def test_who_is_not_approved_is_not_taken_along() -> None:
    first, read, unread, outdated = (make() for _ in range(4))

    def review(session: Any) -> None:
        session.get_one(Rig, first.rig_id).review_agent = "claude"
        for each, head in ((first, HEAD), (read, HEAD), (outdated, "0" * 40)):
            session.get_one(MergeRequest, each.id).reviewed_sha = head

    committed(review)
    assert taken(claim(first)) == [read.id]
    assert leaders(unread, outdated) == [None, None]


@pytest.mark.parametrize("staged", [None, "f" * 40])
def test_while_a_checkout_is_dirty_each_is_merged_by_itself(staged: str | None, clock: Clock) -> None:
    """Each has to be gated by itself, so that it can wait by itself."""
    dirty, first, _second = make(), make(), make()
    order = claim(dirty)
    assert len(order.members) == 2
    assert hold(order, HoldCode.DIRTY_CHECKOUT, staged_sha=staged, look_again=True)
    assert taken(claim(first)) == []


def test_one_that_was_held_is_looked_at_alone(clock: Clock) -> None:
    first, second = make(), make()
    assert hold(claim(first), HoldCode.HEAD_MISSING, look_again=True)
    assert leaders(second) == [None]
    clock.advance(10)
    assert taken(claim(first)) == []


def test_a_claim_waits_for_nobody_who_is_at_another_bead() -> None:
    first, second, third = make(), make(), make()
    with transaction() as session:
        lock_beads(session, {second.bead_id})
        order = claim(first)
    assert taken(order) == [third.id]
    assert leaders(second) == [None]


def test_two_workers_claim_at_the_same_time() -> None:
    first, second, third = make(), make(), make()
    with transaction() as session:
        order = merges.claim_merge(session, first.id, "a@here")
        assert order is not None
        thread = Thread(lambda: committed(lambda other: merges.claim_merge(other, second.id, "b@here")))
        wait_until_blocked(thread)
    assert thread.value() is None
    assert taken(order) == [second.id, third.id]
    assert refused(third)
    assert leaders(second, third) == [first.id, first.id]


def test_a_member_says_with_whom_it_is_merged(town_id: int, clock: Clock) -> None:
    committed(a_node)
    first, second = make(), make()
    tick()
    assert asked() == [first.id]
    claim(first)
    tick()
    told = bead(second)
    assert told.verdict == Verdict.AWAITING_MERGE
    assert told.verdict_reason == f"being merged into main together with {first.bead_id}"
    assert asked() == []


# --- the push and the record


def test_one_push_closes_all_with_their_own_commits_and_releases_each_dependant_once(town_id: int) -> None:
    committed(a_node)
    requests = [make() for _ in range(3)]
    waiting = committed(a_bead)

    def wait(session: Any) -> None:
        for each in requests:
            session.add(BeadDependency(bead_id=waiting.id, blocker_id=each.bead_id))

    committed(wait)
    order = claim(requests[0])
    assert push_all(order)
    assert [now(each).merge_sha for each in requests] == [sha(1), sha(2), sha(3)]
    assert record(order)
    for number, request in enumerate(requests, 1):
        row = now(request)
        assert (row.status, row.merged_sha, row.batch_of) == (CLOSED, sha(number), None)
        assert (bead(request).status, bead(request).resolution) == (BeadStatus.CLOSED, Resolution.MERGED)
    with transaction() as session:
        said = session.scalars(select(Event.message).where(Event.kind == "merged").order_by(Event.id)).all()
    assert said[0] == "merged into main as 111111111111"
    assert f"merged into main as 222222222222, together with {requests[0].bead_id}" in said
    assert len(said) == 3
    assert not record(order)
    tick()
    with transaction() as session:
        assert session.get_one(Bead, waiting.id).status == BeadStatus.IN_PROGRESS


def test_who_is_not_in_the_push_is_queued_again() -> None:
    first, second, third = make(), make(), make()
    order = claim(first)
    along = [batches.Along(order=order.members[0], merge_sha=sha(2), base_sha=sha(1))]
    assert committed(lambda session: merges.begin_push(session, order, sha(1), ONTO, along))
    assert leaders(second, third) == [first.id, None]
    assert record(order)
    assert [now(each).status for each in (first, second, third)] == [CLOSED, CLOSED, OPEN]
    tick()
    assert asked() == [third.id]


@pytest.mark.parametrize("which", [0, 1, 2])
def test_a_cancel_before_the_push_has_the_rest_merged_anew(which: int) -> None:
    requests = [make() for _ in range(3)]
    order = claim(requests[0])
    cancel(requests[which])
    assert not push_all(order)
    committed(lambda session: merges.requeue(session, order, "one was withdrawn"))
    assert leaders(*requests) == [None] * 3
    assert [now(each).status for each in requests].count(OPEN) == 2
    rest = [each for each in requests if each is not requests[which]]
    assert taken(claim(rest[0])) == [rest[1].id]


@pytest.mark.parametrize("which", [0, 1, 2])
def test_a_cancel_or_retry_during_the_push_is_refused(which: int) -> None:
    requests = [make() for _ in range(3)]
    order = claim(requests[0])
    assert push_all(order)
    with pytest.raises(Refused, match="is being pushed"):
        cancel(requests[which])
    with pytest.raises(Refused, match="is being pushed"):
        in_transaction(
            lambda session: work.retry(session, requests[which].town_id, requests[which].bead_id, again=True)
        )
    assert record(order)


def test_a_cancel_that_comes_while_the_push_begins_waits_and_is_refused() -> None:
    first, second = make(), make()
    order = claim(first)
    along = [batches.Along(order=order.members[0], merge_sha=sha(2), base_sha=sha(1))]
    with transaction() as session:
        assert merges.begin_push(session, order, sha(1), ONTO, along)
        thread = Thread(lambda: cancel(second))
        wait_until_blocked(thread)
    with pytest.raises(Refused, match="is being pushed"):
        thread.value()
    assert record(order)


def test_a_cancel_after_the_record_is_too_late() -> None:
    first, second = make(), make()
    order = claim(first)
    assert push_all(order)
    assert record(order)
    with pytest.raises(Refused, match="is merged already"):
        cancel(second)


def test_a_member_that_is_worked_on_again_is_not_pushed() -> None:
    first, second = make(), make()
    order = claim(first)
    committed(lambda session: session.get_one(MergeRequest, second.id).__setattr__("head_sha", "9" * 40))
    assert not push_all(order)


# --- ends


@pytest.mark.parametrize("end", ["held", "requeued", "reclaimed", "merged already", "nothing left"])
def test_whoever_ends_the_merge_of_the_first_lets_the_others_go(end: str, town_id: int, clock: Clock) -> None:
    committed(a_node)
    first, second, third = make(), make(), make()
    tick()
    asked()
    order = claim(first)
    tick()
    if end == "held":
        assert hold(order)
    elif end == "requeued":
        assert committed(lambda session: merges.requeue(session, order, "main moved"))
    elif end == "reclaimed":
        clock.advance(45)
        assert committed(lambda session: merges.reclaim(session, first.id))
    elif end == "merged already":
        assert record(order)
    else:
        assert committed(lambda session: merges.record_nothing(session, order, ONTO))
    assert leaders(second, third) == [None, None]
    assert [now(each).status for each in (second, third)] == [OPEN, OPEN]
    tick()
    next_one = first if end in ("requeued", "reclaimed") else second
    assert next_one.id in asked()


def test_a_worker_that_lost_its_lease_writes_nothing(clock: Clock) -> None:
    first, second, third = make(), make(), make()
    old = claim(first)
    clock.advance(45)
    committed(lambda session: merges.reclaim(session, first.id))
    new = claim(first)
    assert taken(new) == [second.id, third.id]
    member = old.members[0]
    assert not push_all(old)
    assert not committed(lambda session: merges.hold_along(session, old, member, "red", "", rework_agent=None))
    assert not committed(lambda session: batches.leave_out(session, old, {second.bead_id: "it conflicts"}))
    assert not hold(old)
    assert not record(old)
    assert leaders(second, third) == [first.id, first.id]
    assert push_all(new)
    assert record(new)


def test_a_red_member_is_held_and_the_others_go_on() -> None:
    first, second, third = make(), make(), make()
    order = claim(first)
    culprit = order.members[0]
    assert committed(
        lambda session: merges.hold_along(session, order, culprit, "gate `make` failed", "1 failed", rework_agent="x")
    )
    row = now(second)
    assert (row.held_code, row.held_reason, row.held_output, row.rework_agent, row.batch_of) == (
        HoldCode.GATE_FAILED,
        "gate `make` failed",
        "1 failed",
        "x",
        None,
    )
    assert leaders(third) == [first.id]
    assert push(order)
    assert leaders(third) == [None]


def test_who_is_left_out_says_why() -> None:
    first, second, third = make(), make(), make()
    order = claim(first)
    assert committed(lambda session: batches.leave_out(session, order, {second.bead_id: "left out: it conflicts"}))
    assert leaders(second, third) == [None, first.id]
    with transaction() as session:
        events = select(Event.message).where(Event.bead_id == second.bead_id, Event.kind == "merge_requeued")
        assert session.scalars(events).all() == ["left out: it conflicts"]


def test_a_dead_push_is_settled_with_all_that_it_brought(clock: Clock) -> None:
    """Whoever takes over knows each commit and what it stands on, in this order."""
    requests = [make() for _ in range(3)]
    assert push_all(claim(requests[0]))
    assert refused(requests[0])
    clock.advance(45)
    order = claim(requests[0])
    assert (order.pushing_sha, [each.pushing_sha for each in order.members]) == (sha(1), [sha(2), sha(3)])
    assert taken(order) == [requests[1].id, requests[2].id]
    assert record(order)
    assert [now(each).merged_sha for each in requests] == [sha(1), sha(2), sha(3)]


def test_a_member_of_a_forgotten_batch_is_merged_all_the_same(town_id: int, clock: Clock) -> None:
    """Nothing does this: it is how rows would look if somebody forgot to let a member go."""
    committed(a_node)
    first, second = make(), make()
    claim(first)
    committed(lambda session: session.get_one(MergeRequest, first.id).__setattr__("status", OPEN))
    with transaction() as session:
        assert "a merge request in a batch that nobody merges" in find_violations(session)[0]
    cancel(first)
    claim(second)
    assert leaders(second) == [None]
