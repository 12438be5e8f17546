"""The resync task, and rules that raise: told, counted, and asked of a person."""

from collections.abc import Callable
from datetime import timedelta

import pytest
from sqlalchemy import select, text
from sqlalchemy.orm import Session

from gastown import db
from gastown.db import transaction
from gastown.models import Bead, Event, Town
from gastown.reconcile import RULES
from gastown.reconcile.policy import Policy
from gastown.reconcile.rules import dispatching
from gastown.states import BeadStatus
from gastown.store import resync, rule_errors
from gastown.store.counters import read_counters
from gastown.store.escalations import list_inbox
from gastown.tasks import correcting
from gastown.tasks.reconcile import reconcile_town, resync_towns
from tests.builders import a_bead, a_rig, an_attempt, now
from tests.conftest import Clock
from tests.races import committed
from tests.ticks import take_messages, tick


def inbox(town: Town) -> list[str]:
    return committed(lambda session: [row.cause for row in list_inbox(session, town.id)])


def test_a_quiet_town_has_nothing_to_correct(town: Town) -> None:
    tick()
    resync_towns()
    assert committed(read_counters) == {}
    assert inbox(town) == take_messages("control") == []


def test_what_was_forgotten_is_counted_by_its_reason_and_a_tick_is_asked_for(town: Town) -> None:
    committed(lambda session: [a_bead(session, held_at=text("now()"), held_reason="x") for _ in range(3)])
    tick()
    committed(lambda session: session.execute(text("UPDATE beads SET held_at = NULL, held_reason = NULL")))
    resync_towns()
    assert committed(read_counters) == {"resync_held_no_more": 3}
    assert ("gastown.reconcile", []) in take_messages("control")


def test_more_than_one_statement_wakes(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resync, "BATCH", 2)
    monkeypatch.setattr(resync.wake_for, "__defaults__", (2,))
    committed(lambda session: [a_bead(session, wake_at=None) for _ in range(5)])
    resync_towns()
    assert committed(read_counters) == {"resync_never_decided": 5}


def test_a_broken_invariant_is_told_counted_and_its_bead_looked_at(town: Town) -> None:
    bead = committed(
        lambda session: a_bead(session, status=BeadStatus.IN_REVIEW, wake_at=None, verdict="awaiting_merge")
    )
    resync_towns()
    resync_towns()
    assert committed(read_counters)["invariants_broken"] == 2
    assert inbox(town) == ["invariant:a_bead_in_review_with_no_unfinished_merge_request"]
    assert now(bead).wake_at is not None


def test_a_number_that_makes_no_sense_is_asked_about_until_it_does(town: Town) -> None:
    rig = committed(lambda session: a_rig(session))
    committed(lambda session: session.execute(text("UPDATE rigs SET policy = '{\"x\": 1}'")))
    resync_towns()
    assert inbox(town) == [f"policy:rig:{rig.id}"]
    committed(lambda session: session.execute(text("UPDATE rigs SET policy = '{}'; UPDATE towns SET policy = '3'")))
    resync_towns()
    assert inbox(town) == ["policy:town"]


def test_a_step_that_is_too_slow_does_not_keep_the_others(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    committed(lambda session: a_bead(session, wake_at=None))
    too_slow = "SELECT id FROM beads WHERE (SELECT true FROM pg_sleep(3))"
    monkeypatch.setitem(resync.REASONS, "terminal_not_cleaned_up", too_slow)
    monkeypatch.setattr(correcting, "in_transaction", in_a_hurry)
    resync_towns()
    assert committed(read_counters) == {"resync_never_decided": 1}


def in_a_hurry(work: Callable[[Session], int]) -> int:
    def hurried(session: Session) -> int:
        session.execute(text("SET LOCAL statement_timeout = '500 ms'"))
        return work(session)

    return db.in_transaction(hurried)


def test_a_rule_that_raises_is_tried_again_ever_more_rarely(
    town: Town, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S37: it costs its own bead a delay, and after the third time in a row a person is asked."""

    def hold(*_: object) -> None:
        raise ZeroDivisionError("a rule")

    bead = committed(a_bead)
    monkeypatch.setattr("gastown.reconcile.RULES", (hold, *RULES))
    waits = []
    for times in range(1, 5):
        reconcile_town(town.id)
        due = now(bead).wake_at
        assert due is not None
        waits.append(due - clock.now)
        assert inbox(town) == ([f"rule:{bead.id}"] if times >= rule_errors.ASKED_AFTER else [])
        clock.now = due
    first = timedelta(seconds=Policy().rule_error_delay_s)
    assert waits == [first, 2 * first, 4 * first, 8 * first]
    assert committed(read_counters) == {"rule_errors": 4}
    with transaction() as session:
        events = session.scalars(select(Event.message).where(Event.kind == rule_errors.KIND)).all()
        assert len(events) == 4
        assert "ZeroDivisionError: a rule" in events[0]
    monkeypatch.undo()
    reconcile_town(town.id)
    assert now(bead).verdict == "ready"  # its node has been silent meanwhile
    clock.advance(1)
    resync_towns()
    assert inbox(town) == []
    assert dispatching.hold in RULES


def test_the_longest_wait_of_a_rule_that_raises(town: Town, clock: Clock) -> None:
    bead = committed(a_bead)
    with transaction() as session:
        for _ in range(20):
            longest = rule_errors.put_off(session, bead.id, clock.now, Policy(), "it cannot be read")
            session.flush()
        assert longest == rule_errors.LONGEST
        assert session.get_one(Bead, bead.id).ready_at is None


def test_a_rule_that_raises_about_a_live_attempt_is_no_forgotten_wake_up(town: Town, clock: Clock) -> None:
    """Resync would wake it each time, ahead of its delay, and count that."""
    attempt = committed(an_attempt)
    for delay_s in (30, 3600):
        policy = Policy(rule_error_delay_s=delay_s)
        with transaction() as session:
            for _ in range(7):
                rule_errors.put_off(session, attempt.bead_id, clock.now, policy, "it cannot be read")
                session.flush()
        with transaction() as session:
            assert resync.wake_forgotten(session) == {}
            assert session.get_one(Bead, attempt.bead_id).wake_at == clock.now + rule_errors.LONGEST_LIVE
