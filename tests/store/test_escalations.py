"""Whatever needs a person is asked once, and no longer than it is true."""

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from gastown.commands import attempt, work
from gastown.db import transaction
from gastown.errors import NotFound
from gastown.models import Bead, Escalation, Event
from gastown.states import BeadStatus, DispatchStatus, Resolution
from gastown.store import beads, escalations
from gastown.store.escalations import list_inbox
from tests.builders import a_bead
from tests.calls import make
from tests.conftest import Clock
from tests.races import committed


def causes(town_id: int) -> list[str]:
    return committed(lambda session: [row.cause for row in list_inbox(session, town_id)])


def fail(bead_id: str, town_id: int) -> None:
    with transaction() as session:
        beads.fail_bead(session, beads.lock_known_bead(session, bead_id, town_id), "config", "no such command")


def test_a_bead_that_fails_asks_once_and_a_retry_settles_it(town_id: int, clock: Clock) -> None:
    bead = committed(lambda session: a_bead(session, status=BeadStatus.IN_PROGRESS))
    fail(bead.id, town_id)
    [row] = committed(lambda session: list_inbox(session, town_id))
    assert (row.cause, row.bead_id, row.raised_at) == (f"failed:{bead.id}", bead.id, clock.now)
    assert row.message == f"{bead.id} failed: no such command"
    assert row.command == f"gastown logs {bead.id}"
    committed(lambda session: work.retry(session, town_id, bead.id))
    assert causes(town_id) == []
    [row] = committed(lambda session: list_inbox(session, town_id, everything=True))
    assert row.settled_at == clock.now
    committed(lambda session: beads.lock_known_bead(session, bead.id, town_id))
    fail(bead.id, town_id)
    assert causes(town_id) == [f"failed:{bead.id}"]


@pytest.mark.parametrize("how", ["cancel", "by hand"])
def test_what_an_agent_asks_stays_until_its_bead_ends_or_a_person_has_seen_it(town_id: int, how: str) -> None:
    dispatch = make(DispatchStatus.RUNNING)
    for text in ("which database?", "which database?", "which colour?"):
        committed(lambda session, text=text: attempt.escalate(session, dispatch.id, text))
    rows = committed(lambda session: list_inbox(session, town_id))
    assert [row.message for row in rows] == ["which colour?", "which database?"]
    assert {row.bead_id for row in rows} == {dispatch.bead_id}
    with transaction() as session:
        event = session.scalars(select(Event).where(Event.kind == "escalation").order_by(Event.id)).first()
        assert event is not None
        assert (event.dispatch_id, event.message) == (dispatch.id, "which database?")
    if how == "cancel":
        committed(lambda session: work.cancel(session, town_id, dispatch.bead_id))
    else:
        for row in rows:
            committed(lambda session, row=row: escalations.settle_by_hand(session, town_id, row.id))
        with pytest.raises(NotFound):
            committed(lambda session: escalations.settle_by_hand(session, town_id, rows[0].id))
    assert causes(town_id) == []


def test_a_merged_bead_asks_nothing(town_id: int) -> None:
    dispatch = make(DispatchStatus.RUNNING)
    committed(lambda session: attempt.escalate(session, dispatch.id, "which database?"))
    with transaction() as session:
        bead = beads.lock_known_bead(session, dispatch.bead_id, town_id)
        beads.close_bead(session, bead, Resolution.DONE, "me", "done")
    assert causes(town_id) == []


def test_a_blocker_that_is_tried_again_settles_what_its_dependants_asked(town_id: int) -> None:
    def build(session: Session) -> tuple[Bead, Bead]:
        blocker, waits = a_bead(session, status=BeadStatus.FAILED), a_bead(session)
        beads.add_blockers(session, waits.id, [blocker.id], town_id)
        escalations.raise_once(session, town_id, f"blocker:{waits.id}", "it waits", bead_id=waits.id)
        escalations.raise_once(session, town_id, "breaker", "20 starts failed")
        return blocker, waits

    blocker, waits = committed(build)
    assert causes(town_id) == ["breaker", f"blocker:{waits.id}"]
    committed(lambda session: work.retry(session, town_id, blocker.id))
    assert causes(town_id) == ["breaker"]


def test_a_cause_is_asked_once_in_each_town(town_id: int) -> None:
    def twice(session: Session) -> list[bool]:
        return [escalations.raise_once(session, town_id, "breaker", "20 starts failed") for _ in range(2)]

    assert committed(twice) == [True, False]
    with transaction() as session:
        assert len(session.scalars(select(Escalation)).all()) == 1
        escalations.settle(session, town_id, "breaker")
        assert escalations.count_open(session, town_id) == 0
        assert escalations.raise_once(session, town_id, "breaker", "again")
