"""Agents: whose hook a bead is on, and who is free to take one."""

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from gastown.db import gastown_now
from gastown.models import Agent, Bead
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


def hooked_to(session: Session, bead_id: str) -> Agent | None:
    return session.scalar(select(Agent).where(Agent.bead_id == bead_id).with_for_update())


def free_for(session: Session, bead: Bead) -> Agent:
    """An idle agent of the rig, or a new one. Names are short, because people read them all day."""
    idle = (
        select(Agent)
        .where(Agent.rig_id == bead.rig_id, Agent.status == AgentStatus.IDLE, Agent.bead_id.is_(None))
        .order_by(Agent.id)
        .limit(1)
        .with_for_update(skip_locked=True)
    )
    agent = session.scalar(idle)
    if agent is not None:
        return agent
    taken = set(
        session.scalars(select(Agent.name).where(Agent.town_id == bead.town_id, Agent.status != AgentStatus.RETIRED))
    )
    number = 0
    while True:  # ends: there are infinitely many names
        suffix = "" if number == 0 else f"-{number + 1}"
        name = next((each + suffix for each in AGENT_NAMES if each + suffix not in taken), None)
        if name is not None:
            break
        number += 1
    agent = Agent(town_id=bead.town_id, rig_id=bead.rig_id, name=name)
    session.add(agent)
    session.flush()
    return agent


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
