"""New attempts: one function for a batch of them as for one. The beads' rows are locked by the caller."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import func, text
from sqlalchemy.orm import Session

from gastown.db import gastown_now
from gastown.models import Agent, Bead
from gastown.reconcile.policy import Policy
from gastown.states import AgentStatus, BeadStatus
from gastown.store import agents
from gastown.store.moves import MoveLost, move_many
from gastown.store.views import LoadedBead

# The next epoch is read here, under the bead's lock. What held the bead back is over; the journal says who is at it.
_INSERT = text("""
WITH made AS (
    INSERT INTO dispatches (town_id, rig_id, bead_id, agent_id, node_id, epoch, preset, lease_s, cap_usd)
    SELECT b.town_id, b.rig_id, b.id, s.agent_id, s.node_id,
           1 + coalesce((SELECT max(d.epoch) FROM dispatches d WHERE d.bead_id = b.id), 0),
           coalesce(b.agent, r.agent, ''), s.lease_s, s.cap_usd
    FROM unnest(CAST(:bead_ids AS text[]), CAST(:agent_ids AS bigint[]), CAST(:node_ids AS bigint[]),
                CAST(:leases_s AS float8[]), CAST(:caps_usd AS float8[])) WITH ORDINALITY
         AS s (bead_id, agent_id, node_id, lease_s, cap_usd, place)
    JOIN beads b ON b.id = s.bead_id JOIN rigs r ON r.id = b.rig_id
    ORDER BY s.place
    RETURNING id, town_id, bead_id, agent_id, epoch
), cleared AS (
    UPDATE beads SET forced_at = NULL, not_before = NULL FROM made
    WHERE beads.id = made.bead_id AND (beads.forced_at IS NOT NULL OR beads.not_before IS NOT NULL)
), told AS (
    INSERT INTO events (town_id, bead_id, dispatch_id, actor, kind, message)
    SELECT made.town_id, made.bead_id, made.id, 'reconciler', 'dispatched',
           'attempt ' || made.epoch || ' by ' || agents.name
    FROM made JOIN agents ON agents.id = made.agent_id ORDER BY made.bead_id
)
SELECT bead_id, id FROM made""")


@dataclass(frozen=True, kw_only=True, slots=True)
class Start:
    """An attempt that is to be made."""

    bead_id: str
    town_id: int
    rig_id: int
    is_open: bool  # the bead's first attempt, or its first since somebody retried it
    node_id: int
    lease_s: float
    cap_usd: float | None  # reserved of the town's budget; None: no cap


def start_of(bead: Bead | LoadedBead, node_id: int, policy: Policy) -> Start:
    """With what the policy in force gives an attempt."""
    return Start(
        bead_id=bead.id,
        town_id=bead.town_id,
        rig_id=bead.rig_id,
        is_open=bead.status == BeadStatus.OPEN,
        node_id=node_id,
        lease_s=policy.heartbeat_lease_s,
        cap_usd=policy.attempt_cap_usd or None,
    )


def create_dispatches(session: Session, starts: Sequence[Start]) -> dict[str, UUID]:
    """A new epoch on each bead, by its own agent, an idle one or a new one: the ids by bead.

    Raises MoveLost when somebody was first with one of them.
    """
    chosen = _choose_agents(session, starts)
    bead_ids = [start.bead_id for start in starts]
    agent_ids = [chosen[bead_id] for bead_id in bead_ids]
    hooks = {"bead_id": bead_ids}
    moved = move_many(session, Agent, agent_ids, AgentStatus.IDLE, AgentStatus.WORKING, each=hooks, idle_since=None)
    if len(moved) < len(starts):
        raise MoveLost(f"agent {min(set(agent_ids) - moved)}")
    unopened = [start.bead_id for start in starts if start.is_open]
    if unopened:
        began = func.coalesce(Bead.started_at, gastown_now())
        opened = move_many(session, Bead, unopened, BeadStatus.OPEN, BeadStatus.IN_PROGRESS, started_at=began)
        if len(opened) < len(unopened):
            raise MoveLost(f"bead {min(set(unopened) - opened)}")
    values = {
        "bead_ids": bead_ids,
        "agent_ids": agent_ids,
        "node_ids": [start.node_id for start in starts],
        "leases_s": [start.lease_s for start in starts],
        "caps_usd": [start.cap_usd for start in starts],
    }
    return {row.bead_id: row.id for row in session.execute(_INSERT, values)}


def _choose_agents(session: Session, starts: Sequence[Start]) -> dict[str, int]:
    """By bead: the agent that is hooked to it, else an idle one of its rig, else a new one."""
    hooked, idle = agents.pick(session, [(start.bead_id, start.rig_id) for start in starts])
    chosen = dict(hooked)
    without: dict[int, list[str]] = defaultdict(list)
    for start in starts:
        if start.bead_id in chosen:
            continue
        if idle[start.rig_id]:
            chosen[start.bead_id] = idle[start.rig_id].pop(0)
        else:
            without[start.rig_id].append(start.bead_id)
    if without:
        rig_ids = [rig_id for rig_id, bead_ids in without.items() for _ in bead_ids]
        for agent_id, rig_id in agents.make(session, starts[0].town_id, rig_ids):
            chosen[without[rig_id].pop(0)] = agent_id
    return chosen
