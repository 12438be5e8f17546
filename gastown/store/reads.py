"""What the tasks and the faces ask for. Reads only; nothing here takes a lock."""

from uuid import UUID

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from gastown.models import Bead, Dispatch, Node
from gastown.states import LIVE, TERMINAL, DispatchStatus
from gastown.store.attempts import is_fenced


def runtime_of_fenced(session: Session, dispatch_id: UUID) -> str | None:
    """The runtime of an attempt that is fenced, so may be stopped. None: it is live or may be adopted, or unknown."""
    dispatch = session.get(Dispatch, dispatch_id, populate_existing=True)
    if dispatch is None or not is_fenced(session, dispatch):
        return None
    return session.get_one(Node, dispatch.node_id).runtime


def finished_beads(session: Session, bead_ids: list[str]) -> list[str]:
    """Of these, the ones that are over, or that nobody knows."""
    unfinished = set(session.scalars(select(Bead.id).where(Bead.id.in_(bead_ids), Bead.status.not_in(TERMINAL))))
    return [each for each in bead_ids if each not in unfinished]


def runtime_of_node(session: Session, node: str) -> str | None:
    return session.scalar(select(Node.runtime).where(Node.name == node))


def busy_nodes(session: Session) -> list[str]:
    """Nodes with an attempt that ought to be there."""
    statement = (
        select(Node.name)
        .join(Dispatch, Dispatch.node_id == Node.id)
        .where(Dispatch.status.in_((DispatchStatus.STARTING, DispatchStatus.RUNNING)))
        .distinct()
    )
    return list(session.scalars(statement))


def all_nodes(session: Session) -> list[str]:
    return list(session.scalars(select(Node.name).order_by(Node.name)))


def inspectable(session: Session, node: str) -> list[tuple[UUID, str]]:
    """Attempts on this node whose presence says something: running, or starting with nobody inside the start call."""
    settled = or_(Dispatch.status == DispatchStatus.RUNNING, Dispatch.call_ended_at.is_not(None))
    statement = (
        select(Dispatch.id, Node.runtime)
        .join(Node, Node.id == Dispatch.node_id)
        .where(Node.name == node, Dispatch.status.in_(LIVE), settled)
    )
    return [(row.id, row.runtime) for row in session.execute(statement)]
