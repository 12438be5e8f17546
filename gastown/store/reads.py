"""What the tasks and the faces ask for. Reads only; nothing here takes a lock."""

from collections.abc import Iterable
from datetime import timedelta
from uuid import UUID

from sqlalchemy import and_, exists, not_, or_, select
from sqlalchemy.orm import Session, aliased

from gastown.db import gastown_now
from gastown.models import Agent, Bead, Dispatch, Node
from gastown.reconcile.actions import bead_named
from gastown.states import ADOPTABLE, LIVE, TERMINAL, BeadStatus, DispatchStatus
from gastown.store.attempts import is_fenced

BEATING_S = 600.0  # a node that is silent for longer has no worker that reads what it is sent


def runtime_of_fenced(session: Session, dispatch_id: UUID) -> str | None:
    """The runtime of an attempt that is fenced, so may be stopped. None: it is live or may be adopted, or unknown."""
    dispatch = session.get(Dispatch, dispatch_id, populate_existing=True)
    if dispatch is None or not is_fenced(session, dispatch):
        return None
    return session.get_one(Node, dispatch.node_id).runtime


def fenced_among(session: Session, dispatch_ids: Iterable[UUID]) -> list[UUID]:
    """Of these, the ones that are fenced; the same as `attempts.is_fenced` says of each. Nobody knows the others."""
    later = aliased(Dispatch)
    replaced = exists().where(later.bead_id == Dispatch.bead_id, later.epoch > Dispatch.epoch)
    hooked = exists().where(Agent.id == Dispatch.agent_id, Agent.bead_id == Dispatch.bead_id)
    wanted = and_(hooked, exists().where(Bead.id == Dispatch.bead_id, Bead.status == BeadStatus.IN_PROGRESS))
    adoptable = and_(Dispatch.status.in_(ADOPTABLE), not_(replaced))
    served = and_(wanted, or_(Dispatch.status.in_(LIVE), adoptable))
    statement = select(Dispatch.id).where(Dispatch.id.in_(list(dispatch_ids)), not_(served)).order_by(Dispatch.id)
    return list(session.scalars(statement))


def named_beads(session: Session, dispatch_ids: Iterable[UUID]) -> dict[UUID, str]:
    """The bead of each of these attempts, as messages name it."""
    statement = select(Dispatch.id, Bead.id, Bead.title).join(Bead, Bead.id == Dispatch.bead_id)
    rows = session.execute(statement.where(Dispatch.id.in_(list(dispatch_ids))))
    return {key: bead_named(bead_id, title) for key, bead_id, title in rows}


def finished_beads(session: Session, bead_ids: list[str]) -> list[str]:
    """Of these, the ones that are over, or that nobody knows."""
    unfinished = set(session.scalars(select(Bead.id).where(Bead.id.in_(bead_ids), Bead.status.not_in(TERMINAL))))
    return [each for each in bead_ids if each not in unfinished]


def runtime_of_node(session: Session, node: str) -> str | None:
    return session.scalar(select(Node.runtime).where(Node.name == node))


def busy_nodes(session: Session) -> list[str]:
    """Nodes with an attempt that ought to be there, and a worker of late that can look."""
    beating = Node.heartbeat_at > gastown_now() - timedelta(seconds=BEATING_S)
    statement = (
        select(Node.name)
        .join(Dispatch, Dispatch.node_id == Node.id)
        .where(Dispatch.status.in_((DispatchStatus.STARTING, DispatchStatus.RUNNING)), beating)
        .distinct()
    )
    return list(session.scalars(statement))


def beating_nodes(session: Session) -> list[str]:
    """Nodes with a worker of late. What is sent to the others is read by nobody, and would pile up."""
    beating = Node.heartbeat_at > gastown_now() - timedelta(seconds=BEATING_S)
    return list(session.scalars(select(Node.name).where(beating).order_by(Node.name)))
