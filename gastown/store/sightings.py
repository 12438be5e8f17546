"""What inspections of a node's attempts found, as facts for the rules: a few statements, however many attempts."""

from collections.abc import Iterable
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import or_, select, update
from sqlalchemy.orm import Session

from gastown.models import Dispatch, Node
from gastown.states import LIVE, DispatchStatus
from gastown.store import members

PRESENT = "present"


class Sought(NamedTuple):
    """An attempt that ought to be on its node."""

    dispatch_id: UUID
    runtime: str
    known_present: bool  # to see it again is no news


def inspectable(session: Session, node: str, identity: str | None = None) -> list[Sought]:
    """Attempts on this node whose presence says something: running, or starting with nobody inside the start call.

    `identity`: who it is that looks. On a machine that had this name before, they are absent, which proves nothing.
    """
    settled = or_(Dispatch.status == DispatchStatus.RUNNING, Dispatch.call_ended_at.is_not(None))
    statement = (
        select(Dispatch.id, Node.runtime, Node.identity, Dispatch.status, Dispatch.seen)
        .join(Node, Node.id == Dispatch.node_id)
        .where(Node.name == node, Dispatch.status.in_(LIVE), settled)
        .order_by(Dispatch.id)
    )
    return [
        Sought(row.id, row.runtime, row.status == DispatchStatus.RUNNING and row.seen == PRESENT)
        for row in session.execute(statement)
        if members.may_be(row.identity, identity)
    ]


def note_present(session: Session, dispatch_ids: Iterable[UUID], seen_at: datetime) -> None:
    """They were there when the inspection began. Beads are not locked: no rule ends an attempt because it is present.

    A row that somebody else writes at this moment is left out, so that nobody waits; the next inspection comes soon.
    """
    found = (
        select(Dispatch.id)
        .where(Dispatch.id.in_(list(dispatch_ids)), Dispatch.status.in_(LIVE))
        .where(or_(Dispatch.seen_at.is_(None), Dispatch.seen_at < seen_at))
        .order_by(Dispatch.id)
        .with_for_update(key_share=True, skip_locked=True)
        .cte("found")
    )
    statement = update(Dispatch).where(Dispatch.id == found.c.id)
    statement = statement.values(seen=PRESENT, seen_at=seen_at, seen_exit_code=None, seen_oom=False)
    session.execute(statement.execution_options(synchronize_session=False))
