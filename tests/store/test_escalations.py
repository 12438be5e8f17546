"""Whatever needs a person is asked once, and no longer than it is true."""

import pytest
from sqlalchemy import select, text
from sqlalchemy.orm import Session

from gastown.commands import attempt, work
from gastown.db import transaction
from gastown.errors import NotFound
from gastown.models import Bead, Escalation, Event
from gastown.states import BeadStatus, DispatchStatus, Resolution
from gastown.store import beads, escalations
from gastown.store.escalations import list_inbox
from tests.builders import a_bead, an_attempt
from tests.calls import make
from tests.conftest import Clock
from tests.races import committed
from tests.ticks import tick


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
    for words in ("which database?", "which database?", "which colour?"):
        committed(lambda session, words=words: attempt.escalate(session, dispatch.id, words))
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
        escalations.raise_once(session, town_id, f"blocker:{blocker.id}", "it waits", bead_id=waits.id)
        escalations.raise_once(session, town_id, "breaker", "20 starts failed")
        return blocker, waits

    blocker, _waits = committed(build)
    assert causes(town_id) == ["breaker", f"blocker:{blocker.id}"]
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


AWAY = {
    "failed": ("failed:{bead}", "UPDATE beads SET status = 'open', failure_code = NULL, closed_at = NULL"),
    "auth": ("auth:{bead}", "UPDATE beads SET held_at = NULL, held_reason = NULL"),
    "stalled": ("stalled:{bead}", "UPDATE dispatches SET stall_tier = 0"),
    "asked": ("asked:x:{bead}", "UPDATE beads SET status = 'closed', resolution = 'done', closed_at = now()"),
    "rule": ("rule:{bead}", "UPDATE beads SET looked_at = gastown_now() + interval '1 s'"),
    "blocker": ("blocker:{bead}", "DELETE FROM bead_dependencies"),
    "infra": ("infra:start_error", "UPDATE dispatches SET started_at = gastown_now() + interval '1 s'"),
    "breaker": ("breaker", "UPDATE towns SET breaker_opened_at = NULL"),
}


@pytest.mark.parametrize("kind", AWAY)
def test_what_is_gone_is_not_asked_any_more_however_it_went(town_id: int, clock: Clock, kind: str) -> None:
    cause, gone = AWAY[kind]

    def build(session: Session) -> str:
        dispatch = an_attempt(session, DispatchStatus.RUNNING, stall_tier=2)
        bead = session.get_one(Bead, dispatch.bead_id)
        waits = a_bead(session)
        beads.add_blockers(session, waits.id, [bead.id], town_id)
        session.execute(text("UPDATE towns SET breaker_opened_at = gastown_now()"))
        bead.status, bead.failure_code, bead.closed_at = BeadStatus.FAILED, "x", clock.now
        bead.held_at, bead.held_reason = clock.now, "x"
        escalations.raise_once(session, town_id, cause.format(bead=bead.id), "look", bead_id=bead.id)
        escalations.raise_once(session, town_id, "invariant:x", "report it")
        return bead.id

    bead_id = committed(build)
    assert committed(escalations.settle_gone) == 0
    committed(lambda session: session.execute(text(gone)))
    assert committed(escalations.settle_gone) == 1
    assert causes(town_id) == ["invariant:x"]
    assert escalations.command_for(cause.format(bead=bead_id), bead_id).startswith("gastown ")


@pytest.mark.parametrize(("code", "cause"), [("auth_failed", "auth"), ("over_cap", "budget")])
def test_a_bead_that_the_rules_held_goes_on_when_it_is_released(
    town_id: int, clock: Clock, code: str, cause: str
) -> None:
    """The failure that it was held for counts as mended, or the same rule would strike again at once."""

    def fail(session: Session) -> str:
        dispatch = an_attempt(session, DispatchStatus.LOST)
        bead = session.get_one(Bead, dispatch.bead_id)
        bead.failure_class, bead.failure_code, bead.failure_message = cause, code, "no"
        return bead.id

    bead_id = committed(fail)
    tick()
    assert causes(town_id) == [f"{cause}:{bead_id}"]
    committed(lambda session: work.release(session, town_id, bead_id))
    assert causes(town_id) == []
    tick()
    with transaction() as session:
        assert session.get_one(Bead, bead_id).verdict == "dispatch"
    assert causes(town_id) == []
