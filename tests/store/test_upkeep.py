"""Retention: what goes when, and what stays."""

from datetime import date, timedelta

import pytest
from sqlalchemy import func, select, text
from sqlalchemy.orm import Session

from gastown.models import DecisionRow, Event, LogChunk
from gastown.store import upkeep
from gastown.store.moves import record
from tests.builders import a_bead
from tests.conftest import Clock
from tests.races import committed
from tests.views import NOON

TODAY = NOON.date()


def partitions() -> list[str]:
    names = text("SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'log_chunks'::regclass ORDER BY 1")
    return committed(lambda session: list(session.scalars(names)))


def a_chunk(session: Session, day: date) -> None:
    session.add(LogChunk(day=day, dispatch_id="00000000-0000-0000-0000-000000000001", seq=0, data=b"x"))
    session.flush()


def days_kept() -> list[date]:
    return committed(lambda session: list(session.scalars(select(LogChunk.day).order_by(LogChunk.day))))


def test_partitions_are_made_ahead_and_once(clock: Clock) -> None:
    for _ in range(2):
        committed(upkeep.make_partitions)
    expected = [f"log_chunks_{TODAY + timedelta(days=ahead):%Y%m%d}" for ahead in range(upkeep.AHEAD_DAYS)]
    assert partitions() == [*expected, "log_chunks_default"]
    clock.advance(86_400)
    committed(upkeep.make_partitions)
    assert len(partitions()) == upkeep.AHEAD_DAYS + 2


def test_a_day_that_began_without_its_partition_stays_in_the_default_one(clock: Clock) -> None:
    committed(lambda session: a_chunk(session, TODAY))
    committed(upkeep.make_partitions)
    assert f"log_chunks_{TODAY:%Y%m%d}" not in partitions()
    assert days_kept() == [TODAY]


@pytest.mark.parametrize("in_partition", [True, False])
def test_logs_go_after_14_days(clock: Clock, in_partition: bool) -> None:
    if in_partition:
        committed(upkeep.make_partitions)
    days = [TODAY, TODAY + timedelta(days=1)]
    for day in days:
        committed(lambda session, day=day: a_chunk(session, day))
    clock.advance(upkeep.LOG_DAYS * 86_400)
    committed(upkeep.drop_old)
    assert days_kept() == days
    clock.advance(86_400)
    committed(upkeep.drop_old)
    assert days_kept() == days[1:]


def test_decisions_go_after_30_days_and_events_after_90(clock: Clock) -> None:
    def write(session: Session) -> None:
        bead = a_bead(session)
        record(session, bead.town_id, "created", "x", actor="user", bead_id=bead.id)
        names = {"verdict": "held", "reason": "x", "rule": "hold", "view": {}}
        session.add(DecisionRow(town_id=bead.town_id, bead_id=bead.id, **names))

    def left() -> tuple[int | None, int | None]:
        committed(upkeep.drop_old)
        count = lambda model: committed(lambda session: session.scalar(select(func.count()).select_from(model)))  # noqa: E731
        return count(DecisionRow), count(Event)

    committed(write)
    seen = []
    for days in (29, 2, 58, 2):
        clock.advance(days * 86_400)
        seen.append(left())
    assert seen == [(1, 1), (0, 1), (0, 1), (0, 0)]
