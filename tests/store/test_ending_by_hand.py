"""What a person ends that failed: it is called off, and only what is then complete goes on."""

from typing import Any

import pytest
from sqlalchemy import select

from gastown.cli.convoys import progress
from gastown.commands import convoys, edges, work
from gastown.db import transaction
from gastown.errors import Refused
from gastown.models import Escalation
from gastown.states import BeadStatus, ConvoyStatus, HoldCode, MergeStatus, Resolution, Verdict
from gastown.store import merges
from gastown.store.convoy_detail import convoy_detail
from gastown.store.explain import explain
from tests.races import committed
from tests.store import convoying as they
from tests.store.merging import claim
from tests.store.test_convoy_ends import failed_landing
from tests.store.test_convoys import held_landing
from tests.ticks import tick, verdict_of


def ask(function: Any, *args: Any, **values: Any) -> Any:
    return committed(lambda session: function(session, *args, **values))


def asked() -> list[str]:
    """What the inbox asks about, by cause."""
    with transaction() as session:
        return sorted(session.scalars(select(Escalation.cause).where(Escalation.settled_at.is_(None))))


def test_a_failed_member_that_is_canceled_holds_the_landing_no_more(town_id: int) -> None:
    good, bad = they.members(2)
    convoy_id = they.make(town_id, [good, bad])
    they.fail(bad)
    tip = they.finish(good)
    [landing] = they.landings(convoy_id)
    assert (verdict_of(landing), f"member:{landing.id}" in asked()) == (Verdict.MEMBER_FAILED, True)
    with transaction() as session:
        assert "canceled" in explain(session, town_id, [landing.id])[0].opens
        assert "cancel" in explain(session, town_id, [bad])[0].opens
    ask(work.cancel, town_id, bad)
    assert asked() == []
    tick()
    assert (they.bead(bad).status, they.bead(bad).resolution) == (BeadStatus.CLOSED, Resolution.CANCELED)
    assert they.request_of(landing.id).head_sha == tip
    assert asked() == []


def test_another_failed_member_still_holds_it(town_id: int) -> None:
    good, bad, worse = they.members(3)
    convoy_id = they.make(town_id, [good, bad, worse])
    they.finish(good)
    they.fail(bad)
    they.fail(worse)
    ask(work.cancel, town_id, bad)
    tick()
    [landing] = they.landings(convoy_id)
    assert (landing.status, landing.verdict) == (BeadStatus.OPEN, Verdict.MEMBER_FAILED)
    with transaction() as session:
        query = select(Escalation.message).where(Escalation.cause == f"member:{landing.id}")
        message = session.scalars(query.where(Escalation.settled_at.is_(None))).one()
    assert (worse in message, bad in message) == (True, False)


def test_who_waits_for_a_failed_bead_waits_also_when_it_is_canceled(town_id: int) -> None:
    bad, waiting, member = they.members(3)
    ask(edges.block, town_id, waiting, bad)
    convoy_id = they.make(town_id, [bad, member], start=False)
    ask(convoys.order, town_id, convoy_id, member, bad)
    ask(convoys.start, town_id, convoy_id)
    they.fail(bad)
    ask(work.cancel, town_id, bad)
    tick()
    assert [verdict_of(they.bead(each)) for each in (waiting, member)] == [Verdict.BLOCKER_FAILED] * 2
    assert they.bead(waiting).verdict_reason == f"waits for {bad} (canceled)"
    assert they.landings(convoy_id)[0].status == BeadStatus.OPEN
    assert asked() == [f"blocker:{bad}"]


def test_a_bead_that_failed_and_was_canceled_may_be_retried(town_id: int) -> None:
    [bad, good] = they.members(2)
    convoy_id = they.make(town_id, [bad, good])
    they.fail(bad)
    ask(work.cancel, town_id, bad)
    with pytest.raises(Refused, match="is canceled already"):
        ask(work.cancel, town_id, bad)
    ask(work.retry, town_id, bad)
    they.finish(good)
    assert they.landings(convoy_id)[0].status == BeadStatus.OPEN
    they.finish(bad)
    assert they.landings(convoy_id)[0].status == BeadStatus.IN_REVIEW


def test_a_failed_landing_is_not_canceled_by_itself(town_id: int) -> None:
    convoy_id, landing_id, bad = failed_landing(town_id)
    with pytest.raises(Refused, match=f"lands convoy {convoy_id}") as refused:
        ask(work.cancel, town_id, landing_id)
    assert refused.value.hint == f"gastown convoy close {convoy_id}"
    ask(work.cancel, town_id, bad)
    tick()
    assert they.convoy(convoy_id).status == ConvoyStatus.FAILED


def left_out(town_id: int) -> tuple[str, str, str, str]:
    """A convoy that has landed without one that failed and one that waits for that: it, who landed, and these two."""
    good, bad, waiting = they.members(3)
    convoy_id = they.make(town_id, [good, bad, waiting], start=False)
    ask(convoys.order, town_id, convoy_id, waiting, bad)
    ask(convoys.start, town_id, convoy_id)
    they.finish(good)
    they.fail(bad)
    assert asked() == sorted([f"failed:{bad}", f"blocker:{bad}", f"member:{they.landings(convoy_id)[0].id}"])
    ask(convoys.land, town_id, convoy_id, partial=True)
    tick()
    they.merge(they.landings(convoy_id)[0].id)
    assert they.convoy(convoy_id).status == ConvoyStatus.CLOSED
    return convoy_id, good, bad, waiting


def shown(town_id: int, convoy_id: str) -> tuple[str, dict[str, str | None]]:
    with transaction() as session:
        detail = convoy_detail(session, town_id, convoy_id)
    return progress(detail.convoy), detail.left_out


def test_what_a_landing_left_out_waits_for_nothing_and_asks_nobody(town_id: int) -> None:
    convoy_id, _good, bad, waiting = left_out(town_id)
    assert asked() == []
    assert shown(town_id, convoy_id) == (
        "1 merged, 1 failed, 0 waiting, 1 left out of 3 members",
        {bad: None, waiting: None},
    )
    ask(work.retry, town_id, bad)
    they.finish(bad)
    assert shown(town_id, convoy_id) == (
        "2 merged, 0 failed, 0 waiting, 1 left out of 3 members",
        {bad: "main", waiting: None},
    )


def test_before_a_convoy_has_landed_nothing_is_left_out(town_id: int) -> None:
    good, bad = they.members(2)
    convoy_id = they.make(town_id, [good, bad])
    they.fail(bad)
    assert shown(town_id, convoy_id) == ("0 merged, 1 failed, 1 waiting of 2 members", {})


def test_who_waits_for_a_left_out_one_from_outside_is_still_asked_about(town_id: int) -> None:
    good, bad, outside = they.members(3)
    ask(edges.block, town_id, outside, bad)
    convoy_id = they.make(town_id, [good, bad])
    they.finish(good)
    they.fail(bad)
    ask(convoys.land, town_id, convoy_id, partial=True)
    tick()
    they.merge(they.landings(convoy_id)[0].id)
    assert asked() == [f"blocker:{bad}"]


def test_nobody_is_asked_about_members_of_a_convoy_that_was_closed(town_id: int) -> None:
    good, bad = they.members(2)
    convoy_id = they.make(town_id, [good, bad])
    they.fail(bad)
    ask(convoys.close, town_id, convoy_id)
    tick()
    assert asked() == []


@pytest.mark.parametrize("failed", [False, True])
def test_what_is_done_by_other_means_releases_who_waits_for_it(town_id: int, failed: bool) -> None:
    one, waiting = they.members(2)
    ask(edges.block, town_id, waiting, one)
    if failed:
        they.fail(one)
    else:
        they.work(one)
    ask(work.finish, town_id, one, "as 1a2b3c")
    assert asked() == []
    assert [they.bead(one).resolution, they.bead(one).status] == [Resolution.DONE, BeadStatus.CLOSED]
    tick()
    assert verdict_of(they.bead(waiting)) == Verdict.DISPATCH
    if not failed:
        assert they.request_of(one).status == MergeStatus.CLOSED


def test_a_member_that_is_done_by_other_means_holds_no_landing(town_id: int) -> None:
    good, bad, waiting = they.members(3)
    convoy_id = they.make(town_id, [good, bad, waiting], start=False)
    ask(convoys.order, town_id, convoy_id, waiting, bad)
    ask(convoys.start, town_id, convoy_id)
    they.finish(good)
    they.fail(bad)
    ask(work.finish, town_id, bad, "by hand")
    tick()
    tip = they.finish(waiting)
    assert they.request_of(they.landings(convoy_id)[0].id).head_sha == tip


def test_what_is_being_pushed_is_not_done_by_other_means(town_id: int) -> None:
    [one] = they.members(1)
    they.work(one)
    order = claim(they.request_of(one))
    assert ask(merges.begin_push, order, they.sha(), they.sha())
    for command, more in ((work.finish, ("by hand",)), (work.cancel, ())):
        with pytest.raises(Refused, match="is being pushed"):
            ask(command, town_id, one, *more)


def test_what_mends_a_merge_is_not_done_by_other_means(town_id: int) -> None:
    _convoy_id, landing, _members = held_landing(town_id)
    mending = they.request_of(landing.id).rework_id
    with pytest.raises(Refused, match="was made by Gastown for a merge"):
        ask(work.finish, town_id, mending, "by hand")


def test_a_published_branch_that_a_person_merged_in_another_form_is_done(town_id: int) -> None:
    """Edited, squashed and deleted: nothing tells its commits from work that was thrown away."""
    [one] = they.members(1)
    they.work(one)
    order = claim(they.request_of(one))
    assert ask(merges.hold, order, HoldCode.BRANCH_GONE, "its branch is gone, and the target has none of it")
    tick()
    with transaction() as session:
        assert "gastown bead done" in explain(session, town_id, [one])[0].opens
    ask(work.finish, town_id, one, "as 1a2b3c")
    tick()
    assert (they.bead(one).resolution, they.request_of(one).status) == (Resolution.DONE, MergeStatus.CLOSED)
