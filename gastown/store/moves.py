"""The guarded moves. Every status in the database is written here, and each write may lose (L2, L5)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import func, insert, literal, select, union, update
from sqlalchemy.orm import Session

from gastown.db import gastown_now
from gastown.models import Bead, BeadDependency, Event, MergeRequest
from gastown.states import is_legal
from gastown.store.given import given


class MoveLost(Exception):
    """A compare-and-set hit no row: somebody else was first. Undoes one bead's savepoint, which stays due."""


def move(
    session: Session, model: Any, key: Any, source: StrEnum | tuple[StrEnum, ...], target: StrEnum, **values: Any
) -> bool:
    """Compare-and-set on the status of one row. False: it was not in `source` any more."""
    statement = (
        update(model)
        .where(model.id == key, model.status.in_(_drawn(model, source, target)))
        .values(status=target, **values)
        .returning(model.id)
        .execution_options(synchronize_session=False)
    )
    return session.execute(statement).first() is not None


def move_many(
    session: Session,
    model: Any,
    keys: Sequence[Any],
    source: StrEnum | tuple[StrEnum, ...],
    target: StrEnum,
    each: Mapping[str, Sequence[Any]] | None = None,
    **values: Any,
) -> set[Any]:
    """The same for many rows in one statement; `each` has values row by row. The keys that moved: the others lost."""
    rows = given(model, id=keys, **(each or {}))
    statement = (
        update(model)
        .where(model.id == rows.c.id, model.status.in_(_drawn(model, source, target)))
        .values(status=target, **{name: rows.c[name] for name in each or {}}, **values)
        .returning(model.id)
        .execution_options(synchronize_session=False)
    )
    return set(session.scalars(statement))


def _drawn(model: Any, source: StrEnum | tuple[StrEnum, ...], target: StrEnum) -> tuple[StrEnum, ...]:
    sources = source if isinstance(source, tuple) else (source,)
    for one in sources:
        if not is_legal(one, target):
            raise ValueError(f"{model.__tablename__}: {one} -> {target} is not drawn in gastown.states")
    return sources


def lock_bead(session: Session, bead_id: str) -> Bead | None:
    """The bead's row, locked. Every transaction that changes a bead, its attempts or its agent does this first."""
    statement = select(Bead).where(Bead.id == bead_id).with_for_update(key_share=True)
    return session.scalar(statement.execution_options(populate_existing=True))


def lock_beads(session: Session, bead_ids: set[str]) -> dict[str, Bead]:
    """Several, in ascending order of id, so that two transactions never wait for each other."""
    statement = select(Bead).where(Bead.id.in_(bead_ids)).order_by(Bead.id).with_for_update(key_share=True)
    return {bead.id: bead for bead in session.scalars(statement.execution_options(populate_existing=True))}


def lock_with_dependants(session: Session, bead_id: str, *others: str) -> dict[str, Bead]:
    """The bead, all that wait for it, and others, by id: for whoever ends it or opens it again, and then wakes them.

    One that starts to wait for it meanwhile is locked late, by the wake: at worst that is a deadlock, and tried again.
    """
    return lock_beads(session, {bead_id, *others, *waiting_for(session, bead_id)})


def waiting_for(session: Session, bead_id: str) -> list[str]:
    """Who looks again when this bead ends or is opened again: its dependants, and the bead whose merge it is made for.

    Ascending.
    """
    dependants = select(BeadDependency.bead_id).where(BeadDependency.blocker_id == bead_id)
    made_for = select(MergeRequest.bead_id).join(Bead, Bead.mr_id == MergeRequest.id).where(Bead.id == bead_id)
    return sorted(session.scalars(union(dependants, made_for)))


def wake(session: Session, *bead_ids: str) -> None:
    """Have the reconciler look at these beads now."""
    if bead_ids:
        statement = update(Bead).where(Bead.id.in_(bead_ids)).values(wake_at=func.least(Bead.wake_at, gastown_now()))
        session.execute(statement.execution_options(synchronize_session=False))


def wake_unlocked(session: Session, *bead_ids: str) -> None:
    """The same without waiting for anybody who is at them, so it may come late in a transaction that has locked others.

    Only for beads that are looked at again soon in any case.
    """
    free = select(Bead.id).where(Bead.id.in_(bead_ids)).order_by(Bead.id)
    wake(session, *session.scalars(free.with_for_update(key_share=True, skip_locked=True)).all())


def set_bead(session: Session, bead_id: str, **values: Any) -> None:
    """Fields of a bead whose row is locked; never its status."""
    if "status" in values:
        raise ValueError("a status is written by move() alone")
    session.execute(
        update(Bead).where(Bead.id == bead_id).values(**values).execution_options(synchronize_session=False)
    )


def set_beads(session: Session, bead_ids: Sequence[str], each: Mapping[str, Sequence[Any]], **values: Any) -> None:
    """The same for many beads in one statement; `each` has values bead by bead."""
    if "status" in values or "status" in each:
        raise ValueError("a status is written by move_many() alone")
    rows = given(Bead, id=bead_ids, **each)
    statement = update(Bead).where(Bead.id == rows.c.id).values(**{name: rows.c[name] for name in each}, **values)
    session.execute(statement.execution_options(synchronize_session=False))


def record(
    session: Session,
    town_id: int,
    kind: str,
    message: str,
    *,
    actor: str,
    bead_id: str | None = None,
    dispatch_id: Any = None,
    **data: Any,
) -> None:
    """One line in the journal: who did what, and why."""
    session.add(
        Event(
            town_id=town_id,
            kind=kind,
            message=message,
            actor=actor,
            bead_id=bead_id,
            dispatch_id=dispatch_id,
            data=data,
        )
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Note:
    """What one line of the journal says of one bead."""

    town_id: int
    bead_id: str
    message: str
    dispatch_id: UUID | None = None
    data: Mapping[str, Any] = field(default_factory=dict)


def record_many(session: Session, kind: str, notes: Sequence[Note], *, actor: str) -> None:
    """Lines of one kind, in this order, in one statement."""
    rows = given(
        Event,
        town_id=[note.town_id for note in notes],
        bead_id=[note.bead_id for note in notes],
        dispatch_id=[note.dispatch_id for note in notes],
        message=[note.message for note in notes],
        data=[dict(note.data) for note in notes],
    )
    names = ["town_id", "bead_id", "dispatch_id", "message", "data", "kind", "actor"]
    lines = select(*rows.c, literal(kind), literal(actor))
    session.execute(insert(Event).from_select(names, lines, include_defaults=False))
