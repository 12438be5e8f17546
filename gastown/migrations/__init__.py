"""Schema migrations, forward only. A process refuses a schema that is newer than it knows.

But for one that is a single revision ahead and only adds to what there was (`expands = True` in its file): old and new
run side by side while a fleet is upgraded. An older program cannot read that file, so the database says it itself, in
the comment on `alembic_version`.
"""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import OperationalError

from gastown.db import engine as current_engine
from gastown.db import make_engine
from gastown.errors import DatabaseUnavailable, SchemaTooNew
from gastown.settings import get_settings

LOCK = 7_270_001  # the advisory lock of migrations; any number that nothing else here uses


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    return config


def _revision(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


def note_served(connection: Connection, scripts: ScriptDirectory) -> None:
    """Write down which older programs may go on with the schema as it is now, in the transaction that migrates."""
    revision = _revision(connection)
    script = None if revision is None else scripts.get_revision(revision)
    before = script.down_revision if script is not None and getattr(script.module, "expands", False) else None
    served = "NULL" if script is None or before is None else f"'{_served(script.revision, str(before))}'"
    connection.execute(text(f"COMMENT ON TABLE alembic_version IS {served}"))


def _served(revision: str, older: str) -> str:
    return f"{revision} serves {older}"


def _serves_us(connection: Connection, revision: str | None) -> bool:
    """Whether this newer schema is one that a program of our revision may go on with."""
    said = connection.scalar(text("SELECT obj_description(to_regclass('alembic_version'))"))
    return revision is not None and said == _served(revision, head())


def head() -> str:
    revision = ScriptDirectory.from_config(_config()).get_current_head()
    assert revision is not None
    return revision


def upgrade(engine: Engine | None = None) -> None:
    """To the newest schema. Two at once: the second waits for the first, then finds nothing to do."""
    own = engine or make_engine(get_settings().database, pool_size=1)
    try:
        with own.connect() as connection:
            # a migration may take longer than a statement of the running system
            connection.execute(text("SET statement_timeout = 0; SET lock_timeout = '30s'"))
            connection.execute(text("SET idle_in_transaction_session_timeout = 0"))
            connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": LOCK})
            connection.commit()
            try:
                _refuse_newer(_revision(connection))
                config = _config()
                config.attributes["connection"] = connection
                command.upgrade(config, "head")
                connection.commit()
            finally:
                connection.rollback()
                connection.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": LOCK})
                connection.commit()
    except OperationalError as error:
        raise DatabaseUnavailable(f"Postgres cannot be reached: {error.orig}", hint="gastown up") from error
    finally:
        if engine is None:
            own.dispose()


def pending() -> bool:
    """Whether `upgrade` would change anything."""
    try:
        with current_engine().connect() as connection:
            return _revision(connection) != head()
    except OperationalError as error:
        raise DatabaseUnavailable(f"Postgres cannot be reached: {error.orig}", hint="gastown up") from error


def check() -> None:
    """Whether this program may work with the database. One revision ahead is fine if that only adds to the schema.

    Raises SchemaTooNew when it is further ahead than that, DatabaseUnavailable when it is behind or away.
    """
    try:
        with current_engine().connect() as connection:
            revision = _revision(connection)
            if _serves_us(connection, revision):
                return
    except OperationalError as error:
        raise DatabaseUnavailable(f"Postgres cannot be reached: {error.orig}", hint="gastown up") from error
    _refuse_newer(revision)
    if revision != head():
        raise DatabaseUnavailable("the database has an older schema than this program", hint="gastown db upgrade")


def _refuse_newer(revision: str | None) -> None:
    known = {script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions()}
    if revision is not None and revision not in known:
        raise SchemaTooNew(
            f"the database has schema {revision}, and this version of gastown knows none after {head()}",
            hint="run the newer gastown that made it: an older one goes on for one step, while a fleet is upgraded",
        )
