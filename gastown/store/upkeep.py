"""Partitions and retention."""

from collections.abc import Callable
from datetime import date, timedelta

from sqlalchemy import delete, func, select, text
from sqlalchemy.orm import Session

from gastown.db import gastown_now
from gastown.models import Agent, DecisionRow, Escalation, Event, RateLimit, Town
from gastown.reconcile.policy import Policy
from gastown.settings import get_settings
from gastown.states import AgentStatus
from gastown.store.moves import move_many
from gastown.store.policies import load_policies

AHEAD_DAYS = 7
LOG_DAYS = 14
DECISION_DAYS = 30
EVENT_DAYS = 90
ESCALATION_DAYS = 90  # after they were settled; open ones stay
RATE_LIMIT_DAYS = 30  # after the pause ended: a next one is a first one again
BATCH = 1000  # rows of one transaction: far below the 5 s that a statement has


def node_capacity() -> int:
    return Policy.of(get_settings().policy).node_max_running


def make_partitions(session: Session) -> None:
    """One for each of the next days. Chunks of a day without one are in the default partition, and stay there."""
    today = _today(session)
    taken = text("SELECT 1 FROM log_chunks_default WHERE day = :day LIMIT 1")
    for day in (today + timedelta(days=ahead) for ahead in range(AHEAD_DAYS)):
        if session.scalar(taken, {"day": day}) is None:
            session.execute(
                text(
                    f"CREATE TABLE IF NOT EXISTS log_chunks_{day:%Y%m%d} PARTITION OF log_chunks "
                    f"FOR VALUES FROM ('{day}') TO ('{day + timedelta(days=1)}')"
                )
            )


def old_partitions(session: Session) -> list[str]:
    oldest = f"{_oldest_day(session):%Y%m%d}"
    partitions = text("SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'log_chunks'::regclass")
    suffixes = {name: name.removeprefix("log_chunks_") for name in session.scalars(partitions)}
    return sorted(name for name, suffix in suffixes.items() if suffix.isdigit() and suffix < oldest)


def drop_partition(session: Session, name: str) -> None:
    """One of `old_partitions`. It needs a lock on all of log_chunks for a moment, so each has its own transaction."""
    session.execute(text(f"DROP TABLE IF EXISTS {name}"))


def delete_chunks(session: Session) -> int:
    """Some of the old chunks that came before their day's partition; how many. Zero: none is left."""
    some = "SELECT ctid FROM log_chunks_default WHERE day < :oldest LIMIT :limit"
    statement = text(f"DELETE FROM log_chunks_default WHERE ctid = ANY (ARRAY({some})) RETURNING 1")
    return len(session.execute(statement, {"oldest": _oldest_day(session), "limit": BATCH}).all())


def delete_decisions(session: Session) -> int:
    return _delete(session, DecisionRow, DECISION_DAYS)


def delete_events(session: Session) -> int:
    return _delete(session, Event, EVENT_DAYS)


def _delete(session: Session, model: type[DecisionRow | Event], days: int) -> int:
    """The old ones of those with the smallest ids, found through the primary key: ids grow with time."""
    first = select(model.id).order_by(model.id).limit(BATCH).scalar_subquery()
    old = model.at < gastown_now() - timedelta(days=days)
    statement = delete(model).where(model.id.in_(first), old).returning(model.id)
    return len(session.execute(statement.execution_options(synchronize_session=False)).all())


def delete_escalations(session: Session) -> int:
    old = Escalation.settled_at < gastown_now() - timedelta(days=ESCALATION_DAYS)
    some = select(Escalation.id).where(old).order_by(Escalation.id).limit(BATCH)
    statement = delete(Escalation).where(Escalation.id.in_(some), old).returning(Escalation.id)
    return len(session.execute(statement.execution_options(synchronize_session=False)).all())


def delete_rate_limits(session: Session) -> int:
    """All at once: there is one for each preset of a town at most."""
    old = RateLimit.until < gastown_now() - timedelta(days=RATE_LIMIT_DAYS)
    statement = delete(RateLimit).where(old).returning(RateLimit.preset)
    return len(session.execute(statement.execution_options(synchronize_session=False)).all())


def retire_agents(session: Session) -> int:
    """Agents that nobody needed for as long as their town says, at most BATCH of them; how many. Their names are free.

    One that holds a bead is never idle in this sense, whatever its status.
    """
    retired = 0
    for town_id in session.scalars(select(Town.id).order_by(Town.id)).all():
        idle_for = gastown_now() - func.coalesce(Agent.idle_since, Agent.created_at)
        longest = timedelta(seconds=load_policies(session, town_id).town.agent_idle_s)
        unneeded = (Agent.town_id == town_id, Agent.status == AgentStatus.IDLE, Agent.bead_id.is_(None))
        query = select(Agent.id).where(*unneeded, idle_for >= longest).order_by(Agent.id).limit(BATCH)
        agents = session.scalars(query.with_for_update(skip_locked=True)).all()
        retired += len(move_many(session, Agent, agents, AgentStatus.IDLE, AgentStatus.RETIRED))
    return retired


DELETIONS: tuple[Callable[[Session], int], ...] = (
    delete_chunks,
    delete_decisions,
    delete_events,
    delete_escalations,
    delete_rate_limits,
)


def _oldest_day(session: Session) -> date:
    return _today(session) - timedelta(days=LOG_DAYS)


def _today(session: Session) -> date:
    return session.scalars(select(gastown_now())).one().date()
