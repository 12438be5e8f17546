"""What is published for a person, in the database: whose strategy counts, and what a look that came late may write."""

from datetime import timedelta

import pytest
from sqlalchemy import select, update

from gastown.commands import work
from gastown.db import in_transaction, transaction
from gastown.models import Bead, Event, MergeRequest, Rig
from gastown.states import BeadStatus, DispatchStatus, HoldCode, MergeStatus, Resolution, Strategy, Verdict
from gastown.store import escalations, merges, publishing
from gastown.store.advice import advise, needs_a_person
from gastown.store.orders import MergeOrder
from tests.builders import BASE, HEAD, a_feature_branch, an_attempt, now
from tests.conftest import Clock
from tests.races import committed
from tests.store.merging import ONTO, asked, bead, claim, make, refused
from tests.ticks import tick

BRANCH, DIRECT = Strategy.BRANCH, Strategy.DIRECT
OTHER = "c" * 40


@pytest.fixture
def request_(town_id: int) -> MergeRequest:
    """On a rig whose merges people make."""
    set_strategy(BRANCH)
    return make()


def set_strategy(strategy: Strategy) -> None:
    committed(lambda session: session.execute(update(Rig).values(strategy=strategy)))


def push(order: MergeOrder, sha: str = HEAD) -> None:
    assert committed(lambda session: merges.begin_push(session, order, sha, ONTO))


def publish(order: MergeOrder) -> bool:
    ref = f"gt/{order.bead_id}"
    return in_transaction(lambda session: publishing.note_published(session, order, ref, ONTO))


def look(order: MergeOrder, remark: str = "") -> bool:
    ref = f"gt/{order.bead_id}"
    return in_transaction(lambda session: publishing.await_person(session, order, ref, BASE, remark))


def published(request: MergeRequest) -> MergeRequest:
    order = claim(request)
    push(order)
    assert publish(order)
    return now(request)


def test_it_waits_for_a_person_who_is_asked_once(request_: MergeRequest, clock: Clock) -> None:
    found = published(request_)
    assert (found.status, found.held_code) == (MergeStatus.OPEN, HoldCode.AWAITING_APPROVAL)
    assert (found.published_sha, found.published_ref) == (HEAD, f"gt/{request_.bead_id}")
    tick()
    assert (bead(request_).verdict, asked()) == (Verdict.AWAITING_APPROVAL, [])
    for wait_s in (10, 10, 20, 40, 60, 60):
        assert now(request_).look_at == clock.now + timedelta(seconds=wait_s)
        clock.advance(wait_s)
        tick()
        assert asked() == [request_.id]
        assert look(claim(request_))
    assert now(request_).expected_sha == BASE
    with transaction() as session:
        kinds = session.scalars(select(Event.kind).where(Event.kind.in_(["merge_held", "escalation"]))).all()
        assert sorted(kinds) == ["escalation", "merge_held"]


def test_others_go_on_meanwhile(request_: MergeRequest) -> None:
    published(request_)
    second = make(priority=3)
    tick()
    assert asked() == [second.id]


def test_what_is_new_about_it_is_said(request_: MergeRequest, clock: Clock) -> None:
    published(request_)
    clock.advance(10)
    assert look(claim(request_), "somebody added commits to it")
    tick()
    assert (bead(request_).verdict_reason or "").endswith("; somebody added commits to it")


def test_whoever_lost_it_writes_nothing(request_: MergeRequest, clock: Clock) -> None:
    first = claim(request_)
    push(first)
    clock.advance(45)
    second = claim(request_)
    assert (second.pushing_sha, second.expected_sha, second.strategy) == (HEAD, ONTO, BRANCH)
    assert not publish(first)
    assert (now(request_).status, now(request_).published_sha) == (MergeStatus.PUSHING, None)
    assert publish(second)
    with transaction() as session:
        assert escalations.count_open(session, request_.town_id) == 1


def test_a_canceled_one_is_not_published(request_: MergeRequest) -> None:
    order = claim(request_)
    committed(lambda session: work.cancel(session, request_.town_id, request_.bead_id))
    assert not committed(lambda session: merges.begin_push(session, order, HEAD, ONTO))
    assert not look(order)
    assert now(request_).status == MergeStatus.CLOSED


def test_a_cancel_gives_up_what_was_published(request_: MergeRequest, clock: Clock) -> None:
    published(request_)
    clock.advance(10)
    order = claim(request_)
    committed(lambda session: work.cancel(session, request_.town_id, request_.bead_id))
    assert not look(order)
    assert not in_transaction(lambda session: merges.record_merged(session, order, OTHER))
    assert bead(request_).resolution == Resolution.CANCELED
    with transaction() as session:
        assert escalations.count_open(session, request_.town_id) == 0


@pytest.mark.parametrize("gone", ["closed", "replaced"])
def test_a_request_to_a_person_ends_with_its_cause(request_: MergeRequest, gone: str) -> None:
    published(request_)
    with transaction() as session:
        assert escalations.settle_gone(session) == 0
    values = {"status": MergeStatus.CLOSED} if gone == "closed" else {"head_sha": OTHER}
    committed(lambda session: session.execute(update(MergeRequest).values(**values)))
    with transaction() as session:
        assert escalations.settle_gone(session) == 1


def test_what_was_published_for_a_bead_is_known_across_its_requests(request_: MergeRequest) -> None:
    published(request_)
    committed(lambda session: work.retry(session, request_.town_id, request_.bead_id, again=True))
    with transaction() as session:
        an_attempt(session, DispatchStatus.SUCCEEDED, bead=session.get_one(Bead, request_.bead_id))
        assert publishing.published_heads(session, request_.bead_id) == {HEAD}
        assert publishing.published_heads(session, "gt-other") == frozenset()


# --- which strategy


def strategy_of(request: MergeRequest) -> Strategy:
    return claim(request).strategy


def test_the_rigs_strategy_counts(town_id: int) -> None:
    first, second = make(target="main"), make(target="main")
    assert strategy_of(first) is DIRECT
    set_strategy(BRANCH)
    committed(lambda session: session.execute(update(MergeRequest).values(status="open", lease_expires_at=None)))
    assert strategy_of(second) is BRANCH


def test_a_feature_branch_is_merged_directly(request_: MergeRequest) -> None:
    with transaction() as session:
        path = a_feature_branch(session, "convoy/1")
        session.execute(update(MergeRequest).values(target=path.branch))
    assert strategy_of(request_) is DIRECT


@pytest.mark.parametrize(("sha", "strategy"), [(HEAD, BRANCH), (OTHER, DIRECT)])
@pytest.mark.parametrize("now_set", [BRANCH, DIRECT])
def test_a_push_is_settled_as_it_was_begun(
    request_: MergeRequest, clock: Clock, sha: str, strategy: Strategy, now_set: Strategy
) -> None:
    push(claim(request_), sha)
    set_strategy(now_set)
    clock.advance(45)
    assert strategy_of(request_) is strategy


def test_what_waits_for_a_person_goes_on_waiting_until_somebody_retries_it(
    request_: MergeRequest, clock: Clock
) -> None:
    published(request_)
    set_strategy(DIRECT)
    clock.advance(10)
    order = claim(request_)
    assert order.strategy is BRANCH
    assert look(order)
    committed(lambda session: work.retry(session, request_.town_id, request_.bead_id))
    assert strategy_of(request_) is DIRECT


def test_what_is_pushed_after_all_is_reviewed_before(request_: MergeRequest) -> None:
    """A person had it, but may have it no more: its rig merges by itself now, and asks for reviews."""
    published(request_)
    committed(lambda session: session.execute(update(Rig).values(strategy=DIRECT, review_agent="reader")))
    committed(lambda session: work.retry(session, request_.town_id, request_.bead_id))
    assert refused(request_)


def test_a_staged_merge_is_published_instead(town_id: int, clock: Clock) -> None:
    """Its rig stops merging into the person's checkout: nothing stacks any more."""
    request = make()
    order = claim(request)
    dirty = HoldCode.DIRTY_CHECKOUT
    assert committed(lambda s: merges.hold(s, order, dirty, "busy", staged_sha=OTHER, look_again=True))
    set_strategy(BRANCH)
    clock.advance(10)
    again = claim(request)
    assert (again.strategy, again.own_staged_sha, again.staged_sha) == (BRANCH, None, None)
    push(again)
    assert publish(again)
    assert now(request).staged_sha is None


# --- what a person is told


@pytest.mark.parametrize(
    ("repository", "command"),
    [
        ("/srv/my project", "git -C '/srv/my project' merge gt/gt-1"),
        ("/srv/project.git", "git pull --no-rebase /srv/project.git gt/gt-1, and push the result"),
        ("https://git.example/p", "git pull --no-rebase https://git.example/p gt/gt-1, and push the result"),
    ],
)
def test_how_to_merge_it(repository: str, command: str) -> None:
    code = HoldCode.AWAITING_APPROVAL
    said = advise("gt-1", BeadStatus.IN_REVIEW, Verdict.AWAITING_APPROVAL, held_code=code, repository=repository)
    assert said.command == command
    assert needs_a_person(BeadStatus.IN_REVIEW, Verdict.AWAITING_APPROVAL, live=False, held_code=code)


def test_a_branch_that_is_gone_is_published_anew_or_given_up() -> None:
    said = advise("gt-1", BeadStatus.IN_REVIEW, Verdict.MERGE_HELD, held_code=HoldCode.BRANCH_GONE)
    assert said.command == "gastown bead retry gt-1"
    assert "cancel" in said.opens
