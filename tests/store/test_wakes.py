"""Wake-ups: whatever changes what a sleeping bead's rules read."""

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy.orm import Session

from gastown.agent.protocol import Done
from gastown.commands import attempt, work
from gastown.db import transaction
from gastown.models import Bead, BeadDependency
from gastown.states import (
    LIVE,
    BeadStatus,
    DispatchStatus,
    FailureCode,
    Resolution,
    Verdict,
)
from gastown.store import attempts, merges
from gastown.store.moves import set_bead
from tests.builders import (
    HEAD,
    a_bead,
    a_merge,
    a_town,
    an_attempt,
    bead_of,
)
from tests.calls import SUCCEEDED, UNCHANGED, make
from tests.checks import forgotten
from tests.conftest import Clock
from tests.races import committed
from tests.ticks import tick, verdict_of
from tests.views import after

QUEUED, STARTING, RUNNING = LIVE
LOST, ROLLED_BACK = DispatchStatus.LOST, DispatchStatus.ROLLED_BACK


# --- wake-ups: whatever changes what a sleeping bead's rules read


def block(session: Session, bead: Bead, blocker_id: str) -> None:
    session.add(BeadDependency(bead_id=bead.id, blocker_id=blocker_id))
    session.flush()


def a_merging(session: Session) -> merges.MergeOrder:
    order = merges.claim_merge(session, a_merge(session).id, "w")
    assert order is not None
    return order


# what is there before, and what then happens to it; somebody waits for its bead meanwhile
CHANGES: dict[str, tuple[Callable[[Session], Any], Callable[[Session, Any], Any]]] = {
    "cancel": (a_bead, lambda session, bead: work.cancel(session, bead.town_id, bead.id)),
    "hold": (a_bead, lambda session, bead: work.hold(session, bead.town_id, bead.id, "x")),
    "force": (
        lambda session: a_bead(session, not_before=after(600)),
        lambda session, bead: work.force_dispatch(session, bead.id),
    ),
    "release": (
        lambda session: a_bead(session, held_at=after(0), held_reason="x"),
        lambda session, bead: work.release(session, bead.town_id, bead.id),
    ),
    "retry of a failed one": (
        lambda session: a_bead(session, status=BeadStatus.FAILED),
        lambda session, bead: work.retry(session, bead.town_id, bead.id),
    ),
    "retry of a canceled one": (
        lambda session: a_bead(session, status=BeadStatus.CLOSED, resolution=Resolution.CANCELED),
        lambda session, bead: work.retry(session, bead.town_id, bead.id),
    ),
    "roll back": (
        lambda session: an_attempt(session, STARTING),
        lambda session, it: attempts.roll_back(session, it.id, FailureCode.START_ERROR, "x"),
    ),
    "lose": (an_attempt, lambda session, it: attempts.lose(session, it.id, FailureCode.VANISHED, "x")),
    "fails for ever": (
        lambda session: an_attempt(session, STARTING),
        lambda session, it: attempts.roll_back(session, it.id, FailureCode.COMMAND_NOT_FOUND, "x"),
    ),
    "claim of the start": (
        lambda session: an_attempt(session, QUEUED),
        lambda session, it: attempts.claim_start(session, it.id, "w"),
    ),
    "first call": (lambda session: an_attempt(session, STARTING), lambda session, it: attempts.admit(session, it.id)),
    "doubt": (
        lambda session: an_attempt(session, STARTING),
        lambda session, it: attempts.doubt_start(session, it.id),
    ),
    "absent": (an_attempt, lambda session, it: attempts.note_seen(session, it.id, after(1), False, 1, False)),
    "done": (an_attempt, lambda session, it: attempt.finish(session, it.id, SUCCEEDED)),
    "done, unchanged": (an_attempt, lambda session, it: attempt.finish(session, it.id, UNCHANGED)),
    "failed": (an_attempt, lambda session, it: attempt.finish(session, it.id, Done(outcome="failed"))),
    "drained": (an_attempt, lambda session, it: attempt.finish(session, it.id, Done(outcome="stopped"))),
    "canceled at work": (an_attempt, lambda session, it: work.cancel(session, it.town_id, it.bead_id)),
    "held at work": (an_attempt, lambda session, it: work.hold(session, it.town_id, it.bead_id, "x")),
    "merge recorded": (a_merging, lambda session, it: merges.record_merged(session, it, HEAD)),
    "merge held": (a_merging, lambda session, it: merges.hold(session, it, merges.HoldCode.CONFLICT, "x")),
    "merge requeued": (a_merging, lambda session, it: merges.requeue(session, it, "x")),
    "merge canceled": (a_merging, lambda session, it: work.cancel(session, a_town(session).id, it.bead_id)),
    "worked on again": (
        a_merging,
        lambda session, it: work.retry(session, a_town(session).id, it.bead_id, again=True),
    ),
    "held merge tried again": (
        lambda session: a_merge(session, held_code="conflict", held_reason="x"),
        lambda session, it: work.retry(session, it.town_id, it.bead_id),
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_no_wake_up_is_forgotten(town_id: int, clock: Clock, change: str) -> None:
    """Two tick before and after it; then every sleeping bead must still be what it was last said to be."""
    there, happen = CHANGES[change]
    with transaction() as session:
        it = there(session)
        bead_id = it.id if isinstance(it, Bead) else it.bead_id
        waiting = a_bead(session)
        block(session, waiting, bead_id)
    tick()
    tick()
    assert verdict_of(waiting) in (Verdict.BLOCKED, Verdict.BLOCKER_FAILED)
    clock.advance(2)
    with transaction() as session:
        happen(session, it)
    with transaction() as session:
        assert forgotten(session) == []
    tick()
    tick()


def test_adoption_wakes_its_bead(town_id: int, clock: Clock) -> None:
    dispatch = make(LOST)
    committed(lambda session: set_bead(session, dispatch.bead_id, not_before=after(600), wake_at=after(0)))
    tick()
    assert bead_of(dispatch).wake_at == after(600)
    committed(lambda session: attempts.admit(session, dispatch.id))
    assert bead_of(dispatch).wake_at == clock.now
    tick()
    assert bead_of(dispatch).wake_at == after(45)
