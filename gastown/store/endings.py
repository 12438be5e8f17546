"""Attempts that end otherwise than by their own success: one function for a batch of them as for one.

The beads' rows are locked by the caller.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Interval, SmallInteger, Text, Uuid, func, select, update
from sqlalchemy.orm import Session, aliased

from gastown.agent.tail import last_lines
from gastown.db import gastown_now
from gastown.models import Agent, Bead, Dispatch
from gastown.reconcile.policy import Policy
from gastown.states import TERMINAL, AgentStatus, DispatchStatus, FailureClass, FailureCode, StopCode
from gastown.store import draws
from gastown.store.given import given_as
from gastown.store.moves import Note, move_many, record_many, set_beads

MESSAGE_CHARACTERS = 4000  # of a failure, kept on rows; the log has the rest
BACKED_OFF = (FailureClass.INFRA, FailureClass.AGENT, FailureClass.CONFIG)  # the others hold the bead, or its preset
STARTABLE = (DispatchStatus.QUEUED, DispatchStatus.STARTING)


@dataclass(frozen=True, kw_only=True, slots=True)
class Ending:
    """How one attempt ended. A long message keeps its last lines, where the error stands."""

    dispatch_id: UUID
    code: FailureCode | StopCode
    message: str
    exit_code: int | None = None

    @property
    def text(self) -> str:
        return last_lines(self.message.replace("\x00", ""), MESSAGE_CHARACTERS)


def end(
    session: Session,
    endings: Sequence[Ending],
    sources: tuple[DispatchStatus, ...],
    target: DispatchStatus,
    policies: Mapping[int, Policy],
) -> set[UUID]:
    """Each agent goes idle and keeps its hook, each bead is due after its backoff. Who is missing was not in `sources`.

    `policies`: of each rig that one of the attempts is on.
    """
    facts: dict[str, list[Any]] = {
        "code": [str(each.code) for each in endings],
        "failure_class": [_class_of(each.code) for each in endings],
        "message": [each.text for each in endings],
        "exit_code": [each.exit_code for each in endings],
    }
    ids = [each.dispatch_id for each in endings]
    moved: set[UUID] = move_many(session, Dispatch, ids, sources, target, each=facts, ended_at=gastown_now())
    if not moved:
        return moved
    rows = session.execute(_ended(moved)).all()
    agent_ids = [row.agent_id for row in rows]
    move_many(session, Agent, agent_ids, AgentStatus.WORKING, AgentStatus.IDLE, idle_since=gastown_now())
    known = {each.dispatch_id: each for each in endings}
    _charge(session, [(row, known[row.id], policies[row.rig_id]) for row in rows])
    notes = [
        Note(
            town_id=row.town_id,
            bead_id=row.bead_id,
            dispatch_id=row.id,
            message=f"attempt {row.epoch} {target.replace('_', ' ')} ({known[row.id].code}): {known[row.id].text}",
            data={"code": str(known[row.id].code)},
        )
        for row in rows
    ]
    record_many(session, str(target), notes, actor="gastown")
    return moved


def _class_of(code: FailureCode | StopCode) -> str | None:
    return None if code.failure_class is None else str(code.failure_class)


def _ended(moved: set[UUID]) -> Any:
    """The attempts in a fixed order, each with how many failures count for the backoff of its bead."""
    past = aliased(Dispatch)
    failures = (
        select(func.count())
        .where(
            past.bead_id == Dispatch.bead_id,
            past.epoch > Bead.attempts_from,
            past.failure_class.in_(BACKED_OFF),
        )
        .scalar_subquery()
    )
    columns = (Dispatch.id, Dispatch.town_id, Dispatch.rig_id, Dispatch.bead_id, Dispatch.agent_id, Dispatch.epoch)
    over = Bead.status.in_(TERMINAL).label("bead_is_over")
    rows = given_as(id=(Uuid(), sorted(moved)))
    query = select(*columns, over, failures.label("failures")).join(rows, rows.c.id == Dispatch.id)
    return query.join(Bead, Bead.id == Dispatch.bead_id).order_by(Dispatch.bead_id)


def _charge(session: Session, ended: Sequence[tuple[Any, Ending, Policy]]) -> None:
    """What it costs each bead: the failure is noted, and the next attempt waits. A stop by people is free.

    A bead that was closed while the attempt was live has no next one: it is only looked at, for its agent.
    """
    over = [row.bead_id for row, _ending, _policy in ended if row.bead_is_over]
    if over:
        set_beads(session, over, {}, wake_at=gastown_now())
        ended = [each for each in ended if not each[0].bead_is_over]
    due = [row.bead_id for row, ending, _policy in ended if ending.code.failure_class is None]
    if due:
        set_beads(session, due, {}, wake_at=gastown_now(), not_before=None)
    failed = [(row, ending, policy) for row, ending, policy in ended if ending.code.failure_class is not None]
    if not failed:
        return
    waits = given_as(
        id=(Text(), [row.bead_id for row, _ending, _policy in failed]),
        delay=(Interval(), [_delay(ending.code, row.failures, policy) for row, ending, policy in failed]),
        failure_class=(Text(), [_class_of(ending.code) for _row, ending, _policy in failed]),
        failure_code=(Text(), [str(ending.code) for _row, ending, _policy in failed]),
        failure_message=(Text(), [ending.text for _row, ending, _policy in failed]),
    )
    statement = (
        update(Bead)
        .where(Bead.id == waits.c.id)
        .values(
            wake_at=gastown_now(),
            not_before=gastown_now() + waits.c.delay,
            failure_class=waits.c.failure_class,
            failure_code=waits.c.failure_code,
            failure_message=waits.c.failure_message,
        )
    )
    session.execute(statement.execution_options(synchronize_session=False))


def _delay(code: FailureCode | StopCode, failures: int, policy: Policy) -> timedelta | None:
    """How long the bead waits; None: not at all, because something else holds it back."""
    if code.failure_class not in BACKED_OFF:
        return None
    delay = policy.backoff(failures, draws.jitter())
    if code is FailureCode.START_TIMEOUT:
        delay = max(delay, timedelta(seconds=policy.unknown_start_delay_s))
    return delay or None


@dataclass(frozen=True, kw_only=True, slots=True)
class Ask:
    """That one running attempt winds down."""

    dispatch_id: UUID
    code: StopCode
    reason: str


def ask_stops(
    session: Session,
    asks: Sequence[Ask],
    *,
    actor: str = "reconciler",
    sources: tuple[DispatchStatus, ...] = (DispatchStatus.RUNNING,),
) -> set[UUID]:
    """Attempts hear with their next heartbeat that they have to wind down. Who is missing is not in `sources` any more.

    One that is only starting hears it with its first one.
    """
    columns = (Dispatch.id, Dispatch.town_id, Dispatch.bead_id, Dispatch.epoch, Dispatch.stop_code)
    wanted = {ask.dispatch_id: ask for ask in asks}
    running = select(*columns).where(Dispatch.id.in_(wanted), Dispatch.status.in_(sources))
    rows = session.execute(running.order_by(Dispatch.bead_id)).all()
    unasked = [(row, wanted[row.id]) for row in rows if row.stop_code is None]
    if unasked:
        given = given_as(
            id=(Uuid(), [ask.dispatch_id for _row, ask in unasked]),
            code=(Text(), [str(ask.code) for _row, ask in unasked]),
            reason=(Text(), [ask.reason for _row, ask in unasked]),
        )
        statement = update(Dispatch).where(Dispatch.id == given.c.id)
        statement = statement.values(
            stop_code=given.c.code, stop_reason=given.c.reason, stop_asked_at=gastown_now()
        ).execution_options(synchronize_session=False)
        session.execute(statement)
        notes = [
            Note(
                town_id=row.town_id,
                bead_id=row.bead_id,
                dispatch_id=row.id,
                message=f"attempt {row.epoch} is asked to stop: {ask.reason}",
                data={"code": str(ask.code)},
            )
            for row, ask in unasked
        ]
        record_many(session, "stop_asked", notes, actor=actor)
    return {row.id for row in rows}


@dataclass(frozen=True, kw_only=True, slots=True)
class Stall:
    """That one running attempt gets nowhere, for as long as this tier says."""

    dispatch_id: UUID
    tier: int
    message: str


def note_stalls(session: Session, stalls: Sequence[Stall]) -> set[UUID]:
    """Noted once for each tier and attempt. Who is missing was noted, or runs no more."""
    given = given_as(
        id=(Uuid(), [stall.dispatch_id for stall in stalls]),
        tier=(SmallInteger(), [stall.tier for stall in stalls]),
    )
    statement = (
        update(Dispatch)
        .where(
            Dispatch.id == given.c.id,
            Dispatch.status == DispatchStatus.RUNNING,
            Dispatch.stall_tier < given.c.tier,
        )
        .values(stall_tier=given.c.tier)
        .returning(Dispatch.id, Dispatch.town_id, Dispatch.bead_id)
    )
    rows = {row.id: row for row in session.execute(statement.execution_options(synchronize_session=False))}
    notes = [
        Note(town_id=row.town_id, bead_id=row.bead_id, dispatch_id=row.id, message=stall.message)
        for stall in stalls
        if (row := rows.get(stall.dispatch_id)) is not None
    ]
    if notes:
        record_many(session, "stalled", notes, actor="reconciler")
    return set(rows)
