"""The real Postgres under a simulation: one server a process, an empty copy of the schema a seed, one engine.

The engine tells the time of the simulation to each session, and hands the baton back between any two transactions and,
where the scheduler asked for that, between two statements of one.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import psycopg
from sqlalchemy import Connection, Engine, event, make_url

from gastown import db, migrations
from gastown.embedded import postgres
from gastown.sim.actors import Stage

TEMPLATE = "sim_template"
MEMORY_BYTES = 1024**3
# only a suspended actor can hold a lock, and nobody resumes it while another waits: so nobody waits
LOCK_TIMEOUT = "SET lock_timeout = '3ms'; SET statement_timeout = '20s'; SET idle_in_transaction_session_timeout = 0"
# ids of attempts are random in the product, and the order of rows may follow them: here they are the same each time
SAME_IDS = """
CREATE SEQUENCE sim_ids;
CREATE FUNCTION sim_id() RETURNS uuid LANGUAGE sql VOLATILE AS $$ SELECT md5(nextval('sim_ids')::text)::uuid $$;
ALTER TABLE dispatches ALTER COLUMN id SET DEFAULT sim_id();
"""


class Server:
    """A throw-away Postgres with a template of the schema."""

    def __init__(self, url: str) -> None:
        self.url = url.replace("postgresql://", "postgresql+psycopg://")
        self.stage: Stage | None = None
        self.now: datetime | None = None
        self.generation = 0  # of session settings: one that was rolled back is set anew
        self.database = ""
        self.statements = 0
        self._number = 0
        self._administer(f"CREATE DATABASE {TEMPLATE}", "ALTER SYSTEM SET autovacuum = off", "SELECT pg_reload_conf()")
        engine = db.make_engine(self._url_of(TEMPLATE))
        migrations.upgrade(engine)
        engine.dispose()
        with psycopg.connect(self.plain_url(TEMPLATE), autocommit=True) as connection:
            connection.execute(SAME_IDS)
        self.engine = self._make_engine()

    def _url_of(self, name: str) -> str:
        return make_url(self.url).set(database=name).render_as_string(hide_password=False)

    def plain_url(self, name: str) -> str:
        return self._url_of(name).replace("+psycopg", "")

    def _administer(self, *statements: str) -> None:
        with psycopg.connect(self.url.replace("+psycopg", ""), autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement.encode())

    @contextmanager
    def fresh(self, stage: Stage, now: datetime) -> Iterator[None]:
        """An empty database that the engine speaks to from now on."""
        self._number += 1
        self.database = f"sim_{self._number}"
        self._administer(f"CREATE DATABASE {self.database} TEMPLATE {TEMPLATE} STRATEGY file_copy")
        self.stage, self.now = stage, now
        try:
            yield
        finally:
            self.stage = None
            self.engine.dispose()
            self._administer(f"DROP DATABASE {self.database} WITH (FORCE)")

    def _make_engine(self) -> Engine:
        engine = db.make_engine(self._url_of(TEMPLATE), pool_size=5, max_overflow=60)
        event.listen(engine, "do_connect", self._direct)
        event.listen(engine, "connect", self._configure)
        event.listen(engine, "before_cursor_execute", self._before_statement)
        event.listen(engine, "commit", self._before_commit)
        event.listen(engine, "rollback", self._forget_time)
        event.listen(engine, "rollback_savepoint", self._forget_time)
        return engine

    def _direct(self, dialect: object, record: object, arguments: object, options: dict[str, Any]) -> None:
        options["dbname"] = self.database

    def _configure(self, connection: Any, record: object) -> None:
        connection.execute(LOCK_TIMEOUT)
        connection.commit()

    def _before_statement(self, connection: Connection, cursor: Any, *_: Any) -> None:
        self._may_pause()
        self.statements += 1
        told = (self.now, self.generation)
        failed = cursor.connection.info.transaction_status == psycopg.pq.TransactionStatus.INERROR
        if connection.info.get("told") != told and self.now is not None and not failed:
            cursor.execute(f"SET gastown.now = '{self.now.isoformat()}'")
            connection.info["told"] = told

    def _before_commit(self, connection: Connection) -> None:
        self._may_pause()
        self.statements += 1

    def _forget_time(self, connection: Connection, *_: Any) -> None:
        connection.info.pop("told", None)

    def _may_pause(self) -> None:
        actor = None if self.stage is None else self.stage.current
        if actor is None or actor.pause_in is None or actor.killed:
            return
        actor.pause_in -= 1
        if actor.pause_in <= 0:
            actor.pause_in = None
            actor.in_transaction = True
            assert self.stage is not None
            self.stage.pause("in transaction")
            actor.in_transaction = False


@contextmanager
def server() -> Iterator[Server]:
    """A server for this process, in memory where there is room. It ends with the process, also when that is killed."""
    memory = Path("/dev/shm")
    roomy = memory.is_dir() and os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > MEMORY_BYTES
    folder = Path(tempfile.mkdtemp(prefix="gt-sim-", dir=memory if roomy else None))
    try:
        with postgres.throw_away(folder) as url:
            made = Server(url)
            try:
                yield made
            finally:
                made.engine.dispose()
    finally:
        with suppress(OSError):
            shutil.rmtree(folder)
