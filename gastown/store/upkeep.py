"""Partitions and retention."""

from datetime import date, timedelta

from sqlalchemy import delete, select, text
from sqlalchemy.orm import Session

from gastown.db import gastown_now
from gastown.models import DecisionRow, Event
from gastown.reconcile.policy import Policy
from gastown.settings import get_settings

AHEAD_DAYS = 7
LOG_DAYS = 14
DECISION_DAYS = 30
EVENT_DAYS = 90


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


def drop_old(session: Session) -> None:
    oldest = _today(session) - timedelta(days=LOG_DAYS)
    partitions = text("SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'log_chunks'::regclass")
    for name in session.scalars(partitions).all():
        suffix = name.removeprefix("log_chunks_")
        if suffix.isdigit() and suffix < f"{oldest:%Y%m%d}":
            session.execute(text(f"DROP TABLE {name}"))
    session.execute(text("DELETE FROM log_chunks_default WHERE day < :oldest"), {"oldest": oldest})
    session.execute(delete(DecisionRow).where(DecisionRow.at < gastown_now() - timedelta(days=DECISION_DAYS)))
    session.execute(delete(Event).where(Event.at < gastown_now() - timedelta(days=EVENT_DAYS)))


def _today(session: Session) -> date:
    return session.scalars(select(gastown_now())).one().date()
