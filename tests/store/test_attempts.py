"""The protocol of DESIGN 5, move by move: what each does, from where it is legal, what its loser leaves alone."""

import uuid
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import func, select
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from gastown.commands import attempt, work
from gastown.db import in_transaction, transaction
from gastown.errors import DatabaseUnavailable
from gastown.models import Agent, Bead, Dispatch, Event
from gastown.reconcile.policy import Policy
from gastown.states import (
    LIVE,
    AgentStatus,
    BeadStatus,
    DispatchStatus,
    FailureClass,
    FailureCode,
    Resolution,
)
from gastown.store import attempts, beads
from gastown.store.moves import lock_bead, move, set_bead
from tests.builders import a_bead, a_node, a_rig, agent_of, bead_of, now
from tests.calls import CALLS, beat, everything, make
from tests.conftest import Clock
from tests.races import committed, race, together
from tests.views import after

QUEUED, STARTING, RUNNING = LIVE
SUCCEEDED, FAILED = DispatchStatus.SUCCEEDED, DispatchStatus.FAILED
ROLLED_BACK, LOST, STOPPED = DispatchStatus.ROLLED_BACK, DispatchStatus.LOST, DispatchStatus.STOPPED
ERROR = FailureCode.START_ERROR


# --- roll_back: rollback_guarded, rollback_before_running


@pytest.mark.parametrize("status", [QUEUED, STARTING])
def test_roll_back(clock: Clock, status: DispatchStatus) -> None:
    """S01: agent idle with its hook, bead in progress and due, the row says why."""
    dispatch = make(status)
    committed(lambda session: set_bead(session, dispatch.bead_id, wake_at=after(60)))
    assert committed(lambda session: attempts.roll_back(session, dispatch.id, ERROR, "no such image\x00"))
    ended, agent, bead = now(dispatch), agent_of(dispatch), bead_of(dispatch)
    assert (ended.status, ended.code, ended.message) == (ROLLED_BACK, ERROR, "no such image")
    assert (ended.failure_class, ended.ended_at) == (FailureClass.INFRA, clock.now)
    assert (agent.status, agent.bead_id, agent.idle_since) == (AgentStatus.IDLE, bead.id, clock.now)
    assert (bead.status, bead.wake_at, bead.not_before) == (BeadStatus.IN_PROGRESS, clock.now, None)
    assert (bead.failure_code, bead.failure_message) == (ERROR, "no such image")


@pytest.mark.parametrize("status", [RUNNING, SUCCEEDED, FAILED, ROLLED_BACK, LOST, STOPPED])
def test_roll_back_too_late_touches_nothing(clock: Clock, status: DispatchStatus) -> None:
    dispatch = make(status)
    before = everything(dispatch)
    clock.advance(1)
    assert not committed(lambda session: attempts.roll_back(session, dispatch.id, ERROR, "late"))
    assert everything(dispatch) == before


@pytest.mark.parametrize("status", [STARTING, RUNNING])
def test_a_failure_is_not_charged_to_a_bead_that_is_over(clock: Clock, status: DispatchStatus) -> None:
    """It was closed while its attempt was live, which a tick is to end; the attempt ends first (seed 262618670)."""
    dispatch = make(status)

    def close(session: Session) -> None:
        bead = lock_bead(session, dispatch.bead_id)
        assert bead is not None
        beads.close_bead(session, bead, Resolution.CANCELED, "user", "its merge goes on without it")
        set_bead(session, bead.id, wake_at=None)

    committed(close)
    if status == STARTING:
        assert committed(lambda session: attempts.roll_back(session, dispatch.id, ERROR, "x"))
    else:
        assert committed(lambda session: attempts.lose(session, dispatch.id, FailureCode.HEARTBEAT_LOST, "x"))
    bead = bead_of(dispatch)
    assert (bead.not_before, bead.failure_code, bead.failure_message) == (None, None, None)
    assert bead.wake_at == clock.now  # for its agent
    assert agent_of(dispatch).status == AgentStatus.IDLE


def test_roll_back_of_one_that_was_replaced_leaves_the_new_one_alone(clock: Clock) -> None:
    old = make(ROLLED_BACK)
    new = make(STARTING, bead=bead_of(old))
    before = everything(new)
    assert not committed(lambda session: attempts.roll_back(session, old.id, ERROR, "a second failure callback"))
    assert everything(new) == before


def test_roll_back_of_what_does_not_exist(database: str) -> None:
    assert not committed(lambda session: attempts.roll_back(session, uuid.uuid4(), ERROR, "?"))


def test_roll_back_and_the_first_call_at_once(clock: Clock) -> None:
    """Whoever is first, it ends running: the loser of the roll back is adopted."""
    for first, second in [("roll", "call"), ("call", "roll")]:
        dispatch = make(STARTING)
        do: dict[str, Callable[[Session], Any]] = {
            "roll": lambda session, key=dispatch.id: attempts.roll_back(session, key, ERROR, "x"),  # type: ignore[misc]
            "call": lambda session, key=dispatch.id: attempts.admit(session, key),  # type: ignore[misc]
        }
        race(do[first], do[second])
        assert now(dispatch).status == RUNNING
        assert agent_of(dispatch).status == AgentStatus.WORKING
        assert bead_of(dispatch).not_before is None


# --- the start


def test_claim_start(clock: Clock) -> None:
    dispatch = make(QUEUED)
    order = committed(lambda session: attempts.claim_start(session, dispatch.id, "worker@here"))
    assert (order.bead_id, order.epoch, order.node, order.runtime) == (dispatch.bead_id, 1, "here", "process")
    claimed = now(dispatch)
    assert (claimed.status, claimed.starting_at, claimed.claimed_by) == (STARTING, clock.now, "worker@here")
    assert committed(lambda session: attempt.authenticate(session, order.token)) == dispatch.id
    assert bead_of(dispatch).wake_at == clock.now  # it was due earlier than the look at its start


@pytest.mark.parametrize("status", [each for each in DispatchStatus if each is not QUEUED])
def test_claim_start_too_late(clock: Clock, status: DispatchStatus) -> None:
    dispatch = make(status)
    before = everything(dispatch)
    assert committed(lambda session: attempts.claim_start(session, dispatch.id, "worker@here")) is None
    assert everything(dispatch) == before


def test_claim_start_twice_at_once(clock: Clock) -> None:
    """S06, S07: doubled messages."""
    dispatch = make(QUEUED)
    claim = lambda: in_transaction(lambda session: attempts.claim_start(session, dispatch.id, "w"))  # noqa: E731
    assert sorted(order is None for order in together(claim, claim, claim)) == [False, True, True]


def test_claim_start_of_what_does_not_exist(database: str) -> None:
    assert committed(lambda session: attempts.claim_start(session, uuid.uuid4(), "w")) is None


@pytest.mark.parametrize(
    ("status", "goes_on"),
    [(STARTING, True), (RUNNING, True), (ROLLED_BACK, True), (LOST, True), (SUCCEEDED, False), (STOPPED, False)],
)
def test_end_start_call(clock: Clock, status: DispatchStatus, goes_on: bool) -> None:
    """S25, model: finish_accepts_running. False means: stop it, so only what is fenced gives False."""
    dispatch = make(status)
    assert committed(lambda session: attempts.end_start_call(session, dispatch.id, 4711)) is goes_on
    assert (now(dispatch).call_ended_at, now(dispatch).pid, now(dispatch).status) == (clock.now, 4711, status)


def test_end_start_call_of_one_that_was_replaced(clock: Clock) -> None:
    old = make(ROLLED_BACK)
    make(QUEUED, bead=bead_of(old))
    assert not committed(lambda session: attempts.end_start_call(session, old.id, None))
    assert not committed(lambda session: attempts.end_start_call(session, uuid.uuid4(), None))


def test_doubt_start(clock: Clock) -> None:
    """S05: nobody is inside the call any more, so the node is asked at once."""
    dispatch = make(STARTING)
    committed(lambda session: set_bead(session, dispatch.bead_id, wake_at=after(60)))
    assert committed(lambda session: attempts.doubt_start(session, dispatch.id)) == "here"
    assert (now(dispatch).status, now(dispatch).call_ended_at) == (STARTING, clock.now)  # doubt rolls nothing back
    assert bead_of(dispatch).wake_at == clock.now


@pytest.mark.parametrize("status", [QUEUED, RUNNING, ROLLED_BACK, STOPPED])
def test_doubt_start_that_is_settled(clock: Clock, status: DispatchStatus) -> None:
    dispatch = make(status)
    assert committed(lambda session: attempts.doubt_start(session, dispatch.id)) is None
    assert now(dispatch).call_ended_at is None


def test_doubt_starts_of_a_worker_that_came_back(clock: Clock) -> None:
    mine, ended = make(STARTING), make(STARTING, call_ended_at=after(-1))
    others, working = make(STARTING, claimed_by="other@there"), make(RUNNING)
    fresh = make(STARTING, claimed_by="worker@here/0123456789ab")  # claimed by the one that came back
    back = "worker@here/0123456789ab"
    assert committed(lambda session: attempts.doubt_starts_of(session, back)) == [mine.id]
    assert now(fresh).call_ended_at is None
    assert now(mine).call_ended_at == clock.now
    assert now(ended).call_ended_at == after(-1)
    assert now(others).call_ended_at is now(working).call_ended_at is None


# --- ends


@pytest.mark.parametrize(
    ("code", "failures", "least_s", "most_s"),
    [
        (ERROR, 0, 0, 0),
        (ERROR, 1, 27, 33),
        (ERROR, 2, 54, 66),
        (ERROR, 6, 540, 660),
        (FailureCode.START_TIMEOUT, 0, 30, 30),  # nobody knows whether it is there
        (FailureCode.START_TIMEOUT, 1, 30, 33),
    ],
)
def test_backoff_by_failures_in_a_row(
    clock: Clock, code: FailureCode, failures: int, least_s: float, most_s: float
) -> None:
    bead = committed(a_bead)
    for _ in range(failures):
        make(ROLLED_BACK, bead=bead)
    dispatch = make(STARTING, bead=bead)
    committed(lambda session: attempts.roll_back(session, dispatch.id, code, "x"))
    not_before = bead_of(dispatch).not_before or clock.now
    assert after(least_s) <= not_before <= after(most_s)


def test_backoff_counts_from_the_last_retry_by_hand(clock: Clock) -> None:
    bead = committed(a_bead)
    for _ in range(3):
        make(ROLLED_BACK, bead=bead)
    committed(lambda session: set_bead(session, bead.id, attempts_from=3))
    dispatch = make(STARTING, bead=bead)
    committed(lambda session: attempts.roll_back(session, dispatch.id, ERROR, "x"))
    assert bead_of(dispatch).not_before is None


def test_backoff_is_stored_once(clock: Clock) -> None:
    """A jitter drawn anew with each look would never let a bead start, or start it early."""
    dispatch = make(STARTING, bead=bead_of(make(LOST)))
    committed(lambda session: attempts.roll_back(session, dispatch.id, ERROR, "x"))
    stored = bead_of(dispatch).not_before
    assert not committed(lambda session: attempts.roll_back(session, dispatch.id, ERROR, "x"))
    assert bead_of(dispatch).not_before == stored


def test_lose(clock: Clock) -> None:
    """Agent idle with its hook, bead due; only running ones can be lost."""
    dispatch = make(RUNNING)
    assert committed(lambda session: attempts.lose(session, dispatch.id, FailureCode.VANISHED, "gone", 9))
    assert (now(dispatch).status, now(dispatch).exit_code) == (LOST, 9)
    assert (agent_of(dispatch).status, agent_of(dispatch).bead_id) == (AgentStatus.IDLE, dispatch.bead_id)
    assert bead_of(dispatch).wake_at == clock.now
    for status in (QUEUED, STARTING, SUCCEEDED, FAILED, STOPPED, ROLLED_BACK, LOST):
        other = make(status)
        assert not committed(lambda session, each=other: attempts.lose(session, each.id, ERROR, "x"))
        assert now(other).status == status
    assert not committed(lambda session: attempts.lose(session, uuid.uuid4(), ERROR, "x"))


def test_a_long_message_keeps_its_end(clock: Clock) -> None:
    dispatch = make(STARTING)
    lines = [f"line {number} of many" for number in range(1000)]
    committed(lambda session: attempts.roll_back(session, dispatch.id, ERROR, "\n".join([*lines, "the end"])))
    message = now(dispatch).message
    assert message is not None
    assert len(message) <= attempts.MESSAGE_CHARACTERS
    note, *shown = message.splitlines()
    assert (note, shown) == (f"... {1001 - len(shown)} earlier lines", [*lines[1001 - len(shown) :], "the end"])
    assert len(shown) > 100


@pytest.mark.parametrize("present", [True, False])
@pytest.mark.parametrize("status", [STARTING, RUNNING])
def test_note_seen(clock: Clock, status: DispatchStatus, present: bool) -> None:
    dispatch = make(status)
    committed(lambda session: set_bead(session, dispatch.bead_id, wake_at=after(60)))
    note = lambda session: attempts.note_seen(session, dispatch.id, clock.now, present, 3, False)  # noqa: E731
    assert committed(note) is not present
    assert (now(dispatch).seen, now(dispatch).seen_exit_code) == ("present" if present else "absent", 3)
    assert bead_of(dispatch).wake_at == (after(60) if present else clock.now)
    assert now(dispatch).status == status  # an inspection decides nothing


@pytest.mark.parametrize("status", [SUCCEEDED, LOST, STOPPED])
def test_note_seen_of_what_is_over(clock: Clock, status: DispatchStatus) -> None:
    dispatch = make(status)
    assert not committed(lambda session: attempts.note_seen(session, dispatch.id, clock.now, False, None, False))
    assert now(dispatch).seen is None


# --- moves and locks


def test_a_move_that_is_not_drawn_is_refused(clock: Clock) -> None:
    dispatch = make(SUCCEEDED)
    with pytest.raises(ValueError, match=r"dispatches: succeeded -> running is not drawn"):
        committed(lambda session: move(session, Dispatch, dispatch.id, SUCCEEDED, RUNNING))
    sources = (BeadStatus.OPEN, BeadStatus.CLOSED)
    with pytest.raises(ValueError, match="closed -> in_progress is not drawn"):
        committed(lambda session: move(session, Bead, dispatch.bead_id, sources, BeadStatus.IN_PROGRESS))
    with pytest.raises(ValueError, match=r"by move\(\) alone"):
        committed(lambda session: set_bead(session, dispatch.bead_id, status="closed"))


def test_a_lost_move_says_so(clock: Clock) -> None:
    dispatch = make(RUNNING)
    assert not committed(lambda session: move(session, Dispatch, dispatch.id, QUEUED, STARTING))
    assert now(dispatch).status == RUNNING


@pytest.mark.usefixtures("products_deadlines")
def test_a_held_lock_is_an_error_in_two_seconds(clock: Clock) -> None:
    """Each wait has a deadline. It is temporary: the same again may work."""
    dispatch = make(RUNNING)
    with transaction() as session:
        lock_bead(session, dispatch.bead_id)
        began = session.scalars(select(func.clock_timestamp())).one()
        with pytest.raises(DatabaseUnavailable, match="lock timeout"):
            beat(dispatch)
        waited = session.scalars(select(func.clock_timestamp())).one() - began
    assert waited > timedelta(
        seconds=1.5
    )  # and not for the 5 s that a statement may take: that error says another thing


def test_every_change_of_an_attempt_waits_for_the_bead(clock: Clock) -> None:
    """Model: row_lock."""
    changes: dict[str, tuple[DispatchStatus, Callable[[Session, Dispatch], Any]]] = {
        "claim_start": (QUEUED, lambda session, each: attempts.claim_start(session, each.id, "w")),
        "end_start_call": (STARTING, lambda session, each: attempts.end_start_call(session, each.id, 1)),
        "doubt_start": (STARTING, lambda session, each: attempts.doubt_start(session, each.id)),
        "roll_back": (STARTING, lambda session, each: attempts.roll_back(session, each.id, ERROR, "x")),
        "lose": (RUNNING, lambda session, each: attempts.lose(session, each.id, ERROR, "x")),
        "note_seen": (
            RUNNING,
            lambda session, each: attempts.note_seen(session, each.id, clock.now, True, None, False),
        ),
        "cancel": (RUNNING, lambda session, each: work.cancel(session, each.town_id, each.bead_id)),
        "hold": (RUNNING, lambda session, each: work.hold(session, each.town_id, each.bead_id, "x")),
    } | {name: (RUNNING, call) for name, call in CALLS.items()}
    locked = {name: make(status) for name, (status, _change) in changes.items()}
    with transaction() as holder:
        for dispatch in locked.values():
            lock_bead(holder, dispatch.bead_id)
        for name, (_status, change) in changes.items():
            with transaction() as session:
                session.execute(select(func.set_config("lock_timeout", "20ms", True)))
                with pytest.raises(OperationalError, match="lock timeout"):
                    change(session, locked[name])
                session.rollback()


def test_the_database_hears_of_one_policy(clock: Clock) -> None:
    """A rig's override is in force for its attempts (S24)."""
    with transaction() as session:
        rig = a_rig(session, policy={"heartbeat_lease_s": 100, "attempt_cap_usd": 2.5})
        dispatch = attempts.create_dispatch(session, a_bead(session, rig), a_node(session).id)
        rig.policy = {}  # what is under way keeps the numbers that it was made with
    beat(dispatch)
    assert (now(dispatch).lease_expires_at, now(dispatch).cap_usd) == (after(100), 2.5)
    assert Policy().heartbeat_lease_s == 45


def test_first_calls_and_ends_are_in_the_journal(clock: Clock) -> None:
    dispatch = make(STARTING)
    beat(dispatch)
    beat(dispatch)
    committed(lambda session: attempts.lose(session, dispatch.id, FailureCode.HEARTBEAT_LOST, "silent"))
    beat(dispatch)
    with transaction() as session:
        kinds = list(session.scalars(select(Event.kind).order_by(Event.id)))
        assert kinds == ["started", "lost", "adopted"]
        assert session.scalar(select(func.count()).select_from(Agent)) == 1
