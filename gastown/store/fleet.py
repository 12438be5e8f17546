"""Nodes and agents, as people look at them."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import select
from sqlalchemy.orm import Session

from gastown.db import gastown_now
from gastown.errors import NotFound
from gastown.models import Agent, Bead, Dispatch, Node, Rig
from gastown.reconcile.town import node_is_resting, node_rests_until
from gastown.states import LIVE, AgentStatus
from gastown.store import members
from gastown.store.claims import clock
from gastown.store.load import load_town
from gastown.store.members import Member
from gastown.store.policies import load_policies

SILENT_FOR = timedelta(days=1)  # then nobody reads what a node was sent
NOT_LONGER_THAN = timedelta(days=8)  # by then its queues were dropped for a week
SHOWN = 50  # attempts


@dataclass(frozen=True, kw_only=True)
class NodeRow:
    name: str
    state: str  # alive, silent, draining, drained (nothing runs there any more), resting (its breaker is open), trying
    used: int  # live attempts, of all towns
    capacity: int
    heartbeat_at: datetime
    rests_until: datetime | None
    closed_at: datetime | None  # somebody drains it
    failure: str  # the last of the failed starts that made it rest
    runtime: str
    labels: tuple[str, ...]
    refused: str  # why a worker that would be of this node is not let in


def list_nodes(session: Session, town_id: int) -> list[NodeRow]:
    now, policies = clock(session), load_policies(session, town_id)
    rows = []
    for node in load_town(session, town_id, now, policies).nodes:
        until = node_rests_until(node, policies.town)
        state = "alive"
        if not node.alive:
            state = "silent"
        elif node.draining:
            state = "drained" if node.closed_at is not None and node.used == 0 else "draining"
        elif until is not None:
            state = "resting" if node_is_resting(node, now, policies.town) and now < until else "trying"
        rows.append(
            NodeRow(
                name=node.name,
                state=state,
                used=node.used,
                capacity=node.capacity,
                heartbeat_at=node.heartbeat_at,
                rests_until=until,
                closed_at=node.closed_at,
                failure="" if until is None else node.failure,
                runtime=node.runtime,
                labels=node.labels,
                refused=node.refused,
            )
        )
    return sorted(rows, key=lambda row: row.name)


@dataclass(frozen=True, kw_only=True)
class LiveAttempt:
    """What runs on a node, of any town."""

    bead_id: str
    epoch: int
    status: str
    town_id: int
    title: str
    since: datetime


@dataclass(frozen=True, kw_only=True)
class NodeDetail:
    node: NodeRow
    identity: str | None  # two of one name are told apart by it
    version: str | None  # of the worker that beat last
    images: dict[str, str]  # by preset, "*" for any; of nodes with containers
    workers: tuple[Member, ...]
    attempts: tuple[LiveAttempt, ...]  # the oldest first, not all of very many
    created_at: datetime


def show_node(session: Session, town_id: int, name: str) -> NodeDetail:
    """Raises NotFound."""
    row = next((each for each in list_nodes(session, town_id) if each.name == name), None)
    if row is None:
        raise NotFound("node", name, hint="gastown node list")
    node = session.scalars(select(Node).where(Node.name == name)).one()
    query = select(Dispatch, Bead.title).join(Bead, Bead.id == Dispatch.bead_id)
    query = query.where(Dispatch.node_id == node.id, Dispatch.status.in_(LIVE))
    attempts = tuple(
        LiveAttempt(
            bead_id=found.Dispatch.bead_id,
            epoch=found.Dispatch.epoch,
            status=found.Dispatch.status,
            town_id=found.Dispatch.town_id,
            title=found.title,
            since=found.Dispatch.queued_at,
        )
        for found in session.execute(query.order_by(Dispatch.queued_at).limit(SHOWN))
    )
    return NodeDetail(
        node=row,
        identity=node.identity,
        version=node.version,
        images={preset: str(node.images[preset]) for preset in members.words(node.images)},
        workers=tuple(members.read(node.workers)),
        attempts=attempts,
        created_at=node.created_at,
    )


def silent_nodes(session: Session) -> list[str]:
    """Those of which no worker has been seen for a day, removed or not. Long gone ones are left out."""
    silent_for = gastown_now() - Node.heartbeat_at
    query = select(Node.name).where(silent_for > SILENT_FOR, silent_for < NOT_LONGER_THAN)
    return list(session.scalars(query.order_by(Node.name)))


@dataclass(frozen=True, kw_only=True)
class AgentRow:
    name: str
    rig: str
    role: str
    status: str
    bead_id: str | None
    idle_since: datetime | None
    created_at: datetime


def list_agents(session: Session, town_id: int, *, everything: bool = False, limit: int = 1000) -> list[AgentRow]:
    """By name; `everything`: retired ones as well, whose names others may have by now."""
    query = select(Agent, Rig.name.label("rig_name")).join(Rig, Rig.id == Agent.rig_id)
    query = query.where(Agent.town_id == town_id).order_by(Agent.name, Agent.id).limit(limit)
    if not everything:
        query = query.where(Agent.status != AgentStatus.RETIRED)
    names = ("name", "role", "status", "bead_id", "idle_since", "created_at")
    return [
        AgentRow(rig=row.rig_name, **{name: getattr(row.Agent, name) for name in names})
        for row in session.execute(query)
    ]
