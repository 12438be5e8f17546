"""What a batch costs, in statements and rows: fixed for a hundred beads as for three, and the same whatever waits."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import event, select, text
from sqlalchemy.orm import Session

from gastown.agent.protocol import Done
from gastown.commands import attempt
from gastown.db import engine, transaction
from gastown.models import Bead, Dispatch, Town
from gastown.states import DispatchStatus
from gastown.store import attempts, views
from gastown.store.moves import wake
from gastown.tasks import reconcile as ticking
from tests.builders import BASE, HEAD, a_bead, a_node, a_rig, a_town, an_agent, an_attempt
from tests.conftest import Clock
from tests.ticks import batch, live
from tests.views import after

BAR = 8  # statements to decide about a hundred beads and to carry that out (DESIGN 10)
STARTING, RUNNING = DispatchStatus.STARTING, DispatchStatus.RUNNING
ROOMY = {"max_running": 1000, "rig_max_running": 1000}


@pytest.fixture
def roomy(town: Town) -> Town:
    with transaction() as session:
        a_node(session).capacity = 1000
        a_town(session).policy = ROOMY
    return town


@contextmanager
def counted() -> Iterator[list[str]]:
    """The statements that this process sends, without savepoints."""
    sent: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if not statement.startswith(("SAVEPOINT", "RELEASE")):
            sent.append(" ".join(statement.split()))

    event.listen(engine(), "before_cursor_execute", note)
    try:
        yield sent
    finally:
        event.remove(engine(), "before_cursor_execute", note)


def due(session: Session, count: int) -> None:
    """New beads."""
    for _ in range(count):
        a_bead(session)


def ready(session: Session, count: int) -> None:
    """Beads that nothing but a slot is missing for; every third has an agent of its own, as a retry has."""
    for number in range(count):
        bead = a_bead(session, wake_at=None, ready_at=after(0), not_before=after(-1), verdict="ready")
        if number % 3 == 0:
            an_agent(session, a_rig(session), bead_id=bead.id)


def absent(session: Session, count: int) -> None:
    """Starts that an inspection did not find."""
    for _ in range(count):
        an_attempt(session, STARTING, call_ended_at=after(0), seen="absent", seen_at=after(0))


def vanished(session: Session, count: int) -> None:
    """Attempts whose process is gone."""
    for _ in range(count):
        an_attempt(session, RUNNING, heartbeat_at=after(-1), seen="absent", seen_at=after(0))


def overtime(session: Session, count: int) -> None:
    """Attempts that have run for too long, so that they are asked to stop."""
    for _ in range(count):
        an_attempt(session, RUNNING, started_at=after(-100_000))


def stalled(session: Session, count: int) -> None:
    """Attempts that get nowhere, so that this is noted."""
    for _ in range(count):
        an_attempt(session, RUNNING, started_at=after(-1000), progress_at=after(-1000))


def working(session: Session, count: int) -> None:
    """Attempts at work, about which nothing has changed."""
    for _ in range(count):
        an_attempt(session, RUNNING)


Setting = Callable[[Session, int], None]


@pytest.fixture
def cost_of(roomy: Town, monkeypatch: pytest.MonkeyPatch) -> Callable[[Setting, int], list[int]]:
    """Statements of one batch about so many beads: to decide about the due ones, about the ready ones, and in all."""
    decide = ticking._decide

    def count(setting: Setting, beads: int) -> list[int]:
        with transaction() as session:
            session.execute(text("UPDATE beads SET wake_at = NULL, ready_at = NULL"))
            session.execute(text("UPDATE dispatches SET status = 'stopped', code = 'held', ended_at = gastown_now()"))
            session.execute(text("UPDATE agents SET status = 'idle', bead_id = NULL"))
            setting(session, beads)
        costs = []
        with counted() as sent, transaction() as session:

            def decide_counted(*args: Any) -> Any:
                before = len(sent)
                effects = decide(*args)
                costs.append(len(sent) - before)
                return effects

            monkeypatch.setattr(ticking, "_decide", decide_counted)
            batch(session, roomy)
        return [*costs, len(sent)]

    return count


@pytest.mark.parametrize("setting", [due, ready, absent, vanished, overtime, stalled, working])
def test_statements_do_not_grow_with_the_batch(cost_of: Callable[[Setting, int], list[int]], setting: Setting) -> None:
    few, many = cost_of(setting, 4), cost_of(setting, 100)
    assert many == few
    assert max(many[:2]) <= BAR
    with transaction() as session:
        looked = session.scalars(select(Bead.id).where(Bead.looked_at.is_not(None))).all()
    assert len(looked) == 104


def test_a_lost_race_in_a_batch_costs_statements_and_no_bead(roomy: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it cannot all go at once, it goes one by one."""
    with transaction() as session:
        absent(session, 20)
        taken = session.scalars(select(Dispatch).order_by(Dispatch.bead_id)).all()[7]
    load = views.load_views

    def called_meanwhile(session: Session, *args: Any) -> Any:
        found = load(session, *args)
        if len(found) == 20:
            attempts.admit(session, taken.id)
        return found

    monkeypatch.setattr(views, "load_views", called_meanwhile)
    with transaction() as session:
        batch(session, roomy)
    with transaction() as session:
        statuses = dict(session.execute(select(Dispatch.epoch, Dispatch.status).where(Dispatch.id == taken.id)).all())
        assert statuses == {1: RUNNING}
        due_again = session.scalars(select(Bead.id).where(Bead.wake_at <= after(0))).all()
        assert taken.bead_id in due_again
    assert len([each for each in live() if each.epoch == 1]) == 1


def test_what_a_finished_attempt_writes_while_ten_thousand_wait(town: Town, clock: Clock) -> None:
    """DESIGN 10: not more than 20 rows, its successor's start among them."""
    with transaction() as session:
        a_town(session).policy = {"max_running": 1, "rig_max_running": 1}
        rig = a_rig(session)
        dispatch = an_attempt(session, RUNNING)
        session.execute(
            text(
                "INSERT INTO beads (id, town_id, rig_id, title, ready_at, verdict) SELECT 'gt-w' || n, :town, :rig, "
                "'waits', gastown_now(), 'ready' FROM generate_series(1, 10000) n"
            ),
            {"town": town.id, "rig": rig.id},
        )
        wake(session, dispatch.bead_id)
    ticking.reconcile_town(town.id)
    clock.advance(1)
    with transaction() as session, rows_written(session) as finishing:
        attempts.admit(session, dispatch.id)
        attempt.finish(session, dispatch.id, Done(outcome="succeeded", base_sha=BASE, head_sha=HEAD))
    with transaction() as session, rows_written(session) as deciding:
        assert batch(session, town).worked
    assert [each.bead_id for each in live()] == ["gt-w1"]
    assert finishing[0] + deciding[0] <= 20
    with transaction() as session, rows_written(session) as resting:
        assert not batch(session, town).worked
    assert resting == [0]  # nothing for those that go on waiting


@contextmanager
def rows_written(session: Session) -> Iterator[list[int]]:
    """How many rows this transaction inserts, updates and deletes within, once that is over."""
    rows = text("SELECT sum(n_tup_ins + n_tup_upd + n_tup_del) FROM pg_stat_xact_user_tables")
    before = int(session.scalar(rows) or 0)  # what earlier transactions of this connection have not reported yet
    written: list[int] = []
    yield written
    session.flush()
    written.append(int(session.scalar(rows) or 0) - before)
