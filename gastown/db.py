"""Connections, transactions and the one clock. Every wait on Postgres has a deadline."""

import os
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache, partial
from select import POLLIN, poll
from typing import Any, TypeVar

import psycopg
from psycopg.abc import AdaptContext, Buffer
from psycopg.adapt import Loader
from psycopg.pq import Format
from sqlalchemy import Connection, DateTime, Dialect, Engine, Function, create_engine, event, func
from sqlalchemy.exc import (
    DataError,
    DBAPIError,
    IntegrityError,
    InvalidatePoolError,
    NotSupportedError,
    ProgrammingError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session

from gastown.errors import DatabaseUnavailable
from gastown.settings import get_settings

T = TypeVar("T")

CONNECT_TIMEOUT_S = 3
# a host that is cut off would otherwise wait for up to 15 minutes: no timeout of Postgres's own reaches it
CUT_OFF = {"keepalives_idle": 5, "keepalives_interval": 2, "keepalives_count": 3, "tcp_user_timeout": 10_000}
TIMEOUTS = "-c statement_timeout=5s -c lock_timeout=2s -c idle_in_transaction_session_timeout=10s"  # DESIGN 3
IN_UTC = "-c timezone=UTC"  # what is read has one zone, wherever the server is: days of the log, times in reasons
TIMED_OUT = {"55P03", "57014"}  # a lock, a statement
TRY_AGAIN = {"40001", "40P01"}  # serialization failure, deadlock: the same again can work
PAUSE_S = (0.02, 0.1)  # before it: one that comes back at once can take the row before who waits for it has woken up
CALLERS_FAULTS = (IntegrityError, DataError, ProgrammingError, NotSupportedError)
EARLIEST = datetime(2, 1, 1, tzinfo=UTC)  # a year from what Python can say, so that it can be calculated with
LATEST = datetime(9999, 1, 1, tzinfo=UTC)
CALLERS_STATES = {"25P02", "54000", "54001", "54011", "54023"}  # went on after an error; a limit of Postgres


def gastown_now() -> Function[datetime]:
    """The time, as SQL: the database's clock, or the one that a test or the simulation set for its session."""
    return func.gastown_now(type_=DateTime(timezone=True))


def make_engine(url: str, *, session_options: str = IN_UTC, **options: Any) -> Engine:
    session = f"{TIMEOUTS} {session_options}"
    arguments = {"connect_timeout": CONNECT_TIMEOUT_S, "options": session, "application_name": "gastown"} | CUT_OFF
    engine = create_engine(url, **{"connect_args": arguments} | options)
    event.listen(engine, "connect", _read_any_time)
    event.listen(engine, "checkout", partial(_look_at, engine.dialect))
    return engine


def _look_at(dialect: Dialect, connection: Any, _record: object, _proxy: object) -> None:
    """Lets no connection be used again that its server has closed; the pool makes another one.

    A server that closes a connection says so, and one that is cut off is found out by CUT_OFF: so only a connection
    from which something has come meanwhile has its server asked, which takes as long as a statement.
    """
    try:
        meanwhile = poll()
        meanwhile.register(connection.fileno(), POLLIN)
        if meanwhile.poll(0):
            dialect.do_ping(connection)
    except psycopg.Error as error:
        raise InvalidatePoolError from error


class _AnyTime(Loader):
    """Reads also times that Python has no word for, such as `infinity`: as EARLIEST or LATEST.

    Somebody may have put one into a row by hand, and psycopg raises for the whole result, so for a whole town.
    It costs 0.2 us a value over psycopg's own loader (0.2), which a subclass of its Python one would not (2.4).
    """

    def __init__(self, oid: int, context: AdaptContext | None = None) -> None:
        super().__init__(oid, context)
        loader = psycopg.adapters.get_loader(oid, Format.TEXT)
        assert loader is not None
        self._of_psycopg = loader(oid, context)

    def load(self, data: Buffer) -> Any:
        try:
            return self._of_psycopg.load(data)
        except psycopg.DataError:
            stored = bytes(data)
            return EARLIEST if stored.startswith(b"-") or stored.endswith(b"BC") else LATEST


def _read_any_time(connection: psycopg.Connection, _record: object) -> None:
    connection.adapters.register_loader("timestamptz", _AnyTime)


def engine() -> Engine:
    """This process's engine. A forked child gets its own: connections must not be shared across a fork."""
    return _engine_of(os.getpid())


@cache
def _engine_of(pid: int) -> Engine:
    return make_engine(get_settings().database, pool_size=5, max_overflow=20)


@cache
def _quick_engine_of(pid: int) -> Engine:
    options = {"isolation_level": "AUTOCOMMIT", "pool_size": 2, "max_overflow": 8}
    return make_engine(get_settings().database, session_options=f"{IN_UTC} -c synchronous_commit=off", **options)


@contextmanager
def transaction() -> Iterator[Session]:
    """One transaction, committed at the end.

    Raises DatabaseUnavailable when Postgres is away, too slow, full, read-only, or anything else that the caller did
    not bring about: whoever survives a temporary error survives all of these. The caller's own faults pass unchanged.
    """
    with _translated(), Session(engine(), expire_on_commit=False) as session, session.begin():
        yield session


@contextmanager
def one_statement() -> Iterator[Connection]:
    """For a single statement that comes often and may be lost, such as a heartbeat: a third of the ways to Postgres.

    It is a transaction by itself, and a crash of Postgres may undo it unless something else was committed since.
    Raises DatabaseUnavailable.
    """
    with _translated(), _quick_engine_of(os.getpid()).begin() as connection:
        yield connection


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except PoolTimeout as error:
        raise DatabaseUnavailable("all connections of this process are in use", hint="try again") from error
    except CALLERS_FAULTS:
        raise
    except DBAPIError as error:
        if _sqlstate(error) in CALLERS_STATES:
            raise
        raise _unavailable(error) from error


def in_transaction(work: Callable[[Session], T]) -> T:
    """Run `work` in a transaction; once more after a deadlock or a serialization failure."""
    try:
        with transaction() as session:
            return work(session)
    except DatabaseUnavailable as error:
        if _sqlstate(error.__cause__) not in TRY_AGAIN:
            raise
    time.sleep(random.uniform(*PAUSE_S))
    with transaction() as session:
        return work(session)


def is_away(error: DatabaseUnavailable) -> bool:
    """Whether Postgres did not answer at all, rather than that it could not do what was asked."""
    return isinstance(error.__cause__, DBAPIError) and _is_connection_failure(error.__cause__)


def is_lock_trouble(error: DBAPIError) -> bool:
    """Whether others are at the same rows. To a savepoint before it, a transaction can go back and go on."""
    return _sqlstate(error) in {"55P03", "40P01"}


def _unavailable(error: DBAPIError) -> DatabaseUnavailable:
    if _is_connection_failure(error):
        return DatabaseUnavailable(f"Postgres cannot be reached: {_first_line(error)}", hint="gastown up")
    if _sqlstate(error) in TIMED_OUT:
        return DatabaseUnavailable(f"Postgres took too long: {_first_line(error)}", hint="try again")
    if _sqlstate(error) in TRY_AGAIN:
        return DatabaseUnavailable(f"others were at the same rows: {_first_line(error)}", hint="try again")
    return DatabaseUnavailable(f"Postgres cannot do it now: {_first_line(error)}", hint="see the log of Postgres")


def _sqlstate(error: BaseException | None) -> str | None:
    return getattr(error.orig, "sqlstate", None) if isinstance(error, DBAPIError) else None


def _is_connection_failure(error: DBAPIError) -> bool:
    state = _sqlstate(error)
    return error.connection_invalidated or state is None or state.startswith(("08", "57P")) or state == "53300"


def _first_line(error: DBAPIError) -> str:
    return (str(error.orig).strip().splitlines() or ["no reason given"])[0]
