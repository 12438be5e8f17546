"""Convoys whose members or landings failed or were called off: what lands then, and what does not."""

from typing import Any

import pytest
from sqlalchemy.orm import Session

from gastown.commands import convoys, edges, work
from gastown.db import gastown_now, transaction
from gastown.errors import Refused
from gastown.models import Convoy, ConvoyBranch, Rig
from gastown.states import BeadStatus, ConvoyStatus, HoldCode, Resolution, Verdict
from gastown.store import beads, landings, merges, rework
from gastown.store.moves import lock_bead
from tests.builders import a_rig
from tests.races import committed, race
from tests.store import convoying as they
from tests.store.merging import claim
from tests.store.test_convoys import held_landing
from tests.ticks import tick, verdict_of


def ask(function: Any, *args: Any, **values: Any) -> Any:
    return committed(lambda session: function(session, *args, **values))


def test_who_waits_for_someone_that_waits_for_a_failed_one_is_left_out_too(town_id: int) -> None:
    good, bad, waiting, last = they.members(4)
    convoy_id = they.make(town_id, [good, bad, waiting, last], start=False)
    ask(convoys.order, town_id, convoy_id, waiting, bad)
    ask(convoys.order, town_id, convoy_id, last, waiting)
    ask(convoys.start, town_id, convoy_id)
    they.finish(good)
    they.fail(bad)
    ask(convoys.land, town_id, convoy_id, partial=True)
    tick()
    [landing] = they.landings(convoy_id)
    assert landing.status == BeadStatus.IN_REVIEW


def test_who_does_not_wait_for_a_failed_one_any_more_is_landed_too(town_id: int) -> None:
    good, bad, waiting = they.members(3)
    convoy_id = they.make(town_id, [good, bad, waiting], start=False)
    ask(convoys.order, town_id, convoy_id, waiting, bad)
    ask(convoys.start, town_id, convoy_id)
    they.finish(good)
    they.fail(bad)
    ask(convoys.unorder, town_id, convoy_id, waiting, bad)
    ask(convoys.land, town_id, convoy_id, partial=True)
    tick()
    [landing] = they.landings(convoy_id)
    assert landing.status == BeadStatus.OPEN
    tip = they.finish(waiting)
    assert they.request_of(landing.id).head_sha == tip


def failed_landing(town_id: int) -> tuple[str, str, str]:
    """A convoy that failed as it was landed without one of its members: that, the landing, and who failed."""
    good, bad = they.members(2)
    convoy_id = they.make(town_id, [good, bad])
    they.finish(good)
    they.fail(bad)
    ask(convoys.land, town_id, convoy_id, partial=True)
    tick()
    [landing] = they.landings(convoy_id)
    order = claim(they.request_of(landing.id))
    assert ask(merges.hold, order, HoldCode.GATE_FAILED, "make test failed")
    assert ask(rework.fail_merge, they.bead(landing.id), order.id, "not merged")
    tick()
    assert they.convoy(convoy_id).status == ConvoyStatus.FAILED
    return convoy_id, landing.id, bad


def test_a_member_that_is_retried_opens_a_landing_that_failed(town_id: int) -> None:
    """What it made stands on the convoy's branch, which would come to the target with it."""
    convoy_id, landing_id, bad = failed_landing(town_id)
    ask(work.retry, town_id, bad)
    tick()
    assert (they.convoy(convoy_id).status, they.bead(landing_id).status) == (ConvoyStatus.OPEN, BeadStatus.OPEN)
    they.work(bad)
    assert they.request_of(bad).target == they.branch(convoy_id).branch
    tip = they.merge(bad)
    assert they.request_of(landing_id).head_sha == tip


def test_what_mended_a_landing_outlives_its_failure(town_id: int) -> None:
    convoy_id, landing, _members = held_landing(town_id)
    mending = they.request_of(landing.id).rework_id
    assert mending is not None
    they.work(mending)
    tick()
    mended = they.request_of(landing.id).head_sha
    order = claim(they.request_of(landing.id))
    assert ask(merges.hold, order, HoldCode.GATE_FAILED, "make test failed")
    assert ask(rework.fail_merge, they.bead(landing.id), order.id, "not merged")
    tick()
    ask(convoys.land, town_id, convoy_id)
    tick()
    assert they.request_of(landing.id).head_sha == mended


def test_a_bead_that_joins_as_its_convoy_is_closed_does_not_run_on(town_id: int) -> None:
    one, new = they.members(2)
    convoy_id = they.make(town_id, [one])
    race(
        lambda session: convoys.add(session, town_id, convoy_id, [new]),
        lambda session: convoys.close(session, town_id, convoy_id),
    )
    tick()
    assert they.convoy(convoy_id).status == ConvoyStatus.CLOSED
    assert (they.bead(new).convoy_id, they.bead(new).resolution) == (convoy_id, Resolution.CANCELED)


def test_a_member_of_a_closed_convoy_brings_nothing_of_the_others(town_id: int) -> None:
    good, bad = they.members(2)
    convoy_id = they.make(town_id, [good, bad])
    they.finish(good)
    they.fail(bad)
    ask(convoys.close, town_id, convoy_id)
    tick()
    with pytest.raises(Refused, match="stands on"):
        ask(work.retry, town_id, bad)


def test_the_landing_of_a_convoy_that_was_closed_is_not_tried_again(town_id: int) -> None:
    convoy_id, landing_id, _bad = failed_landing(town_id)
    ask(convoys.close, town_id, convoy_id)
    with pytest.raises(Refused, match=f"convoy {convoy_id} was closed"):
        ask(work.retry, town_id, landing_id)


def test_a_member_that_is_retried_where_nothing_was_to_land_is_landed(town_id: int) -> None:
    [here, dropped] = they.members(2)
    other: Rig = committed(lambda session: a_rig(session, name="other"))
    [there] = they.members(1, other)
    convoy_id = they.make(town_id, [here, dropped, there])
    ask(work.cancel, town_id, dropped)
    they.work(here, changed=False)
    tick()
    assert they.landings(convoy_id)[0].resolution == Resolution.NO_CHANGES
    ask(work.retry, town_id, dropped)
    tip = they.finish(dropped)
    [landing, _other] = they.landings(convoy_id)
    assert (landing.status, they.request_of(landing.id).head_sha) == (BeadStatus.IN_REVIEW, tip)


@pytest.mark.parametrize("when", ["before", "after"])
def test_who_waits_for_a_member_from_outside_waits_for_the_landing(town_id: int, when: str) -> None:
    """The member is merged into the convoy's branch; what the other one starts from has nothing of that yet."""
    member, outside = they.members(2)
    if when == "before":
        ask(edges.block, town_id, outside, member)
    convoy_id = they.make(town_id, [member])
    if when == "after":
        [outside] = they.members(1)
        ask(edges.block, town_id, outside, member)
    they.finish(member)
    [landing] = they.landings(convoy_id)
    assert (they.bead(member).resolution, verdict_of(they.bead(outside))) == (Resolution.MERGED, Verdict.BLOCKED)
    they.merge(landing.id)
    assert verdict_of(they.bead(outside)) == Verdict.DISPATCH


def test_who_waits_for_a_member_whose_landing_is_opened_again_waits_for_it(town_id: int) -> None:
    """It began to wait while there was nothing to land on that rig (seed 280417357)."""
    other: Rig = committed(lambda session: a_rig(session, name="other"))
    [member], [elsewhere] = they.members(1), they.members(1, other)
    convoy_id = they.make(town_id, [member, elsewhere])
    ask(work.cancel, town_id, member)
    tick()
    assert they.landings(convoy_id)[0].resolution == Resolution.NO_CHANGES
    [outside] = they.members(1)
    ask(edges.block, town_id, outside, member)
    ask(work.retry, town_id, member)
    they.finish(member)
    they.finish(elsewhere)
    landing = they.landings(convoy_id)[0]
    assert (they.bead(member).resolution, verdict_of(they.bead(outside))) == (Resolution.MERGED, Verdict.BLOCKED)
    they.merge(landing.id)
    assert verdict_of(they.bead(outside)) == Verdict.DISPATCH


@pytest.mark.parametrize("end", ["canceled", "failed"])
def test_who_was_over_when_its_blocker_became_a_member_waits_for_the_landing(town_id: int, end: str) -> None:
    member, outside = they.members(2)
    ask(edges.block, town_id, outside, member)
    if end == "canceled":
        ask(work.cancel, town_id, outside)
    else:
        ask(beads.fail_bead, they.bead(outside), "command_not_found", "no such command")
    convoy_id = they.make(town_id, [member])
    ask(work.retry, town_id, outside)
    they.finish(member)
    assert (they.bead(member).resolution, verdict_of(they.bead(outside))) == (Resolution.MERGED, Verdict.BLOCKED)
    they.merge(they.landings(convoy_id)[0].id)
    assert verdict_of(they.bead(outside)) == Verdict.DISPATCH


def test_who_waits_for_no_member_any_more_does_not_wait_for_the_landing(town_id: int) -> None:
    first, second, own = they.members(3)
    convoy_id = they.make(town_id, [first, second])
    [outside] = they.members(1)
    [landing] = they.landings(convoy_id)
    for blocker in (first, second, own):
        ask(edges.block, town_id, outside, blocker)
    assert ask(edges.unblock, town_id, outside, first) == []
    tick()
    assert landing.id in (they.bead(outside).verdict_reason or ""), "it waits for the other member's work"
    assert ask(edges.unblock, town_id, outside, second) == [landing.id]
    tick()
    assert they.bead(outside).verdict_reason == f"waits for {own}"
    assert ask(edges.unblock, town_id, outside, own) == []
    tick()
    assert verdict_of(they.bead(outside)) == Verdict.DISPATCH


def test_what_goes_out_of_a_convoy_and_back_into_it_is_a_cycle(town_id: int) -> None:
    first, outside, last = they.members(3)
    ask(edges.block, town_id, outside, first)
    ask(edges.block, town_id, last, outside)
    with pytest.raises(Refused, match="cycle"):
        they.make(town_id, [first, last])
    convoy_id = they.make(town_id, [first, last, outside])
    assert they.convoy(convoy_id).status == ConvoyStatus.OPEN


def test_a_bead_that_waited_for_a_landing_may_join_its_convoy(town_id: int) -> None:
    [member] = they.members(1)
    convoy_id = they.make(town_id, [member])
    [outside] = they.members(1)
    ask(edges.block, town_id, outside, member)
    ask(convoys.add, town_id, convoy_id, [outside])
    they.finish(member)
    assert verdict_of(they.bead(outside)) == Verdict.DISPATCH


def open_late(landing_id: str) -> bool:
    """What a tick does that decided when the landing was still to be opened."""

    def write(session: Session) -> bool:
        landing = lock_bead(session, landing_id)
        assert landing is not None
        return landings.open_landing(session, landing)

    return committed(write)  # type: ignore[no-any-return]


def test_a_landing_that_was_given_up_opens_no_convoy(town_id: int) -> None:
    """Its convoy is open, since it lands on another rig as well."""
    [here] = they.members(1)
    [there] = they.members(1, committed(lambda session: a_rig(session, name="other")))
    convoy_id = they.make(town_id, [here, there])
    they.finish(there)
    [first, _other] = they.landings(convoy_id)
    with transaction() as session:
        session.get_one(ConvoyBranch, (convoy_id, first.rig_id)).head_sha = they.sha()
        session.get_one(Convoy, convoy_id).status = ConvoyStatus.OPEN
    ask(beads.fail_bead, they.bead(first.id), "landing_failed", "not landed after 5 tries")
    assert not open_late(first.id)
    assert they.convoy(convoy_id).status == ConvoyStatus.OPEN


@pytest.mark.parametrize("status", [ConvoyStatus.STAGED, ConvoyStatus.CLOSED, ConvoyStatus.FAILED])
def test_only_a_convoy_that_is_under_way_lands(town_id: int, status: ConvoyStatus) -> None:
    [member] = they.members(1)
    convoy_id = they.make(town_id, [member], start=False)
    [landing] = they.landings(convoy_id)
    with transaction() as session:
        session.get_one(ConvoyBranch, (convoy_id, landing.rig_id)).head_sha = they.sha()
        row = session.get_one(Convoy, convoy_id)
        row.status, row.closed_at = status, None if status == ConvoyStatus.STAGED else gastown_now()
    assert not open_late(landing.id)
    assert (they.convoy(convoy_id).status, they.bead(landing.id).status) == (status, BeadStatus.OPEN)


def test_who_begins_to_wait_for_what_a_closed_convoy_made_does_not_start_without_it(town_id: int) -> None:
    made, other = they.members(2)
    convoy_id = they.make(town_id, [made, other])
    they.finish(made)
    ask(convoys.close, town_id, convoy_id)
    [late] = they.members(1)
    ask(edges.block, town_id, late, made)
    tick()
    [landing] = they.landings(convoy_id)
    assert they.bead(late).verdict_reason == f"waits for {landing.id} (canceled)"


def test_who_waits_for_a_member_that_went_on_without_its_closed_convoy_waits_for_nothing_else(town_id: int) -> None:
    [member] = they.members(1)
    ask(convoys.close, town_id, they.make(town_id, [member]))
    ask(work.retry, town_id, member)
    they.finish(member)
    assert they.request_of(member).target == "main"
    [late] = they.members(1)
    ask(edges.block, town_id, late, member)
    tick()
    assert verdict_of(they.bead(late)) == Verdict.DISPATCH
