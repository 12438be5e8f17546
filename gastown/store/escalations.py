"""What a person is asked to look at: once for each cause, until it is settled.

Causes begin with what they are about: `failed:BEAD`, `asked:DISPATCH:DIGEST` (an agent asks), `blocker:BEAD`,
`infra:CODE`, `breaker`, `policy:town`, `policy:rig:ID`, `rule:BEAD`, `invariant:NAME`.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, func, or_, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from gastown.db import gastown_now
from gastown.errors import NotFound
from gastown.models import Bead, BeadDependency, Escalation
from gastown.store.moves import record

FAILED, ASKED, BLOCKER, RULE = "failed:", "asked:", "blocker:", "rule:"


def raise_once(
    session: Session,
    town_id: int,
    cause: str,
    message: str,
    *,
    bead_id: str | None = None,
    actor: str = "reconciler",
    dispatch_id: UUID | None = None,
    **data: Any,
) -> bool:
    """Ask a person, unless this cause is open already. False: it is."""
    values = {"town_id": town_id, "bead_id": bead_id, "cause": cause, "message": message}
    statement = insert(Escalation).values(**values).on_conflict_do_nothing().returning(Escalation.id)
    if session.scalar(statement) is None:
        return False
    more = {"cause": cause} | data
    record(session, town_id, "escalation", message, actor=actor, bead_id=bead_id, dispatch_id=dispatch_id, **more)
    return True


def asked_cause(dispatch_id: UUID, message: str) -> str:
    """An agent asks for a person: the same words from the same attempt are one request."""
    return f"{ASKED}{dispatch_id}:{hashlib.sha256(message.encode()).hexdigest()[:16]}"


def settle(session: Session, town_id: int, *causes: str) -> None:
    """These causes are gone: the next time is a new escalation."""
    _settle(session, Escalation.town_id == town_id, Escalation.cause.in_(causes))


def settle_bead(session: Session, bead: Bead) -> None:
    """A bead goes on, or has ended well: nothing is asked about it any more, nor about those that it held."""
    _settle(session, Escalation.bead_id == bead.id)
    waiting = select(BLOCKER + BeadDependency.bead_id).where(BeadDependency.blocker_id == bead.id)
    _settle(session, Escalation.town_id == bead.town_id, Escalation.cause.in_(waiting))


def _settle(session: Session, *which: ColumnElement[bool]) -> None:
    statement = update(Escalation).where(*which, Escalation.settled_at.is_(None)).values(settled_at=gastown_now())
    session.execute(statement.execution_options(synchronize_session=False))


def settle_by_hand(session: Session, town_id: int, escalation_id: int, *, actor: str = "user") -> str:
    """A person has seen it; what it said. Raises NotFound for one that is not there, or settled already."""
    found = session.get(Escalation, escalation_id)
    if found is None or found.town_id != town_id or found.settled_at is not None:
        raise NotFound("open request", escalation_id, hint="gastown inbox")
    _settle(session, Escalation.id == escalation_id)
    record(session, town_id, "settled", found.message, actor=actor, bead_id=found.bead_id, cause=found.cause)
    return found.message


@dataclass(frozen=True, kw_only=True)
class InboxRow:
    """One request to a person, and the command to type next."""

    id: int
    cause: str
    bead_id: str | None
    message: str
    raised_at: datetime
    settled_at: datetime | None
    command: str


def list_inbox(session: Session, town_id: int, *, everything: bool = False, limit: int = 100) -> list[InboxRow]:
    """The open ones, newest first; `everything`: settled ones as well."""
    query = select(Escalation).where(Escalation.town_id == town_id).order_by(Escalation.id.desc()).limit(limit)
    if not everything:
        query = query.where(Escalation.settled_at.is_(None))
    names = ("id", "cause", "bead_id", "message", "raised_at", "settled_at")
    return [
        InboxRow(**{name: getattr(row, name) for name in names}, command=command_for(row.cause, row.bead_id))
        for row in session.scalars(query)
    ]


def count_open(session: Session, town_id: int) -> int:
    query = select(func.count()).where(Escalation.town_id == town_id, Escalation.settled_at.is_(None))
    return session.scalars(query).one()


def open_causes(session: Session, town_id: int, prefixes: Iterable[str]) -> list[str]:
    starts = [Escalation.cause.startswith(prefix, autoescape=True) for prefix in prefixes]
    query = select(Escalation.cause).where(Escalation.town_id == town_id, Escalation.settled_at.is_(None), or_(*starts))
    return list(session.scalars(query.order_by(Escalation.cause)))


def command_for(cause: str, bead_id: str | None) -> str:
    """What to type next. Of a cause that this version does not know, what is known of its bead or of the town."""
    if cause.startswith(FAILED) and bead_id is not None:
        return f"gastown logs {bead_id}"
    if cause.startswith("policy:"):
        return "gastown config show"
    return "gastown why" if bead_id is None else f"gastown why {bead_id}"
