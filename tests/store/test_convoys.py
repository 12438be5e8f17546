"""Convoys: made, landed, called back and closed, with the real reconciler."""

from typing import Any

import pytest
from sqlalchemy import select, text, update

from gastown.commands import convoys, work
from gastown.commands.plans import Plan, PlannedBead
from gastown.db import transaction
from gastown.errors import NotFound, Refused, UsageError
from gastown.models import Bead, BeadDependency, Escalation, Event, MergeRequest, Rig
from gastown.states import BeadStatus, ConvoyMode, ConvoyStatus, HoldCode, MergeStatus, Resolution, Verdict
from gastown.store import landings, merges, resync
from tests.builders import a_bead, a_rig
from tests.races import committed, race
from tests.store import convoying as they
from tests.store.merging import claim
from tests.ticks import tick, verdict_of
from tests.views import after


def asked(town_id: int) -> list[str]:
    with transaction() as session:
        query = select(Escalation.cause).where(Escalation.town_id == town_id, Escalation.settled_at.is_(None))
        return sorted(session.scalars(query))


def ask(function: Any, *args: Any, **values: Any) -> Any:
    return committed(lambda session: function(session, *args, **values))


def test_a_convoy_of_a_plan_is_staged_until_it_is_started(town_id: int) -> None:
    rig = committed(lambda session: a_rig(session))
    plan = Plan(bead=[PlannedBead(id="a", title="A"), PlannedBead(id="b", title="B", after=["a"])])
    convoy_id = ask(convoys.create, town_id, "Two", plan=plan, rigs={None: rig}, agents={"a": "shell", "b": "shell"})
    tick()
    with transaction() as session:
        query = select(Bead).where(Bead.convoy_id == convoy_id, Bead.purpose.is_(None)).order_by(Bead.title)
        first, second = session.scalars(query).all()
    [landing] = they.landings(convoy_id)
    assert {verdict_of(each) for each in (first, second, landing)} == {Verdict.STAGED}
    assert (landing.type, landing.title) == ("convoy", "Land Two on rig")
    assert they.branch(convoy_id).branch == f"gastown/two-{convoy_id}"
    assert ask(convoys.start, town_id, "Two") == convoy_id
    tick()
    assert [verdict_of(each) for each in (first, second, landing)] == ["dispatch", "blocked", "awaiting_members"]
    with pytest.raises(Refused, match="it was started before"):
        ask(convoys.start, town_id, convoy_id)


def test_members_are_merged_into_its_branch_and_that_lands(town_id: int) -> None:
    one, two = they.members(2)
    convoy_id = they.make(town_id, [one, two])
    they.work(one)
    path = they.branch(convoy_id)
    assert (they.request_of(one).target, path.target, path.head_sha) == (path.branch, "main", None)
    first = they.merge(one)
    assert they.branch(convoy_id).head_sha == first
    [landing] = they.landings(convoy_id)
    assert (landing.status, they.convoy(convoy_id).status) == (BeadStatus.OPEN, ConvoyStatus.OPEN)
    tip = they.finish(two)
    request = they.request_of(landing.id)
    assert (request.target, request.head_sha, request.head_ref) == ("main", tip, f"refs/heads/{path.branch}")
    assert (request.dispatch_id, they.convoy(convoy_id).status) == (None, ConvoyStatus.LANDING)
    they.merge(landing.id)
    assert (they.convoy(convoy_id).status, they.bead(landing.id).resolution) == (ConvoyStatus.CLOSED, "merged")
    assert they.branch(convoy_id).head_sha == tip


def test_a_member_that_failed_holds_the_landing_until_it_is_retried(town_id: int) -> None:
    good, bad = they.members(2)
    convoy_id = they.make(town_id, [good, bad])
    they.finish(good)
    they.fail(bad)
    [landing] = they.landings(convoy_id)
    assert verdict_of(landing) == Verdict.MEMBER_FAILED
    assert asked(town_id) == [f"failed:{bad}", f"member:{landing.id}"]
    with pytest.raises(Refused, match=f"{bad} failed"):
        ask(convoys.land, town_id, convoy_id)
    ask(work.retry, town_id, bad)
    tick()
    assert (verdict_of(landing), asked(town_id)) == (Verdict.AWAITING_MEMBERS, [])
    they.finish(bad)
    assert they.bead(landing.id).status == BeadStatus.IN_REVIEW


def test_a_partial_landing_leaves_out_who_failed_and_who_waits_for_him(town_id: int) -> None:
    good, bad, waiting = they.members(3)
    convoy_id = they.make(town_id, [good, bad, waiting], start=False)
    ask(convoys.order, town_id, convoy_id, waiting, bad)
    ask(convoys.start, town_id, convoy_id)
    they.finish(good)
    they.fail(bad)
    told = ask(convoys.land, town_id, convoy_id, partial=True)
    assert told == "it lands when the others are over, without what failed and what waits for that"
    tick()
    [landing] = they.landings(convoy_id)
    assert (they.bead(landing.id).status, verdict_of(they.bead(waiting))) == ("in_review", "blocker_failed")
    they.merge(landing.id)
    assert they.convoy(convoy_id).status == ConvoyStatus.CLOSED
    ask(work.retry, town_id, bad)  # it goes on by itself, into the rig's own branch
    they.work(bad)
    assert they.request_of(bad).target == "main"


def test_a_member_that_is_retried_withdraws_the_landing(town_id: int) -> None:
    good, dropped = they.members(2)
    convoy_id = they.make(town_id, [good, dropped])
    ask(work.cancel, town_id, dropped)
    they.finish(good)
    [landing] = they.landings(convoy_id)
    withdrawn = they.request_of(landing.id)
    ask(work.retry, town_id, dropped)
    tick()
    assert (they.bead(landing.id).status, they.convoy(convoy_id).status) == (BeadStatus.OPEN, ConvoyStatus.OPEN)
    assert they.request_of(landing.id).status == MergeStatus.CLOSED
    tip = they.finish(dropped)
    again = they.request_of(landing.id)
    assert (again.id != withdrawn.id, again.status, again.head_sha) == (True, MergeStatus.OPEN, tip)


def test_nobody_is_called_back_while_the_landing_is_pushed(town_id: int) -> None:
    good, dropped, new = they.members(3)
    convoy_id = they.make(town_id, [good, dropped])
    ask(work.cancel, town_id, dropped)
    they.finish(good)
    [landing] = they.landings(convoy_id)
    order = claim(they.request_of(landing.id))
    assert ask(merges.begin_push, order, "d" * 40, "e" * 40)
    for refused in (
        lambda session: work.retry(session, town_id, dropped),
        lambda session: convoys.add(session, town_id, convoy_id, [new]),
        lambda session: convoys.close(session, town_id, convoy_id),
    ):
        with pytest.raises(Refused, match=f"{landing.id} is being pushed"):
            committed(refused)
    assert ask(merges.record_merged, order, "d" * 40)
    tick()
    assert they.convoy(convoy_id).status == ConvoyStatus.CLOSED
    ask(work.retry, town_id, dropped)
    with pytest.raises(Refused, match="is closed"):
        ask(convoys.add, town_id, convoy_id, [new])


def test_a_merge_of_a_landing_that_was_withdrawn_pushes_nothing(town_id: int) -> None:
    good, dropped = they.members(2)
    convoy_id = they.make(town_id, [good, dropped])
    ask(work.cancel, town_id, dropped)
    they.finish(good)
    [landing] = they.landings(convoy_id)
    order = claim(they.request_of(landing.id))
    ask(work.retry, town_id, dropped)
    assert not ask(merges.begin_push, order, "d" * 40, "e" * 40)
    assert not ask(merges.requeue, order, "not wanted")
    tick()


def test_a_retry_and_the_landing_at_the_same_moment(town_id: int) -> None:
    """The retry is first: the tick that wanted to land finds the landing locked, and looks again."""
    good, dropped = they.members(2)
    convoy_id = they.make(town_id, [good, dropped])
    ask(work.cancel, town_id, dropped)
    they.work(good)
    order = claim(they.request_of(good))
    assert ask(merges.begin_push, order, "d" * 40, "e" * 40)
    assert ask(merges.record_merged, order, "d" * 40)
    [landing] = they.landings(convoy_id)

    def land(session: Any) -> bool:
        row = convoys.convoys.lock(session, convoy_id)[1][landing.id]
        return landings.open_landing(session, row)

    race(lambda session: work.retry(session, town_id, dropped), land)
    tick()
    assert they.bead(landing.id).status in (BeadStatus.OPEN, BeadStatus.IN_REVIEW)
    they.finish(dropped)


def test_without_changes_nothing_lands(town_id: int) -> None:
    [only] = they.members(1)
    convoy_id = they.make(town_id, [only])
    they.work(only, changed=False)
    tick()
    [landing] = they.landings(convoy_id)
    assert (landing.resolution, they.convoy(convoy_id).status) == (Resolution.NO_CHANGES, ConvoyStatus.CLOSED)


def test_members_may_be_merged_one_by_one(town_id: int) -> None:
    one, two = they.members(2)
    convoy_id = they.one_by_one(town_id, [one, two])
    they.work(one)
    assert they.request_of(one).target == "main"
    they.merge(one)
    assert they.convoy(convoy_id).status == ConvoyStatus.OPEN
    they.finish(two)
    [landing] = they.landings(convoy_id)
    assert (landing.resolution, they.convoy(convoy_id).status) == (Resolution.DONE, ConvoyStatus.CLOSED)


def test_it_lands_on_each_rig_by_itself_and_ends_with_the_last(town_id: int) -> None:
    here = they.members(1)
    other: Rig = committed(lambda session: a_rig(session, name="other", branch="trunk"))
    there = they.members(1, other)
    convoy_id = they.make(town_id, [*here, *there])
    first, second = they.landings(convoy_id)
    they.finish(*here)
    they.merge(first.id)
    assert (they.bead(first.id).resolution, they.convoy(convoy_id).status) == ("merged", ConvoyStatus.LANDING)
    they.finish(*there)
    assert they.request_of(second.id).target == "trunk"
    they.merge(second.id)
    assert they.convoy(convoy_id).status == ConvoyStatus.CLOSED


def test_a_landing_that_failed_fails_its_convoy_and_may_be_retried(town_id: int) -> None:
    [only] = they.members(1)
    convoy_id = they.make(town_id, [only])
    they.finish(only)
    [landing] = they.landings(convoy_id)
    with transaction() as session:  # as `rework.fail_merge` leaves it
        session.execute(update(MergeRequest).where(MergeRequest.bead_id == landing.id).values(status="failed"))
        row = session.get_one(Bead, landing.id)
        row.status, row.failure_code, row.closed_at = BeadStatus.FAILED, "merge_failed", row.created_at
        row.wake_at = row.created_at
    tick()
    assert they.convoy(convoy_id).status == ConvoyStatus.FAILED
    with pytest.raises(Refused, match="is failed"):
        ask(convoys.add, town_id, convoy_id, they.members(1))
    assert ask(convoys.land, town_id, convoy_id) == "its landing is tried again"
    tick()
    assert (they.convoy(convoy_id).status, they.request_of(landing.id).status) == ("landing", MergeStatus.OPEN)
    they.merge(landing.id)
    assert they.convoy(convoy_id).status == ConvoyStatus.CLOSED


def test_beads_join_and_leave_while_it_runs(town_id: int) -> None:
    [one] = they.members(1)
    convoy_id = they.make(town_id, [one])
    two, three = they.members(2)
    ask(convoys.add, town_id, "Ship it", [two, three])
    ask(convoys.order, town_id, "Ship it", three, two)
    they.finish(one)
    ask(convoys.remove, town_id, "Ship it", three)
    with pytest.raises(NotFound, match=f"there is no member of convoy {convoy_id} {three}"):
        ask(convoys.order, town_id, "Ship it", three, two)
    they.finish(two)
    [landing] = they.landings(convoy_id)
    assert they.bead(landing.id).status == BeadStatus.IN_REVIEW
    ask(convoys.add, town_id, convoy_id, [three])
    tick()
    assert (they.bead(landing.id).status, they.convoy(convoy_id).status) == (BeadStatus.OPEN, ConvoyStatus.OPEN)
    with pytest.raises(Refused, match=f"{one} is merged, into gastown/ship-it"):
        ask(convoys.remove, town_id, convoy_id, one)
    they.work(three)
    with pytest.raises(Refused, match="is being merged, into"):
        ask(convoys.remove, town_id, convoy_id, three)


def test_what_stands_on_the_branch_of_a_convoy_does_not_leave_it(town_id: int) -> None:
    one, two = they.members(2)
    convoy_id = they.make(town_id, [one, two])
    they.finish(one)
    with pytest.raises(Refused, match="was worked on") as refused:
        ask(convoys.remove, town_id, convoy_id, two)
    assert refused.value.hint == f"gastown bead cancel {two}"
    they.fail(two)
    with pytest.raises(Refused, match="was worked on") as refused:
        ask(convoys.remove, town_id, convoy_id, two)
    assert refused.value.hint == f"gastown convoy land {convoy_id} --partial"


def test_what_is_closed_at_the_moment_of_a_merge_is_not_merged(town_id: int) -> None:
    [only] = they.members(1)
    convoy_id = they.make(town_id, [only])
    they.work(only)
    order = claim(they.request_of(only))
    pushes = race(
        lambda session: convoys.close(session, town_id, convoy_id),
        lambda session: merges.begin_push(session, order, "d" * 40, "e" * 40),
    )
    tick()
    assert not pushes
    assert (they.bead(only).resolution, they.branch(convoy_id).head_sha) == (Resolution.CANCELED, None)


def test_a_landing_is_held_and_released_like_any_bead(town_id: int) -> None:
    [only] = they.members(1)
    convoy_id = they.make(town_id, [only])
    [landing] = they.landings(convoy_id)
    ask(work.hold, town_id, landing.id, "not on a Friday")
    they.finish(only)
    assert verdict_of(landing) == Verdict.HELD
    ask(work.release, town_id, landing.id)
    tick()
    assert they.bead(landing.id).status == BeadStatus.IN_REVIEW
    with pytest.raises(Refused, match="has no agent"):
        ask(work.retry, town_id, landing.id, again=True)


def test_a_bead_that_joins_after_there_was_nothing_to_land_lands(town_id: int) -> None:
    [here] = they.members(1)
    other: Rig = committed(lambda session: a_rig(session, name="other"))
    there, late = they.members(1, other)[0], they.members(1)[0]
    convoy_id = they.make(town_id, [here, there])
    they.work(here, changed=False)
    tick()
    assert they.landings(convoy_id)[0].resolution == Resolution.NO_CHANGES
    ask(convoys.add, town_id, convoy_id, [late])
    they.finish(late)
    assert they.landings(convoy_id)[0].status == BeadStatus.IN_REVIEW


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"status": BeadStatus.CLOSED}, "is done"),
        ({"status": BeadStatus.FAILED}, "is failed"),
        ({"status": BeadStatus.IN_REVIEW}, "being merged"),
    ],
)
def test_what_is_over_cannot_join(town_id: int, values: Any, words: str) -> None:
    bead_id = committed(lambda session: a_bead(session, **values).id)
    with pytest.raises(Refused, match=words):
        ask(convoys.create, town_id, "Late", bead_ids=[bead_id])


def test_a_bead_is_in_one_convoy_at_most(town_id: int) -> None:
    [only] = they.members(1)
    first = they.make(town_id, [only])
    with pytest.raises(Refused, match=f"is in convoy {first} already"):
        ask(convoys.create, town_id, "Second", bead_ids=[only])
    with pytest.raises(Refused, match="lands convoy"):
        ask(work.cancel, town_id, they.landings(first)[0].id)


@pytest.mark.parametrize("name", ["", " padded", "two\nlines", "x" * 101])
def test_some_names_cannot_be(town_id: int, name: str) -> None:
    with pytest.raises(UsageError, match="cannot be the name"):
        ask(convoys.create, town_id, name)


def test_a_name_is_taken_until_its_convoy_is_closed(town_id: int) -> None:
    first = ask(convoys.create, town_id, "Same")
    with pytest.raises(Refused, match=first):
        ask(convoys.create, town_id, "Same")
    with pytest.raises(Refused, match="has no members"):
        ask(convoys.start, town_id, "Same")
    ask(convoys.close, town_id, "Same")
    second = ask(convoys.create, town_id, "Same")
    assert convoys_found(town_id, "Same") == second
    with pytest.raises(NotFound):
        convoys_found(town_id, "cv-nope")


def convoys_found(town_id: int, key: str) -> str:
    with transaction() as session:
        return convoys.convoys.find(session, town_id, key).id


def test_cycles_are_refused_also_through_the_landing(town_id: int) -> None:
    one, two, after = they.members(3)
    convoy_id = they.make(town_id, [one, two])
    ask(convoys.order, town_id, convoy_id, two, one)
    with pytest.raises(Refused, match=f"cycle: {one} waits for {two} waits for {one}"):
        ask(convoys.order, town_id, convoy_id, one, two)
    [landing] = they.landings(convoy_id)
    with transaction() as session:
        session.add(BeadDependency(bead_id=after, blocker_id=landing.id))
    with pytest.raises(Refused, match="cycle"):
        ask(convoys.add, town_id, convoy_id, [after])
    ask(convoys.unorder, town_id, convoy_id, two, one)
    with pytest.raises(Refused, match="does not wait"):
        ask(convoys.unorder, town_id, convoy_id, two, one)


def test_closing_cancels_what_is_unfinished(town_id: int) -> None:
    done, working, waiting = they.members(3)
    convoy_id = they.make(town_id, [done, working, waiting])
    they.finish(done)
    stops = ask(convoys.close, town_id, convoy_id)
    tick()
    assert len(stops) == 2  # both had an attempt
    ends = [they.bead(each).resolution for each in (done, working, waiting, they.landings(convoy_id)[0].id)]
    assert ends == ["merged", "canceled", "canceled", "canceled"]
    assert they.convoy(convoy_id).status == ConvoyStatus.CLOSED
    with pytest.raises(Refused, match="is closed already"):
        ask(convoys.close, town_id, convoy_id)
    with pytest.raises(Refused, match="was closed"):
        ask(work.retry, town_id, they.landings(convoy_id)[0].id)


@pytest.mark.parametrize("mode", ConvoyMode)
def test_resync_heals_a_landing_that_missed_its_wake(town_id: int, mode: ConvoyMode) -> None:
    [only] = they.members(1)
    convoy_id = they.make(town_id, [only], mode=mode)
    [landing] = they.landings(convoy_id)
    they.work(only)
    order = claim(they.request_of(only))
    assert ask(merges.begin_push, order, "d" * 40, "e" * 40)
    assert ask(merges.record_merged, order, "d" * 40)
    with transaction() as session:
        session.execute(update(Bead).where(Bead.id == landing.id).values(wake_at=None))
    with transaction() as session:
        assert resync.wake_forgotten(session) == {"members_over": 1}
    tick()
    assert they.bead(landing.id).status != BeadStatus.OPEN
    if mode == ConvoyMode.REVIEW_THEN_LAND:
        they.merge(landing.id)
    with transaction() as session:
        assert resync.wake_forgotten(session) == {}
    assert they.convoy(convoy_id).status == ConvoyStatus.CLOSED


def test_what_happens_to_a_convoy_is_in_the_journal_of_its_landing(town_id: int) -> None:
    [only] = they.members(1)
    convoy_id = they.make(town_id, [only])
    they.finish(only)
    [landing] = they.landings(convoy_id)
    they.merge(landing.id)
    with transaction() as session:
        kinds = session.scalars(select(Event.kind).where(Event.bead_id == landing.id).order_by(Event.id)).all()
    assert kinds == ["created", "convoy_started", "landing", "merged", "convoy_closed"]


HEALED: dict[str, tuple[str, str]] = {  # by reason: what was done to a convoy and its landing, and nobody woke it
    "started_unseen": ("staged", "UPDATE convoys SET status = 'open'"),
    "member_failed_unseen": (
        "started",
        "UPDATE beads SET status = 'failed', failure_code = 'x', closed_at = now() WHERE id = :member",
    ),
    "no_member_failed": ("failed", "UPDATE convoys SET partial_at = now()"),
    "convoy_not_ended": (
        "started",
        "UPDATE beads SET status = 'closed', resolution = 'canceled', closed_at = now() WHERE convoy_id IS NOT NULL",
    ),
}


@pytest.mark.parametrize("reason", HEALED)
def test_resync_finds_each_landing_that_nobody_woke(town_id: int, reason: str) -> None:
    state, statement = HEALED[reason]
    member, other = they.members(2, held_at=after(0), held_reason="nobody works on it")
    convoy_id = they.make(town_id, [member, other], start=state != "staged")
    if state == "failed":
        they.fail(member)
    with transaction() as session:
        session.execute(text(statement), {"member": member} if ":member" in statement else {})
        asleep = update(Bead).where(Bead.convoy_id == convoy_id).values(wake_at=None)
        session.execute(asleep)
        assert resync.wake_for(session, reason) > 0
    tick()
    with transaction() as session:
        assert resync.wake_for(session, reason) == 0


def test_two_at_once_do_not_get_one_name(town_id: int) -> None:
    one, two = they.members(2)
    with pytest.raises(Refused, match="has the name auth, and is not closed"):
        race(
            lambda session: convoys.create(session, town_id, "auth", bead_ids=[one]),
            lambda session: convoys.create(session, town_id, "auth", bead_ids=[two]),
        )
    assert they.bead(two).convoy_id is None
    assert ask(convoys.create, town_id, "docs", bead_ids=[two])


def held_landing(town_id: int) -> tuple[str, Bead, list[str]]:
    """A convoy whose landing a gate was red on, and which an agent is to mend."""
    bead_ids = they.members(2)
    convoy_id = they.make(town_id, bead_ids)
    ask(work.cancel, town_id, bead_ids[1])
    they.finish(bead_ids[0])
    [landing] = they.landings(convoy_id)
    order = claim(they.request_of(landing.id))
    assert order.mender == "shell"
    assert ask(merges.hold, order, HoldCode.GATE_FAILED, "make test failed", rework_agent=order.mender)
    tick()
    return convoy_id, landing, bead_ids


def test_a_landing_is_mended_like_any_other_merge(town_id: int) -> None:
    convoy_id, landing, _members = held_landing(town_id)
    mending = they.request_of(landing.id).rework_id
    assert mending is not None
    tick()
    they.work(mending)
    tick()
    request = they.request_of(landing.id)
    assert (request.held_code, request.dispatch_id is None) == (None, False)
    assert they.branch(convoy_id).head_sha != request.head_sha
    they.merge(landing.id)
    assert they.convoy(convoy_id).status == ConvoyStatus.CLOSED


def test_what_mended_a_landing_outlives_its_withdrawal(town_id: int) -> None:
    convoy_id, landing, (_merged, dropped) = held_landing(town_id)
    mending = they.request_of(landing.id).rework_id
    assert mending is not None
    they.work(mending)
    tick()
    mended = they.request_of(landing.id).head_sha
    ask(work.retry, town_id, dropped)
    tick()
    assert they.branch(convoy_id).head_sha == mended


def test_a_rework_of_a_landing_that_is_withdrawn_is_canceled(town_id: int) -> None:
    _convoy_id, landing, (_merged, dropped) = held_landing(town_id)
    mending = they.request_of(landing.id).rework_id
    assert mending is not None
    ask(work.retry, town_id, dropped)
    tick()
    assert they.bead(mending).resolution == Resolution.CANCELED
