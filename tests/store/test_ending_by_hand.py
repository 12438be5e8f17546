"""What a person ends that failed: it is called off, and only what is then complete goes on."""

from typing import Any

import pytest
from sqlalchemy import select

from gastown.commands import convoys, edges, work
from gastown.db import transaction
from gastown.errors import Refused
from gastown.models import Escalation
from gastown.states import BeadStatus, ConvoyStatus, Resolution, Verdict
from gastown.store.explain import explain
from tests.races import committed
from tests.store import convoying as they
from tests.store.test_convoy_ends import failed_landing
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
