"""Transactions: what is tried once more, what is called temporary, and which zone times are in."""

import threading
import time
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from sqlalchemy import create_engine, func, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from gastown import db
from gastown.cli.ask import ask
from gastown.db import gastown_now, in_transaction, transaction
from gastown.errors import DatabaseUnavailable
from gastown.settings import get_settings
from gastown.store.moves import lock_bead
from tests.builders import a_bead
from tests.races import committed, together


def test_a_deadlock_is_tried_once_more(database: str) -> None:
    beads = [committed(a_bead).id for _ in range(2)]
    both_have_one = threading.Barrier(2)
    one_is_through = threading.Event()
    tries: list[str] = []

    def lock(first: str, second: str) -> str:
        def work(session: Session) -> str:
            tries.append(first)
            if len(tries) > 2:
                assert one_is_through.wait(timeout=30)
            lock_bead(session, first)
            if len(tries) <= 2:
                both_have_one.wait(timeout=30)
            lock_bead(session, second)
            return "done"

        result = in_transaction(work)
        one_is_through.set()
        return result

    assert together(lambda: lock(*beads), lambda: lock(*reversed(beads))) == ["done", "done"]
    assert len(tries) == 3


def test_a_deadlock_again_is_temporary(database: str) -> None:
    tries: list[float] = []

    def always(session: Session) -> None:
        tries.append(time.monotonic())
        session.execute(text("DO $$ BEGIN RAISE SQLSTATE '40P01'; END $$"))

    with pytest.raises(DatabaseUnavailable, match="others were at the same rows"):
        in_transaction(always)
    first, second = tries
    assert second - first >= db.PAUSE_S[0]  # whoever waits for its rows has them by then


@pytest.mark.parametrize("state", ["53100", "25006", "53200", "58030", "XX000"])
def test_a_fault_that_is_not_the_callers_is_temporary(database: str, state: str) -> None:
    """Disk full, read-only, no memory, an error of the disk, one of Postgres itself."""
    with pytest.raises(DatabaseUnavailable, match="cannot do it now"), transaction() as session:
        session.execute(text(f"DO $$ BEGIN RAISE SQLSTATE '{state}'; END $$"))


def test_a_person_is_not_told_to_start_a_database_that_is_full(database: str) -> None:
    committed(a_bead)  # and its town
    full = text("DO $$ BEGIN RAISE SQLSTATE '53100'; END $$")
    with pytest.raises(DatabaseUnavailable, match="cannot do it now") as told:
        ask(lambda session, town_id: session.execute(full))
    assert told.value.hint == "see the log of Postgres"


@pytest.mark.parametrize("state", ["23505", "22021", "42P01", "0A000", "54000", "25P02"])
def test_a_fault_of_the_callers_stays_what_it_is(database: str, state: str) -> None:
    with pytest.raises(DBAPIError), transaction() as session:
        session.execute(text(f"DO $$ BEGIN RAISE SQLSTATE '{state}'; END $$"))


def test_no_connection_left_is_temporary(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    small = create_engine(database, pool_size=1, max_overflow=0, pool_timeout=0.05)
    monkeypatch.setattr(db, "engine", lambda: small)
    with small.connect(), pytest.raises(DatabaseUnavailable, match="in use"), transaction() as session:
        session.execute(text("SELECT 1"))
    small.dispose()


def test_other_errors_are_not_tried_again(database: str) -> None:
    tries = []

    def fails(session: Session) -> None:
        tries.append(1)
        session.execute(text("SELECT 1/0"))

    with pytest.raises(DBAPIError, match="division by zero"):
        in_transaction(fails)
    assert len(tries) == 1


def test_a_slow_statement_ends_and_is_temporary(database: str) -> None:
    def sleep(session: Session) -> None:
        session.execute(select(func.set_config("statement_timeout", "30ms", True)))
        session.execute(select(func.pg_sleep(5)))

    with pytest.raises(DatabaseUnavailable, match="took too long: canceling statement"):
        committed(sleep)


@pytest.mark.usefixtures("products_deadlines")
def test_every_wait_has_a_deadline(database: str) -> None:
    with transaction() as session:
        limits = {
            name: session.scalar(text(f"SHOW {name}"))
            for name in ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout")
        }
    assert list(limits.values()) == ["5s", "2s", "10s"]


def test_a_connection_that_is_cut_is_temporary_and_the_next_one_works(database: str) -> None:
    with pytest.raises(DatabaseUnavailable, match="cannot be reached") as lost, transaction() as session:
        session.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))
    assert lost.value.hint == "gastown up"
    with transaction() as session:
        assert session.scalar(text("SELECT 1")) == 1


def test_a_connection_that_was_cut_while_nobody_used_it_is_not_used_again(database: str) -> None:
    with transaction() as session:
        cut = session.scalar(text("SELECT pg_backend_pid()"))
    with psycopg.connect(database.replace("+psycopg", ""), autocommit=True) as other:
        other.execute("SELECT pg_terminate_backend(%s, 10000)", [cut])
    with transaction() as session:
        assert session.scalar(text("SELECT pg_backend_pid()")) != cut


def test_a_connection_on_which_something_came_is_used_again(database: str) -> None:
    with transaction() as session:
        listening = session.scalar(text("SELECT pg_backend_pid()"))
        session.execute(text("LISTEN anything"))
    with psycopg.connect(database.replace("+psycopg", ""), autocommit=True) as other:
        other.execute("NOTIFY anything")
    with transaction() as session:
        assert session.scalar(text("SELECT pg_backend_pid()")) == listening


def test_a_server_that_is_not_there(own_home: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """S78."""
    monkeypatch.setenv("GASTOWN_DATABASE_URL", "postgresql://nobody@/nowhere?host=/nonexistent")
    get_settings.cache_clear()
    db._engine_of.cache_clear()
    with pytest.raises(DatabaseUnavailable, match="Postgres cannot be reached"), transaction() as session:
        session.execute(text("SELECT 1"))
    db._engine_of.cache_clear()


@pytest.mark.parametrize("zone", ["Asia/Tokyo", "America/New_York"])
def test_times_are_in_utc_wherever_the_server_is(database: str, zone: str) -> None:
    """Days of the log and times in reasons are made of them."""
    with transaction() as session:
        name = session.scalar(text("SELECT current_database()"))
        session.execute(text(f"ALTER DATABASE {name} SET timezone = '{zone}'"))
    db.engine().dispose()
    with transaction() as session:
        assert session.scalars(select(gastown_now())).one().utcoffset() == timedelta(0)
        assert session.scalar(text("SHOW timezone")) == "UTC"


@pytest.mark.parametrize(
    ("stored", "read"),
    [
        ("infinity", db.LATEST),
        ("20000-01-01 00:00+00", db.LATEST),
        ("-infinity", db.EARLIEST),
        ("0044-03-15 00:00+00 BC", db.EARLIEST),
        ("2026-11-22 12:00:00.5+02", datetime(2026, 11, 22, 10, 0, 0, 500_000, UTC)),
    ],
)
def test_a_time_that_python_has_no_word_for_is_read(database: str, stored: str, read: datetime) -> None:
    """It would cost the whole result otherwise, with all the rows beside it."""
    for connection in (transaction, db.one_statement):
        with connection() as here:
            assert here.execute(text(f"SELECT 1, TIMESTAMPTZ '{stored}', NULL::timestamptz")).one() == (1, read, None)
    assert read - timedelta(days=300) < read < read + timedelta(days=300)
