"""Reviews: one of each head, what its answer does, and that nothing unreviewed is merged where a rig asks for that."""

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, text

from gastown.agent.protocol import Done, Review, Reviewed
from gastown.cli.board import is_settled
from gastown.commands import attempt, reviews, work
from gastown.db import transaction
from gastown.errors import Refused, UsageError
from gastown.models import Bead, ConvoyBranch, Event, MergeRequest
from gastown.states import BeadStatus, DispatchStatus, FailureCode, HoldCode, Purpose, Resolution, StopCode, Verdict
from gastown.store import attempts, beads
from gastown.store import reviews as store
from gastown.store.attempts import Fenced
from gastown.store.holdups import summarise
from gastown.store.listing import beads_by_id
from tests.builders import BASE, HEAD, a_rig, agent_of, an_attempt, attempts_on, now
from tests.conftest import Clock
from tests.races import committed, race, together
from tests.store.merging import asked, claim, make, refused
from tests.store.reviewing import (
    FAILED,
    MENDED,
    at_work,
    bead_of_request,
    change_rig,
    end,
    inbox,
    review_of,
    reviews_of,
    say,
    under_review,
)
from tests.ticks import tick, verdict_of

pytestmark = pytest.mark.usefixtures("reader")


# --- asked for


def test_a_head_is_read_before_it_is_merged(town_id: int, clock: Clock) -> None:
    request, review = under_review()
    bead = bead_of_request(request)
    assert (review.purpose, review.mr_id, review.agent) == ("review", request.id, "reader")
    assert [each.preset for each in attempts_on(review.id)] == ["reader"]  # it is begun at once
    assert (review.base_sha, review.base_ref) == (HEAD, f"refs/gastown/head/{bead.id}/1")
    assert review.priority == bead.priority - 1
    assert review.title == f"Review {bead.id}: do it"
    for words in (HEAD, "git diff origin/main...HEAD", "gastown self review changes --comment", "make test"):
        assert words in review.body
    tick()
    assert verdict_of(bead) == Verdict.AWAITING_REVIEW
    assert len(reviews_of(request)) == 1
    assert bead_of_request(request).verdict_reason == f"{review.id} reviews it"
    assert bead_of_request(request).wake_at is None
    assert asked() == []
    assert refused(request)


def test_two_at_once_make_one(town_id: int) -> None:
    request = make()

    def create() -> bool:
        return committed(lambda session: store.create_review(session, request.id, "reader") or session.rollback())

    results = together(create, create)
    assert sorted(map(bool, results)) == [False, True]
    assert len(reviews_of(request)) == 1


@pytest.mark.parametrize(
    "values",
    [
        {"held_code": "conflict", "held_reason": "no"},
        {"reviewed_sha": HEAD},
        {"batch_of": "other"},
        {"status": "closed"},
    ],
)
def test_nothing_is_read_that_does_not_wait_for_it(town_id: int, values: dict[str, Any]) -> None:
    request = make()
    if "batch_of" in values:
        values = {"batch_of": make(status="in_progress", lease_expires_at=now(request).created_at).id}
    with transaction() as session:
        for name, value in values.items():
            setattr(session.get_one(MergeRequest, request.id), name, value)
    with transaction() as session:
        assert not store.create_review(session, request.id, "reader")
    assert reviews_of(request) == []


def test_one_that_waits_for_its_review_is_in_nobodys_way(town_id: int, clock: Clock) -> None:
    first, _review = under_review(priority=0)
    second = make(reviewed_sha=HEAD)
    tick()
    assert asked() == [second.id]
    assert refused(first)
    assert claim(second).id == second.id


def test_a_member_of_a_convoy_is_compared_with_what_its_branch_begins_as(town_id: int) -> None:
    with transaction() as session:
        rig_id = a_rig(session).id
        session.execute(text(
            "INSERT INTO convoys (id, town_id, name) VALUES ('cv-1', :town, 'x')"), {"town": town_id})  # fmt: skip
        session.add(ConvoyBranch(convoy_id="cv-1", rig_id=rig_id, branch="gastown/it's", target="main"))
    _request, review = under_review(target="gastown/it's")
    assert "git diff origin/main...HEAD" in review.body
    with transaction() as session:
        session.execute(text("UPDATE convoy_branches SET head_sha = 'x'"))
    _request, review = under_review(target="gastown/it's")
    assert """git diff 'origin/gastown/it'"'"'s'...HEAD""" in review.body


# --- answered


def test_approved(town_id: int, clock: Clock, own_home: Path) -> None:
    request, review = under_review()
    dispatch = at_work(review)
    answer = say(dispatch, "approve", "small and right", own_home)
    assert answer == Reviewed(counted=True, message=f"{request.bead_id} may be merged at {HEAD[:12]}")
    approved = now(request)
    assert (approved.reviewed_sha, approved.review_id, approved.review_notes) == (HEAD, None, "small and right")
    tick()
    assert asked() == [request.id]
    assert now(dispatch).status == DispatchStatus.RUNNING  # it ends in its own time
    assert end(dispatch, Done(outcome="succeeded", base_sha=BASE, head_sha=MENDED)) == "succeeded"
    assert (now(review).status, now(review).resolution) == ("closed", Resolution.DONE)
    assert (agent_of(dispatch).status, agent_of(dispatch).bead_id) == ("idle", None)
    assert now(request).head_sha == HEAD  # what a reader commits is nothing
    assert end(dispatch) == "succeeded"  # told again
    assert claim(request).head_sha == HEAD


def test_changes_are_asked_for_and_the_mended_head_is_read_anew(town_id: int, clock: Clock, own_home: Path) -> None:
    change_rig(agent="writer")
    request, review = under_review(priority=2)
    with transaction() as session:
        session.execute(text("UPDATE dispatches SET preset = 'writer'"))
    dispatch = at_work(review)
    assert say(dispatch, "changes", "\napp.py:3: off by one\nand more", own_home).counted
    held = now(request)
    assert (held.held_code, held.rework_agent, held.review_id) == (HoldCode.CHANGES_REQUESTED, "writer", None)
    assert held.held_reason == f"{review.id} asks for changes: app.py:3: off by one"
    assert held.held_output == held.review_notes == "app.py:3: off by one\nand more"
    end(dispatch)
    tick()
    with transaction() as session:
        made = session.scalars(select(Bead).where(Bead.purpose == Purpose.REWORK)).one()
    assert "off by one" in made.body
    mends = at_work(made)
    end(mends, Done(outcome="succeeded", base_sha=BASE, head_sha=MENDED))
    tick()
    again = review_of(request)
    assert (again.base_sha, again.base_ref) == (MENDED, f"refs/gastown/head/{made.id}/{now(mends).epoch}")
    assert "An earlier review of it asked for changes" in again.body
    assert "off by one" in again.body
    assert asked() == []


def test_without_an_agent_that_reads_a_person_makes_the_changes(town_id: int, own_home: Path) -> None:
    request, review = under_review()  # the work is that of a script
    say(at_work(review), "changes", "no", own_home)
    tick()
    assert now(request).rework_agent is None
    assert verdict_of(bead_of_request(request)) == Verdict.MERGE_HELD
    committed(lambda session: work.retry(session, town_id, request.bead_id))
    tick()
    assert review_of(request).id != review.id  # tried again: read again


@pytest.mark.parametrize("how", ["the head moved", "canceled", "nobody asks any more"])
def test_an_answer_that_nobody_waits_for_changes_nothing(town_id: int, own_home: Path, how: str) -> None:
    request, review = under_review()
    dispatch = at_work(review)
    if how == "the head moved":
        with transaction() as session:
            moved = session.get_one(MergeRequest, request.id)
            moved.head_sha, moved.review_id = MENDED, None
    elif how == "canceled":
        committed(lambda session: work.cancel(session, town_id, request.bead_id))
        with pytest.raises(Fenced):
            say(dispatch, "approve", "", own_home)
        assert (now(review).resolution, now(dispatch).status) == ("canceled", "stopped")
        return
    else:
        change_rig(review_agent=None)
        claim(request)
    before = now(request)
    answer = say(dispatch, "changes", "all of it", own_home)
    assert answer == Reviewed(counted=False, message=f"nobody waits for {review.id} any more, so this changes nothing")
    after = now(request)
    assert (after.held_code, after.reviewed_sha, after.status) == (None, None, before.status)
    assert after.review_id is None
    assert end(dispatch) == "succeeded"
    assert now(review).resolution == "done"


def test_the_same_again_is_told_the_same_and_another_one_is_refused(town_id: int, own_home: Path) -> None:
    request, review = under_review()
    dispatch = at_work(review)
    for _ in range(2):
        assert say(dispatch, "approve", "fine", own_home).counted
    for verdict, comment in (("changes", "no"), ("approve", "fine!")):
        with pytest.raises(Refused, match="was answered already: approve"):
            say(dispatch, verdict, comment, own_home)
    assert now(request).reviewed_sha == HEAD
    with transaction() as session:
        assert len(session.scalars(select(Event).where(Event.kind == store.REVIEWED)).all()) == 1


@pytest.mark.parametrize(
    ("verdict", "comment", "words"),
    [
        ("perhaps", "x", "there is no verdict 'perhaps'"),
        ("changes", " \n", "does not say what has to change"),
        ("changes", "\ud800", "not valid UTF-8"),
        ("approve", "x" * 20_001, "at most 20000 fit"),
    ],
)
def test_no_answer(town_id: int, own_home: Path, verdict: str, comment: str, words: str) -> None:
    request, review = under_review()
    dispatch = at_work(review)
    with pytest.raises(UsageError, match=words):
        say(dispatch, verdict, comment, own_home)
    assert now(request).review_id == review.id


def test_who_reviews_nothing_has_nothing_to_answer(town_id: int, own_home: Path) -> None:
    dispatch = committed(an_attempt)
    with pytest.raises(Refused, match="is no review"):
        say(dispatch, "approve", "", own_home)


def test_a_cancel_and_an_answer_at_once(town_id: int, own_home: Path) -> None:
    """Whoever is first has the beads' locks; the other one finds the case closed."""
    request, review = under_review()
    dispatch = at_work(review)
    with pytest.raises(Fenced):
        race(
            lambda session: work.cancel(session, town_id, request.bead_id),
            lambda session: reviews.answer(session, dispatch.id, Review(verdict="approve"), own_home),
        )
    assert (now(request).status, now(request).reviewed_sha) == ("closed", None)


# --- without an answer


def test_without_a_verdict_the_attempt_failed(town_id: int, own_home: Path) -> None:
    request, review = under_review()
    dispatch = at_work(review)
    assert end(dispatch) == "failed"
    ended = now(dispatch)
    assert (ended.status, ended.code, ended.failure_class) == ("failed", FailureCode.AGENT_FAILED, "agent")
    assert (ended.message or "").startswith("it ended and gave no verdict")
    assert end(dispatch) == "failed"
    assert (now(review).status, now(request).review_id) == ("in_progress", review.id)
    tick()
    [_first, second] = attempts_on(review.id)
    given = committed(lambda session: attempt.assignment(session, second.id, own_home))
    assert (given.base, given.base_epoch) == (HEAD, second.epoch)  # never from what an earlier one left


def test_one_that_failed_for_good_waits_for_a_person(town_id: int, clock: Clock) -> None:
    request, review = under_review()
    for _ in range(5):
        end(at_work(review))
    clock.advance(700)
    tick()
    assert (now(review).status, now(review).failure_code) == (BeadStatus.FAILED, "attempts_exhausted")
    tick()
    bead = bead_of_request(request)
    assert (bead.verdict, bead.verdict_reason) == ("awaiting_review", f"{review.id} was to review it, and is failed")
    assert bead.wake_at is None
    assert [row.cause for row in inbox(town_id)] == [f"failed:{review.id}"]
    committed(lambda session: work.retry(session, town_id, review.id))
    assert inbox(town_id) == []
    assert (now(review).status, now(review).base_sha) == (BeadStatus.OPEN, HEAD)
    tick()
    assert bead_of_request(request).verdict_reason == f"{review.id} reviews it"


@pytest.mark.parametrize("by_hand", [True, False])
def test_nobody_is_asked_about_a_failed_review_that_is_not_waited_for(town_id: int, by_hand: bool) -> None:
    request, review = under_review()
    with transaction() as session:
        row = beads.lock_known_bead(session, review.id, town_id)
        attempts.stop_live(session, row, StopCode.CANCELED, "it cannot be done")
        beads.fail_bead(session, row, "attempts_exhausted", "it cannot be done")
    assert len(inbox(town_id)) == 1
    if by_hand:
        committed(lambda session: reviews.approve(session, town_id, request.bead_id))
    else:
        committed(lambda session: work.retry(session, town_id, request.bead_id))
    assert inbox(town_id) == []
    assert (now(review).status, now(review).resolution) == (BeadStatus.CLOSED, Resolution.CANCELED)
    tick()
    assert (now(request).review_id is None) is by_hand


@pytest.mark.parametrize("how", ["canceled", "failed"])
def test_whose_review_ended_without_an_answer_needs_a_person(town_id: int, how: str) -> None:
    request, review = under_review()

    def needed() -> tuple[bool, bool]:
        with transaction() as session:
            [row] = beads_by_id(session, town_id, [request.bead_id])
            [holdup] = [each for each in summarise(session, town_id).holdups if each.example == request.bead_id]
        return is_settled(row), holdup.needs_you

    assert needed() == (False, False)
    if how == "canceled":
        committed(lambda session: work.cancel(session, town_id, review.id))
    else:
        committed(lambda session: beads.fail_bead(session, now(review), "preset_unusable", "gone"))
    tick()
    assert (verdict_of(bead_of_request(request)), needed()) == (Verdict.AWAITING_REVIEW, (True, True))
    committed(lambda session: work.retry(session, town_id, request.bead_id))
    tick()
    assert needed() == (False, False)


def test_another_review_is_asked_for(town_id: int) -> None:
    request, review = under_review()
    committed(lambda session: work.cancel(session, town_id, review.id))
    tick()
    assert bead_of_request(request).verdict_reason == f"{review.id} was to review it, and is canceled"
    said = committed(lambda session: work.retry(session, town_id, request.bead_id))
    assert said == "another review of it is asked for"
    tick()
    assert review_of(request).id != review.id
    with pytest.raises(Refused, match=r"waits for .* no more"):
        committed(lambda session: work.retry(session, town_id, review.id))


@pytest.mark.parametrize("done", [FAILED, None])
def test_what_was_answered_is_not_read_twice(town_id: int, clock: Clock, own_home: Path, done: Done | None) -> None:
    """Its agent ended badly, or was lost, after it had answered."""
    request, review = under_review()
    dispatch = at_work(review)
    say(dispatch, "approve", "", own_home)
    if done is None:
        clock.advance(60)
        with transaction() as session:
            session.execute(text("UPDATE services SET alive_at = gastown_now()"))
    else:
        assert end(dispatch, done) == "succeeded"
    tick()
    tick()
    assert (now(review).status, now(review).resolution) == ("closed", "done")
    assert len(attempts_on(review.id)) == 1
    assert now(request).reviewed_sha == HEAD
