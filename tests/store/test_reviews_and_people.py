"""Reviews, and what people say and ask for meanwhile."""

from pathlib import Path

import pytest
from sqlalchemy import text

from gastown.agent.protocol import Review
from gastown.commands import reviews, work
from gastown.db import transaction
from gastown.errors import Refused
from gastown.models import MergeRequest
from gastown.states import HoldCode, Resolution
from gastown.store import resync
from gastown.store.attempts import Fenced
from tests.builders import BASE, HEAD, a_merge, now
from tests.conftest import Clock
from tests.races import committed, race
from tests.store.merging import asked, claim, hold, make, refused
from tests.store.reviewing import at_work, bead_of_request, change_rig, review_of, say, under_review
from tests.ticks import tick

pytestmark = pytest.mark.usefixtures("reader")


# --- people


def test_a_person_approves_and_the_review_ends(town_id: int) -> None:
    request, review = under_review()
    dispatch = at_work(review)
    words, stops = committed(lambda session: reviews.approve(session, town_id, request.bead_id))
    assert words == f"{request.bead_id} may be merged at {HEAD[:12]}"
    assert [stop.dispatch_id for stop in stops] == [str(dispatch.id)]
    assert (now(review).resolution, now(dispatch).status) == ("canceled", "stopped")
    tick()
    assert asked() == [request.id]
    order = claim(request)
    with pytest.raises(Refused, match="is being merged already"):
        committed(lambda session: reviews.approve(session, town_id, request.bead_id))
    words, _stops = committed(
        lambda session: reviews.reject(session, town_id, order.bead_id, "stop!", Path("/nowhere"))
    )
    assert "by a person" in words
    rejected = now(request)
    assert (rejected.status, rejected.held_code, rejected.reviewed_sha) == ("open", "changes_requested", None)
    assert not hold(order)  # its worker has lost it


def test_a_person_overrules_a_review(town_id: int, own_home: Path) -> None:
    request, review = under_review()
    say(at_work(review), "changes", "taste", own_home)
    committed(lambda session: reviews.approve(session, town_id, request.bead_id, "it is fine"))
    after = now(request)
    assert (after.held_code, after.held_output, after.reviewed_sha) == (None, None, HEAD)
    tick()
    assert asked() == [request.id]


def test_not_while_an_agent_mends_it(town_id: int, own_home: Path) -> None:
    change_rig(agent="writer")
    request, review = under_review()
    with transaction() as session:
        session.execute(text("UPDATE dispatches SET preset = 'writer'"))
    say(at_work(review), "changes", "no", own_home)
    tick()
    mends = now(request).rework_id
    for call in (
        lambda session: reviews.approve(session, town_id, request.bead_id),
        lambda session: reviews.reject(session, town_id, request.bead_id, "no", own_home),
    ):
        with pytest.raises(Refused, match=f"{mends} mends it right now"):
            committed(call)


def test_what_else_holds_it_goes_on_holding_it(town_id: int) -> None:
    request = make(held_code="push_refused", held_reason="protected")
    words, _ = committed(lambda session: reviews.approve(session, town_id, request.bead_id))
    assert words.endswith("and still held: protected")
    assert (now(request).held_code, now(request).reviewed_sha) == ("push_refused", HEAD)


@pytest.mark.parametrize("state", ["pushing", "batched", "leading", "over"])
def test_what_cannot_be_rejected(town_id: int, state: str) -> None:
    request, lease = make(), {"lease_expires_at": now(make(target="x")).created_at}
    shas = {"merge_sha": HEAD, "expected_sha": BASE}
    with transaction() as session:
        row = session.get_one(MergeRequest, request.id)
        other = a_merge(session, status="open" if state == "leading" else "closed")
        if state == "batched":
            other.status, other.lease_expires_at = "in_progress", lease["lease_expires_at"]
            row.batch_of = other.id
        elif state == "leading":
            row.status, row.lease_expires_at, other.batch_of = "in_progress", lease["lease_expires_at"], row.id
        else:
            values = {"status": "closed"} if state == "over" else {"status": "pushing", **shas, **lease}
            for name, value in values.items():
                setattr(row, name, value)
    with pytest.raises(Refused):
        committed(lambda session: reviews.reject(session, town_id, request.bead_id, "no", Path("/nowhere")))
    assert now(request).held_code is None


# --- a rig that begins, or ends, to ask


def test_a_rig_that_asks_no_more(town_id: int) -> None:
    request, _review = under_review()
    tick()
    change_rig(review_agent=None)
    tick()
    assert asked() == [request.id]
    assert claim(request).id == request.id


def test_one_that_waited_for_the_outside_is_read_first(town_id: int, clock: Clock) -> None:
    change_rig(review_agent=None)
    request = make()
    hold(claim(request), HoldCode.UNREACHABLE, look_again=True)
    change_rig(review_agent="reader")
    clock.advance(20)
    tick()
    assert asked() == [request.id]
    assert refused(request)
    tick()
    assert review_of(request).base_sha == HEAD


def test_the_end_of_a_merge_wakes_one_that_may_be_merged(town_id: int, clock: Clock) -> None:
    """Not the one before it in the queue, which waits for its review."""
    first, unread, read = make(), make(priority=0), make()
    for each in (first, read):
        committed(lambda session: reviews.approve(session, town_id, each.bead_id))  # noqa: B023
    tick()
    assert asked() == [first.id]
    order = claim(first)
    assert hold(order)
    tick()
    assert asked() == [read.id]
    assert now(unread).review_id is not None


def stray_review(request: MergeRequest) -> None:
    """Its rig asked for a review, does so no more, and so it is merged without one, and held."""
    change_rig(review_agent=None)
    assert hold(claim(request), rework_agent="writer")


def test_a_retry_of_a_held_merge_asks_for_another_review_where_it_ends_one(town_id: int) -> None:
    request, review = under_review()
    stray_review(request)
    committed(lambda session: work.retry(session, town_id, request.bead_id))
    assert now(review).resolution == Resolution.CANCELED
    change_rig(review_agent="reader")
    tick()
    assert review_of(request).id != review.id


def test_a_retry_of_a_held_merge_is_not_spent_on_its_review(town_id: int) -> None:
    request, review = under_review()
    stray_review(request)
    committed(lambda session: work.cancel(session, town_id, review.id))
    committed(lambda session: work.retry(session, town_id, request.bead_id))
    assert (now(request).held_code, now(request).review_id) == (None, None)


def test_a_late_answer_takes_nothing_from_who_mends_the_head(town_id: int, own_home: Path) -> None:
    request, review = under_review()
    dispatch = at_work(review)
    stray_review(request)
    tick()
    mends = now(request).rework_id
    assert mends is not None
    assert not say(dispatch, "changes", "name it", own_home).counted
    assert (now(request).rework_id, now(request).held_code) == (mends, HoldCode.CONFLICT)


def test_resync_finds_one_that_slept_through_the_end_of_its_review(town_id: int, clock: Clock) -> None:
    request, review = under_review()
    tick()
    with transaction() as session:
        assert resync.wake_forgotten(session) == {}
    clock.advance(1)
    committed(lambda session: work.cancel(session, town_id, review.id))
    with transaction() as session:
        session.execute(text("UPDATE beads SET wake_at = NULL WHERE id = :id"), {"id": request.bead_id})
    with transaction() as session:
        assert resync.wake_forgotten(session) == {"review_over_unseen": 1}
    tick()
    assert bead_of_request(request).verdict_reason == f"{review.id} was to review it, and is canceled"
    with transaction() as session:
        assert resync.wake_forgotten(session) == {}


def test_a_rejected_head_is_read_no_further_and_nothing_stays_stacked_on_it(town_id: int, own_home: Path) -> None:
    request, review = under_review()
    dispatch = at_work(review)
    other = make(staged_sha="5" * 40, held_code="dirty_checkout", held_reason="README", reviewed_sha=HEAD)
    with transaction() as session:
        session.get_one(MergeRequest, request.id).staged_sha = "4" * 40
    _words, stops = committed(lambda session: reviews.reject(session, town_id, request.bead_id, "no", own_home))
    assert [stop.dispatch_id for stop in stops] == [str(dispatch.id)]
    assert (now(review).resolution, now(request).review_id, now(request).staged_sha) == ("canceled", None, None)
    assert (now(other).staged_sha, now(other).held_code) == (None, None)  # it is merged anew, without that one
    with pytest.raises(Fenced):
        say(dispatch, "approve", "", own_home)


def test_a_person_and_an_agent_answer_at_once(town_id: int, own_home: Path) -> None:
    request, review = under_review()
    dispatch = at_work(review)
    with pytest.raises(Fenced):
        race(
            lambda session: reviews.approve(session, town_id, request.bead_id),
            lambda session: reviews.answer(session, dispatch.id, Review(verdict="changes", comment="no"), own_home),
        )
    assert (now(request).held_code, now(request).reviewed_sha) == (None, HEAD)


def test_an_agent_and_a_person_answer_at_once(town_id: int, own_home: Path) -> None:
    request, review = under_review()
    dispatch = at_work(review)
    said = Review(verdict="changes", comment="no")
    race(
        lambda session: reviews.answer(session, dispatch.id, said, own_home),
        lambda session: reviews.approve(session, town_id, request.bead_id),
    )
    assert (now(request).held_code, now(request).reviewed_sha) == (None, HEAD)  # whoever is last has seen the first
    assert (now(review).resolution, now(dispatch).status) == ("done", "stopped")
