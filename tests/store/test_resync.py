"""Each way to forget a wake-up is found, and nothing else is woken."""

import pytest
from sqlalchemy import select, text
from sqlalchemy.orm import Session

from gastown.db import transaction
from gastown.models import Bead, Town
from gastown.states import TERMINAL, BeadStatus, DispatchStatus
from gastown.store import beads, resync
from gastown.store.moves import record
from tests.builders import a_bead, a_merge, an_attempt
from tests.races import committed
from tests.store.test_convoys import HEALED
from tests.ticks import tick
from tests.views import after

LOST, RUNNING = DispatchStatus.LOST, DispatchStatus.RUNNING


def waiting(session: Session, town_id: int) -> tuple[Bead, Bead]:
    """A bead and the one that it waits for, which somebody holds."""
    blocker = a_bead(session, held_at=after(0), held_reason="x")
    bead = a_bead(session)
    beads.add_blockers(session, bead.id, [blocker.id], town_id)
    return bead, blocker


def sleepers(session: Session, town_id: int) -> list[Bead]:
    """One for each verdict in which a bead sleeps until it is woken."""
    failed = a_bead(session, status=BeadStatus.FAILED)
    held_back = a_bead(session)
    beads.add_blockers(session, held_back.id, [failed.id], town_id)
    a_merge(session, held_code="conflict", held_reason="both changed README")
    return [*waiting(session, town_id), held_back]


def test_what_sleeps_rightly_is_left_alone(town: Town) -> None:
    committed(lambda session: (sleepers(session, town.id), an_attempt(session, RUNNING)))
    tick()
    with transaction() as session:
        asleep = select(Bead.verdict).where(Bead.wake_at.is_(None), Bead.status.not_in(TERMINAL))
        assert set(session.scalars(asleep)) == {"held", "blocked", "blocker_failed", "merge_held"}
        assert resync.wake_forgotten(session) == {}


def release_blockers(session: Session, bead: Bead, blocker: Bead) -> None:
    session.execute(text("UPDATE beads SET status = 'closed', resolution = 'done', closed_at = now(), held_at = NULL,"
                         " held_reason = NULL WHERE id = :id"), {"id": blocker.id})  # fmt: skip


def fail_blockers(session: Session, bead: Bead, blocker: Bead) -> None:
    session.execute(text("UPDATE beads SET status = 'failed', failure_code = 'x', closed_at = now() WHERE id = :id"),
                    {"id": blocker.id})  # fmt: skip


def hold_the_bead(session: Session, bead: Bead, blocker: Bead) -> None:
    session.execute(text("UPDATE beads SET held_at = now(), held_reason = 'x' WHERE id = :id"), {"id": bead.id})


def release_the_blocker(session: Session, bead: Bead, blocker: Bead) -> None:
    session.execute(text("UPDATE beads SET held_at = NULL, held_reason = NULL WHERE id = :id"), {"id": blocker.id})


def forget_the_verdict(session: Session, bead: Bead, blocker: Bead) -> None:
    session.execute(text("UPDATE beads SET verdict = NULL WHERE id = :id"), {"id": bead.id})


def forget_the_next_look(session: Session, bead: Bead, blocker: Bead) -> None:
    session.execute(text("UPDATE beads SET verdict = 'cooldown' WHERE id = :id"), {"id": bead.id})


OF_WAITING = {
    "blockers_released": release_blockers,
    "blocker_failed_unseen": fail_blockers,
    "held_unseen": hold_the_bead,
    "held_no_more": release_the_blocker,
    "never_decided": forget_the_verdict,
    "no_next_look": forget_the_next_look,
}


@pytest.mark.parametrize("reason", OF_WAITING)
def test_a_bead_that_waits_and_was_not_woken(town: Town, reason: str) -> None:
    pair = committed(lambda session: waiting(session, town.id))
    tick()
    committed(lambda session: OF_WAITING[reason](session, *pair))
    found_and_mended(reason)


def test_a_failed_blocker_that_was_retried_without_a_word(town: Town) -> None:
    committed(lambda session: sleepers(session, town.id))
    tick()
    committed(lambda session: session.execute(text(
        "UPDATE beads SET status = 'open', failure_code = NULL, closed_at = NULL,"
        " wake_at = gastown_now() + interval '1 h' WHERE status = 'failed'")))  # fmt: skip
    found_and_mended("no_blocker_failed")


@pytest.mark.parametrize(
    "change",
    [
        "held_code = NULL, held_reason = NULL",
        "look_at = gastown_now() + interval '10 s'",
        "status = 'in_progress', lease_expires_at = gastown_now()",
    ],
)
def test_a_merge_that_nothing_holds(town: Town, change: str) -> None:
    committed(lambda session: a_merge(session, held_code="conflict", held_reason="both changed README"))
    tick()
    committed(lambda session: session.execute(text(f"UPDATE merge_requests SET {change}")))
    found_and_mended("merge_not_held")


@pytest.mark.parametrize("wake_at", ["NULL", "gastown_now() + interval '1 h'"])
def test_a_live_attempt_that_nobody_looks_at(town: Town, wake_at: str) -> None:
    committed(lambda session: an_attempt(session, RUNNING))
    tick()
    committed(lambda session: session.execute(text(f"UPDATE beads SET wake_at = {wake_at}")))
    found_and_mended("live_attempt_unwatched")


def test_an_agent_at_work_without_an_attempt(town: Town) -> None:
    committed(lambda session: an_attempt(session, LOST))
    committed(
        lambda session: session.execute(text("UPDATE agents SET status = 'working'; UPDATE beads SET wake_at = NULL"))
    )
    with transaction() as session:
        assert resync.wake_forgotten(session) == {"agent_without_attempt": 1}


@pytest.mark.parametrize("status", [LOST, RUNNING])
def test_a_terminal_bead_that_keeps_an_agent(town: Town, status: DispatchStatus) -> None:
    committed(lambda session: an_attempt(session, status))
    over = "UPDATE beads SET status = 'closed', resolution = 'canceled', closed_at = now(), wake_at = NULL"
    committed(lambda session: session.execute(text(over)))
    found_and_mended("terminal_not_cleaned_up")


def found_and_mended(reason: str) -> None:
    with transaction() as session:
        assert resync.wake_forgotten(session) == {reason: 1}
    tick()
    with transaction() as session:
        assert resync.wake_forgotten(session) == {}


def test_a_bead_that_somebody_is_at_is_left_to_him(town: Town) -> None:
    pair = committed(lambda session: waiting(session, town.id))
    tick()
    committed(lambda session: forget_the_verdict(session, *pair))
    with transaction() as other:
        beads.lock_known_bead(other, pair[0].id, town.id)
        assert committed(resync.wake_forgotten) == {}
    assert committed(resync.wake_forgotten) == {"never_decided": 1}


def test_every_reason_is_proven_here() -> None:
    proven = {*OF_WAITING, "no_blocker_failed", "merge_not_held", "live_attempt_unwatched", "agent_without_attempt"}
    proven |= {"hold_unseen", "rework_over"}  # in test_rework
    proven |= {"review_over_unseen"}  # in test_reviews
    proven |= {*HEALED, "members_over"}  # in test_convoys
    assert proven | {"terminal_not_cleaned_up"} == set(resync.REASONS)


def test_of_history_only_the_newest_events_are_looked_at(town: Town) -> None:
    """All of it is looked at in tests; a town with a million closed beads has no time for that."""
    name = "a bead that is merged without a merged request"
    bead = committed(lambda session: a_bead(session, status=BeadStatus.CLOSED, resolution="merged"))
    with transaction() as session:
        assert resync.check_invariant(session, name, lately=True) is None
        found = resync.check_invariant(session, name)
        assert found is not None
        assert found == (name, (bead.id,))
        assert str(found) == f"{name}: {bead.id}"
        assert found.cause == "invariant:a_bead_that_is_merged_without_a_merged_request"
        record(session, town.id, "x", "x", actor="x", bead_id=bead.id)
        session.flush()
        assert resync.check_invariant(session, name, lately=True) == found
