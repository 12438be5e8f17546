"""The guarded moves. Every status in the database is written here, and each write may lose (L2, L5)."""

from enum import StrEnum
from typing import Any

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from gastown.db import gastown_now
from gastown.models import Bead, Event
from gastown.states import is_legal


class MoveLost(Exception):
    """A compare-and-set hit no row: somebody else was first. Undoes one bead's savepoint, which stays due."""


def move(
    session: Session, model: Any, key: Any, source: StrEnum | tuple[StrEnum, ...], target: StrEnum, **values: Any
) -> bool:
    """Compare-and-set on the status of one row. False: it was not in `source` any more."""
    sources = source if isinstance(source, tuple) else (source,)
    for each in sources:
        if not is_legal(each, target):
            raise ValueError(f"{model.__tablename__}: {each} -> {target} is not drawn in gastown.states")
    statement = (
        update(model)
        .where(model.id == key, model.status.in_(sources))
        .values(status=target, **values)
        .returning(model.id)
        .execution_options(synchronize_session=False)
    )
    return session.execute(statement).first() is not None


def lock_bead(session: Session, bead_id: str) -> Bead | None:
    """The bead's row, locked. Every transaction that changes a bead, its attempts or its agent does this first."""
    statement = select(Bead).where(Bead.id == bead_id).with_for_update(key_share=True)
    return session.scalar(statement.execution_options(populate_existing=True))


def lock_beads(session: Session, bead_ids: set[str]) -> dict[str, Bead]:
    """Several, in ascending order of id, so that two transactions never wait for each other."""
    statement = select(Bead).where(Bead.id.in_(bead_ids)).order_by(Bead.id).with_for_update(key_share=True)
    return {bead.id: bead for bead in session.scalars(statement.execution_options(populate_existing=True))}


def wake(session: Session, *bead_ids: str) -> None:
    """Have the reconciler look at these beads now."""
    if bead_ids:
        statement = update(Bead).where(Bead.id.in_(bead_ids)).values(wake_at=func.least(Bead.wake_at, gastown_now()))
        session.execute(statement.execution_options(synchronize_session=False))


def set_bead(session: Session, bead_id: str, **values: Any) -> None:
    """Fields of a bead whose row is locked; never its status."""
    if "status" in values:
        raise ValueError("a status is written by move() alone")
    session.execute(
        update(Bead).where(Bead.id == bead_id).values(**values).execution_options(synchronize_session=False)
    )


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
