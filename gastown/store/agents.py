"""Agents: whose hook a bead is on, and who is free to take one."""

from collections.abc import Sequence

from sqlalchemy import select, text, update
from sqlalchemy.orm import Session

from gastown.db import gastown_now
from gastown.models import Agent
from gastown.states import AgentStatus
from gastown.store.moves import move

AGENT_NAMES = [
    "ace",
    "birch",
    "cedar",
    "dusty",
    "ember",
    "flint",
    "gale",
    "hazel",
    "iris",
    "jasper",
    "kite",
    "lark",
    "moss",
    "nova",
    "onyx",
    "pike",
    "quill",
    "rowan",
    "sage",
    "thorn",
    "umber",
    "vale",
    "wren",
    "yarrow",
    "zephyr",
]


_PICK = text(f"""
WITH asked AS MATERIALIZED (
    SELECT * FROM unnest(CAST(:bead_ids AS text[]), CAST(:rig_ids AS bigint[])) AS asked (bead_id, rig_id)
), hooked AS MATERIALIZED (
    SELECT a.id, a.bead_id, a.rig_id FROM asked JOIN agents a ON a.bead_id = asked.bead_id
    ORDER BY a.id FOR UPDATE OF a
), wanted AS (
    SELECT rig_id, count(*) AS number FROM asked
    WHERE NOT EXISTS (SELECT FROM hooked WHERE hooked.bead_id = asked.bead_id) GROUP BY rig_id
)
SELECT id, rig_id, bead_id FROM hooked
UNION ALL
SELECT idle.id, idle.rig_id, NULL FROM wanted CROSS JOIN LATERAL (
    SELECT a.id, a.rig_id FROM agents a
    WHERE a.rig_id = wanted.rig_id AND a.status = '{AgentStatus.IDLE}' AND a.bead_id IS NULL
    ORDER BY a.id LIMIT wanted.number FOR UPDATE SKIP LOCKED
) idle
ORDER BY rig_id, id""")

# Rounds of names: ace, birch, ..., ace-2, birch-2, ... There are more rounds than the living agents can have used up.
_MAKE = text(f"""
WITH free AS (
    SELECT name, row_number() OVER (ORDER BY round, place) AS number
    FROM (SELECT base || CASE round WHEN 0 THEN '' ELSE '-' || round + 1 END AS name, round, place
          FROM unnest(CAST(:names AS text[])) WITH ORDINALITY AS names (base, place),
               generate_series(0, (SELECT count(*) FROM agents WHERE town_id = :town_id
                   AND status <> '{AgentStatus.RETIRED}') / cardinality(CAST(:names AS text[]))
                   + cardinality(CAST(:rig_ids AS bigint[])) / cardinality(CAST(:names AS text[])) + 1) AS round) each
    WHERE NOT EXISTS (SELECT FROM agents WHERE agents.town_id = :town_id AND agents.name = each.name
                      AND agents.status <> '{AgentStatus.RETIRED}')
)
INSERT INTO agents (town_id, rig_id, name)
SELECT :town_id, rigs.id, free.name
FROM unnest(CAST(:rig_ids AS bigint[])) WITH ORDINALITY AS rigs (id, number) JOIN free ON free.number = rigs.number
ORDER BY rigs.number
RETURNING id, rig_id""")


def pick(session: Session, beads: Sequence[tuple[str, int]]) -> tuple[dict[str, int], dict[int, list[int]]]:
    """Of beads with their rigs, locked: (by bead the agent that is hooked to it, by rig idle ones for the others)."""
    asked = {"bead_ids": [bead_id for bead_id, _rig_id in beads], "rig_ids": [rig_id for _bead_id, rig_id in beads]}
    hooked: dict[str, int] = {}
    idle: dict[int, list[int]] = {rig_id: [] for _bead_id, rig_id in beads}
    for row in session.execute(_PICK, asked):
        if row.bead_id is None:
            idle[row.rig_id].append(row.id)
        else:
            hooked[row.bead_id] = row.id
    return hooked, idle


def make(session: Session, town_id: int, rig_ids: Sequence[int]) -> list[tuple[int, int]]:
    """A new agent for each time a rig is named: (id, rig). Names are short, because people read them all day."""
    values = {"town_id": town_id, "rig_ids": list(rig_ids), "names": AGENT_NAMES}
    return [(row.id, row.rig_id) for row in session.execute(_MAKE, values)]


def hooked_to(session: Session, bead_id: str) -> Agent | None:
    return session.scalar(select(Agent).where(Agent.bead_id == bead_id).with_for_update())


def unhook(session: Session, bead_id: str) -> None:
    """Whatever agent holds the bead lets it go and is idle."""
    agent = hooked_to(session, bead_id)
    if agent is not None:
        move(session, Agent, agent.id, AgentStatus.WORKING, AgentStatus.IDLE, idle_since=gastown_now())
        session.execute(
            update(Agent).where(Agent.id == agent.id).values(bead_id=None).execution_options(synchronize_session=False)
        )


def free(session: Session, bead_id: str) -> None:
    """The agent that is hooked to the bead is idle, and keeps the hook."""
    agent = hooked_to(session, bead_id)
    if agent is not None:
        move(session, Agent, agent.id, AgentStatus.WORKING, AgentStatus.IDLE, idle_since=gastown_now())
