"""Servers of a bench's own: a Postgres that keeps what it commits, a Redis, and what this process needs to use them."""

import os
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psycopg

from gastown.embedded import children, postgres, redis


@contextmanager
def durable_postgres(folder: Path) -> Iterator[str]:
    """As the embedded one runs (fsync, full pages), on a disk of its own. Yields the URL of an empty database."""
    data = folder / "pg"
    postgres.initialise(data)
    argv = postgres.command(data, folder, log_min_duration_statement="-1", shared_buffers="256MB")
    log = folder / "postgres.log"
    server = children.spawn(
        argv, log=log, orphan_signal=signal.SIGINT, env=postgres.environment(), cwd=folder, prefix=postgres.prefix()
    )
    try:
        deadline = time.monotonic() + 30
        while not postgres.is_ready(data):
            if server.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"Postgres does not start: {log.read_text(errors='replace')[-500:]}")
            time.sleep(0.02)
        postgres.create_database(folder)
        yield postgres.url(folder)
    finally:
        children.end(server, signal.SIGINT, grace_s=30)


@contextmanager
def ground() -> Iterator[Path]:
    """An empty migrated database and an empty broker, in force for all of gastown in this process; their folder."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gt-bench-")))
        (folder / "redis").mkdir()
        os.environ |= {
            "GASTOWN_HOME": str(folder / "home"),
            "GASTOWN_DATABASE_URL": stack.enter_context(durable_postgres(folder)),
            "GASTOWN_BROKER_URL": stack.enter_context(redis.throw_away(folder / "redis")),
        }
        from gastown import db, migrations
        from gastown.settings import get_settings

        get_settings.cache_clear()
        migrations.upgrade()
        try:
            yield folder
        finally:
            db.engine().dispose()


def execute(*statements: str) -> None:
    """As superuser, without triggers of foreign keys: for rows that are history already."""
    url = os.environ["GASTOWN_DATABASE_URL"]
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("SET session_replication_role = replica")
        for statement in statements:
            connection.execute(statement.encode())
