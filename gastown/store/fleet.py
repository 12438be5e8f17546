"""Nodes and agents, as people look at them."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from gastown.models import Agent, Rig
from gastown.reconcile.town import node_is_resting, node_rests_until
from gastown.states import AgentStatus
from gastown.store.claims import clock
from gastown.store.load import load_town
from gastown.store.policies import load_policies


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
            )
        )
    return sorted(rows, key=lambda row: row.name)


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
