"""Schema migrations, forward only. A process refuses a schema that is newer than it knows."""

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
    """Raises SchemaTooNew when the database is ahead of this program, DatabaseUnavailable when it is behind or away."""
    try:
        with current_engine().connect() as connection:
            revision = _revision(connection)
    except OperationalError as error:
        raise DatabaseUnavailable(f"Postgres cannot be reached: {error.orig}", hint="gastown up") from error
    _refuse_newer(revision)
    if revision != head():
        raise DatabaseUnavailable("the database has an older schema than this program", hint="gastown db upgrade")


def _refuse_newer(revision: str | None) -> None:
    known = {script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions()}
    if revision is not None and revision not in known:
        raise SchemaTooNew(
            f"the database has schema {revision}, which this version of gastown does not know",
            hint="run the newer gastown that made it",
        )
