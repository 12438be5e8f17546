"""Retention: what goes when, and what stays."""

from datetime import date, timedelta
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from sqlalchemy import func, select, text
from sqlalchemy.orm import Session

from gastown.beat_schedule import EVERYWHERE
from gastown.db import transaction
from gastown.models import Agent, DecisionRow, Escalation, Event, LogChunk, RateLimit, Rig, Town
from gastown.reconcile.policy import Policy
from gastown.states import DispatchStatus
from gastown.store import escalations, limits, upkeep
from gastown.store.moves import record
from gastown.store.reads import BEATING_S
from gastown.tasks import fleet, housekeeping
from tests.builders import a_bead, a_node, a_rig, a_town, an_agent, an_attempt
from tests.conftest import Clock
from tests.races import committed
from tests.ticks import take_messages
from tests.views import NOON

TODAY = NOON.date()
FIRST = UUID(int=1)


def partitions() -> list[str]:
    names = text("SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'log_chunks'::regclass ORDER BY 1")
    return committed(lambda session: list(session.scalars(names)))


def a_chunk(session: Session, day: date, dispatch_id: UUID = FIRST) -> None:
    session.add(LogChunk(day=day, dispatch_id=dispatch_id, seq=0, data=b"x"))
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
    housekeeping.drop_old()
    assert days_kept() == days
    clock.advance(86_400)
    housekeeping.drop_old()
    assert days_kept() == days[1:]


def test_settled_escalations_go_after_90_days_and_pauses_after_30(clock: Clock) -> None:
    def write(session: Session) -> None:
        town = a_town(session)
        for cause in ("open", "settled"):
            escalations.raise_once(session, town.id, cause, "look at this")
        limits.rest(session, town.id, "shell", None, "too many")

    def left() -> tuple[list[str], list[str]]:
        with transaction() as session:
            causes = session.scalars(select(Escalation.cause).order_by(Escalation.id)).all()
            return list(causes), list(session.scalars(select(RateLimit.preset)))

    committed(write)
    clock.advance(upkeep.RATE_LIMIT_DAYS * 86_400)
    committed(lambda session: escalations.settle(session, a_town(session).id, "settled"))
    housekeeping.drop_old()
    assert left() == (["open", "settled"], ["shell"])
    clock.advance(86_400)
    housekeeping.drop_old()
    assert left() == (["open", "settled"], [])
    clock.advance((upkeep.ESCALATION_DAYS - 1) * 86_400)
    housekeeping.drop_old()
    assert left()[0] == ["open", "settled"]
    clock.advance(1)
    housekeeping.drop_old()
    assert left()[0] == ["open"]


def test_decisions_go_after_30_days_and_events_after_90(clock: Clock) -> None:
    def write(session: Session) -> None:
        bead = a_bead(session)
        record(session, bead.town_id, "created", "x", actor="user", bead_id=bead.id)
        names = {"verdict": "held", "reason": "x", "rule": "hold", "view": {}}
        session.add(DecisionRow(town_id=bead.town_id, bead_id=bead.id, **names))

    def left() -> tuple[int | None, int | None]:
        housekeeping.drop_old()
        count = lambda model: committed(lambda session: session.scalar(select(func.count()).select_from(model)))  # noqa: E731
        return count(DecisionRow), count(Event)

    committed(write)
    seen = []
    for days in (29, 2, 58, 2):
        clock.advance(days * 86_400)
        seen.append(left())
    assert seen == [(1, 1), (0, 1), (0, 1), (0, 0)]


def test_many_rows_go_in_small_transactions(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """One transaction with everything ran into the limit of 5 s, and then nothing was ever dropped again."""
    monkeypatch.setattr(upkeep, "BATCH", 2)

    def write(session: Session) -> None:
        bead = a_bead(session)
        for number in range(5):
            record(session, bead.town_id, "created", str(number), actor="user", bead_id=bead.id)
        for _ in range(5):
            a_chunk(session, TODAY, uuid4())

    committed(write)
    clock.advance((upkeep.EVENT_DAYS + 1) * 86_400)
    committed(lambda session: record(session, 1, "created", "young", actor="user"))
    assert committed(upkeep.delete_events) == 2
    housekeeping.drop_old()
    assert committed(lambda session: session.scalars(select(Event.message)).all()) == ["young"]
    assert days_kept() == []


@pytest.mark.usefixtures("products_deadlines")
def test_a_step_that_fails_does_not_keep_the_others_from_theirs(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dump holds a lock on a table for as long as it takes."""
    committed(upkeep.make_partitions)
    first, second = partitions()[:2]
    clock.advance((upkeep.LOG_DAYS + 2) * 86_400)
    with transaction() as session:
        session.execute(text(f"LOCK TABLE {first} IN ACCESS SHARE MODE"))
        housekeeping.housekeeping()
    assert first in partitions()
    assert second not in partitions()


def test_each_node_that_is_there_tidies_its_own_disk(clock: Clock, own_home: Path) -> None:
    """Nobody else sees it. What a node that is away would be sent does not pile up."""
    left = own_home / "homes" / "gt-gone"
    left.mkdir(parents=True)
    with transaction() as session:
        a_node(session, "away")
    clock.advance(BEATING_S + 1)
    with transaction() as session:
        for name in ("local", "other"):
            a_node(session, name)
    housekeeping.housekeeping(EVERYWHERE)
    assert [take_messages(f"watch.{name}") for name in ("away", "local", "other")] == [
        [],
        [("gastown.housekeeping", ["local"])],
        [("gastown.housekeeping", ["other"])],
    ]
    housekeeping.housekeeping()
    housekeeping.housekeeping("other")
    assert left.exists()
    housekeeping.housekeeping("local")
    assert not left.exists()


def test_a_worker_that_is_back_tidies_at_once(clock: Clock) -> None:
    """Beat asks after an hour for the first time, and a laptop may never be up that long."""
    fleet.rejoin("worker@a", "n1")
    assert ("gastown.housekeeping", ["n1"]) in take_messages("watch.n1")
    assert ("gastown.housekeeping", []) in take_messages("upkeep")


def test_an_agent_that_nobody_needs_is_retired_and_its_name_is_free(clock: Clock) -> None:
    def build(session: Session) -> Rig:
        rig = a_rig(session)
        an_agent(session, rig, name="ace")
        an_attempt(session, DispatchStatus.RUNNING, rig=rig)
        an_attempt(session, DispatchStatus.LOST, rig=rig)  # its agent is idle, and keeps the hook
        return rig

    rig = committed(build)
    day = Policy().agent_idle_s
    clock.advance(day - 1)
    assert committed(upkeep.retire_agents) == 0
    clock.advance(1)
    with transaction() as session:
        session.get_one(Town, rig.town_id).policy = {"agent_idle_s": day + 5}
    assert committed(upkeep.retire_agents) == 0
    clock.advance(5)
    housekeeping.housekeeping()
    with transaction() as session:
        assert [(row.name, row.status) for row in session.scalars(select(Agent).where(Agent.bead_id.is_(None)))] == [
            ("ace", "retired")
        ]
        assert an_agent(session, rig, name="ace").status == "idle"
    assert committed(upkeep.retire_agents) == 0


def test_an_agent_that_is_just_given_a_bead_is_not_retired(clock: Clock) -> None:
    agent = committed(lambda session: an_agent(session, a_rig(session)))
    clock.advance(Policy().agent_idle_s)
    with transaction() as session:
        session.execute(select(Agent).where(Agent.id == agent.id).with_for_update())
        assert committed(upkeep.retire_agents) == 0
