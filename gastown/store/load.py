"""How much of a town is in use, and so what holds a bead about which nothing else is missing."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from gastown.models import Dispatch, Node, Rig, Service, Town
from gastown.reconcile.placement import NodeRoom, Room
from gastown.reconcile.policy import Policy
from gastown.settings import get_settings
from gastown.states import LIVE, Verdict
from gastown.store.policies import town_policy
from gastown.store.services import SILENCE_S
from gastown.store.views import API


@dataclass(frozen=True, kw_only=True)
class NodeLoad:
    name: str
    used: int
    capacity: int
    heartbeat_at: datetime
    alive: bool


@dataclass(frozen=True, kw_only=True)
class RigLoad:
    name: str
    used: int
    limit: int
    paused_at: datetime | None


@dataclass(frozen=True, kw_only=True)
class TownLoad:
    used: int
    limit: int
    paused_at: datetime | None
    rigs: dict[int, RigLoad]
    nodes: tuple[NodeLoad, ...]
    api_silent: bool

    @property
    def down(self) -> bool:
        """No part of Gastown shows a sign of life: nothing will happen, whatever the rules say."""
        return self.api_silent and not any(node.alive for node in self.nodes)


def load_town(session: Session, town_id: int, now: datetime) -> TownLoad:
    policy = town_policy(session, town_id)
    live = Dispatch.status.in_(LIVE)
    of_town = select(Dispatch.rig_id, func.count()).where(Dispatch.town_id == town_id, live)
    per_rig: dict[int, int] = dict(session.execute(of_town.group_by(Dispatch.rig_id)).all())
    of_all = select(Dispatch.node_id, func.count()).where(live)
    per_node: dict[int, int] = dict(session.execute(of_all.group_by(Dispatch.node_id)).all())
    known = session.scalars(select(Rig).where(Rig.town_id == town_id)).all()
    overrides = session.scalars(select(Town.policy).where(Town.id == town_id)).one()
    limits = {rig.id: Policy.of(get_settings().policy, overrides, rig.policy).rig_max_running for rig in known}
    nodes = [_node_load(node, per_node, now, policy) for node in session.scalars(select(Node).order_by(Node.name))]
    api_alive_at = session.scalar(select(Service.alive_at).where(Service.name == API))
    return TownLoad(
        used=sum(per_rig.values()),
        limit=policy.max_running,
        paused_at=session.scalars(select(Town.paused_at).where(Town.id == town_id)).one(),
        rigs={
            rig.id: RigLoad(name=rig.name, used=per_rig.get(rig.id, 0), limit=limits[rig.id], paused_at=rig.paused_at)
            for rig in known
        },
        nodes=tuple(nodes),
        api_silent=api_alive_at is None or api_alive_at < now - timedelta(seconds=SILENCE_S),
    )


def hold_of_ready(town: TownLoad, rig_id: int) -> tuple[Verdict, str]:
    """What keeps a ready bead of this rig from being started: the verdict, and its values."""
    rig = town.rigs[rig_id]
    alive = [node for node in town.nodes if node.alive]
    if town.paused_at is not None:
        return Verdict.PAUSED, f"the town is paused since {town.paused_at:%H:%M:%S} UTC"
    if rig.paused_at is not None:
        return Verdict.PAUSED, f"rig {rig.name} is paused since {rig.paused_at:%H:%M:%S} UTC"
    if not alive:
        return Verdict.NO_NODE, _no_node(town)
    if town.used >= town.limit:
        return Verdict.AT_CAPACITY, f"the town runs {town.used} of at most {town.limit} attempts (policy max_running)"
    if rig.used >= rig.limit:
        return (
            Verdict.AT_CAPACITY,
            f"rig {rig.name} runs {rig.used} of at most {rig.limit} attempts (policy rig_max_running)",
        )
    if all(node.used >= node.capacity for node in alive):
        full = ", ".join(f"{node.name} {node.used} of {node.capacity}" for node in alive)
        return Verdict.AT_CAPACITY, f"every node is full: {full}"
    return Verdict.READY, "a slot is free: the next tick starts it"


def _no_node(town: TownLoad) -> str:
    if not town.nodes:
        return "no worker has ever shown itself"
    last = max(town.nodes, key=lambda node: node.heartbeat_at)
    return f"no worker is alive; the last one was {last.name}, seen at {last.heartbeat_at:%H:%M:%S} UTC"


def _node_load(node: Node, used: dict[int, int], now: datetime, policy: Policy) -> NodeLoad:
    alive = node.heartbeat_at >= now - timedelta(seconds=policy.node_silence_s)
    return NodeLoad(
        name=node.name, used=used.get(node.id, 0), capacity=node.capacity, heartbeat_at=node.heartbeat_at, alive=alive
    )


def load_room(session: Session, town_id: int, now: datetime) -> Room:
    """Free slots of the town, of its rigs that are not paused, and of the nodes that are alive."""
    policy = town_policy(session, town_id)
    paused = session.scalars(select(Town.paused_at.is_not(None)).where(Town.id == town_id)).one()
    live = Dispatch.status.in_(LIVE)
    per_rig = dict(
        session.execute(
            select(Dispatch.rig_id, func.count()).where(Dispatch.town_id == town_id, live).group_by(Dispatch.rig_id)
        ).all()
    )
    per_node = dict(
        session.execute(select(Dispatch.node_id, func.count()).where(live).group_by(Dispatch.node_id)).all()
    )
    rigs = session.execute(select(Rig.id, Rig.policy).where(Rig.town_id == town_id, Rig.paused_at.is_(None))).all()
    silent = now - timedelta(seconds=policy.node_silence_s)
    nodes = session.scalars(select(Node).where(Node.heartbeat_at >= silent, Node.draining_at.is_(None))).all()
    return Room(
        town=0 if paused else policy.max_running - sum(per_rig.values()),
        rigs={rig.id: _rig_limit(policy, rig.policy) - per_rig.get(rig.id, 0) for rig in rigs},
        nodes=tuple(
            NodeRoom(node_id=node.id, name=node.name, free=node.capacity - per_node.get(node.id, 0)) for node in nodes
        ),
    )


def _rig_limit(policy: Policy, overrides: dict[str, object]) -> int:
    return int(overrides.get("rig_max_running", policy.rig_max_running))  # type: ignore[call-overload, no-any-return]
