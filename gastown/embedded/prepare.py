"""Make the database and the broker fit for use: `python -m gastown.embedded.prepare`, a child of each start.

A process of its own because of what it imports: the supervisor lives long and stays small.
"""

import json
import os
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

from gastown import brokers
from gastown.embedded import binaries, postgres
from gastown.errors import BrokerUnavailable, DatabaseUnavailable, GastownError, StackUnavailable
from gastown.settings import Settings, get_settings

EMBEDDED_WAIT_S = 60.0  # replaying a long write-ahead log after a crash takes a while
CONNECT_TIMEOUT_S = 3
DUMP_TIMEOUT_S = 3600.0
KEPT_DUMPS = 5


def main() -> int:
    """Prints what went wrong as one line of JSON, for the supervisor."""
    settings = get_settings()
    try:
        if not settings.embedded_broker:
            check_broker(settings)
        prepare_database(settings)
    except GastownError as error:
        problem = {"message": str(error), "hint": error.hint, "exit_code": error.exit_code}
        sys.stdout.write(json.dumps(problem) + "\n")
        return 1
    return 0


def prepare_database(settings: Settings, *, backup: bool = True) -> bool:
    """Reach the database, make it if it is ours and not there, dump it if it is behind, and migrate it.

    True: it was migrated. Raises DatabaseUnavailable, SchemaTooNew, StackUnavailable (the dump failed).
    """
    from gastown import migrations

    if settings.embedded_database:
        _await_embedded(settings.run_dir)
    fresh = _is_fresh(settings)
    if not fresh:
        try:
            migrations.check()
            return False
        except DatabaseUnavailable:  # reachable a moment ago: it is behind
            if backup:
                dump(settings)
    migrations.upgrade()
    return True


def dump(settings: Settings) -> Path:
    """pg_dump into home/backups, where the newest KEPT_DUMPS stay. Raises StackUnavailable."""
    from psycopg.conninfo import conninfo_to_dict, make_conninfo

    folder = settings.home / "backups"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    target = folder / f"gastown-{datetime.now(UTC):%Y%m%dT%H%M%S}.dump"
    unfinished = target.with_suffix(".part")
    options = conninfo_to_dict(_libpq(settings))
    secret = {"PGPASSWORD": str(options.pop("password"))} if "password" in options else {}  # never in argv
    pg_dump = str(binaries.postgres_bin() / "pg_dump")
    argv = [pg_dump, "--format=custom", f"--file={unfinished}", f"--dbname={make_conninfo('', **options)}"]
    env = postgres.environment() | secret
    try:
        made = subprocess.run(
            argv, capture_output=True, text=True, errors="replace", timeout=DUMP_TIMEOUT_S, env=env, umask=0o077
        )
        reason = (made.stderr.strip().splitlines() or ["no reason given"])[-1] if made.returncode else ""
    except (OSError, subprocess.TimeoutExpired) as error:
        reason = str(error)
    if reason:
        unfinished.unlink(missing_ok=True)
        raise StackUnavailable(
            f"the database has to be migrated, and the dump before that failed: {reason}",
            hint="make room or a backup of your own; then: gastown db upgrade --no-backup",
        )
    unfinished.replace(target)
    for old in sorted(folder.glob("gastown-*.dump"))[:-KEPT_DUMPS]:
        old.unlink()
    return target


def check_broker(settings: Settings) -> None:
    """Raises BrokerUnavailable."""
    from kombu import Connection
    from kombu.exceptions import OperationalError

    broker = brokers.parse(settings.broker)
    options = broker.transport_options
    with Connection(
        broker.url, ssl=broker.tls or False, connect_timeout=CONNECT_TIMEOUT_S, transport_options=options
    ) as connection:
        try:
            connection.ensure_connection(max_retries=1, interval_start=0.1, timeout=CONNECT_TIMEOUT_S)
        except (OperationalError, OSError, *connection.connection_errors) as error:
            raise BrokerUnavailable(
                f"the broker {connection.as_uri()} cannot be reached: {error}",
                hint="start it, or unset GASTOWN_BROKER_URL (broker_url in gastown.toml) for the embedded one",
            ) from error


def _await_embedded(socket_dir: Path) -> None:
    import psycopg

    deadline = time.monotonic() + EMBEDDED_WAIT_S
    while True:
        try:
            return postgres.create_database(socket_dir)
        except psycopg.OperationalError as error:
            if time.monotonic() > deadline:
                raise DatabaseUnavailable(
                    f"the embedded Postgres does not answer: {error}",
                    hint="see postgres.log in the log folder of the home",
                ) from error
        time.sleep(0.02)


def _is_fresh(settings: Settings) -> bool:
    """Whether no migration has run in it. Raises DatabaseUnavailable."""
    import psycopg

    try:
        with psycopg.connect(_libpq(settings), connect_timeout=CONNECT_TIMEOUT_S) as connection:
            row = connection.execute("SELECT to_regclass('alembic_version') IS NULL").fetchone()
            return row is not None and bool(row[0])
    except psycopg.OperationalError as error:
        raise DatabaseUnavailable(
            f"Postgres cannot be reached: {str(error).strip().splitlines()[-1]}",
            hint="start it, or unset GASTOWN_DATABASE_URL (database_url in gastown.toml) for the embedded one",
        ) from error


def _libpq(settings: Settings) -> str:
    return (
        postgres.url(settings.run_dir) if settings.embedded_database else settings.database.replace("+psycopg", "", 1)
    )


if __name__ == "__main__":
    os.umask(0o077)
    sys.exit(main())
