"""What the tests of whole stacks share."""

import os
import shutil
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

from gastown.agent import processes
from gastown.embedded import children, postgres, status
from gastown.embedded.status import StackStatus
from gastown.settings import ApiSettings, Settings


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(condition: Callable[[], bool], what: str, *, timeout_s: float = 60) -> None:
    """Poll until `condition` holds."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {what}"
        time.sleep(0.05)


def settings_of(home: Path, **more: object) -> Settings:
    return Settings(home=home, api=ApiSettings(bind=f"127.0.0.1:{free_port()}"), **more)  # type: ignore[arg-type]


def still_there(before: StackStatus) -> list[str]:
    """Which processes of this stack run."""
    found = [("supervisor", before.pid, before.born), *((each.name, each.pid, each.born) for each in before.children)]
    return [name for name, pid, born in found if pid and born and processes.alive(pid, born)]


def wait_gone(before: StackStatus) -> None:
    wait_for(lambda: not still_there(before), f"gone: {still_there(before)}")


def sql(settings: Settings, statement: str) -> list[tuple[object, ...]]:
    with psycopg.connect(postgres.url(settings.run_dir), autocommit=True) as connection:
        cursor = connection.execute(statement)  # type: ignore[call-overload]
        return cursor.fetchall() if cursor.description else []


@contextmanager
def postgres_only(settings: Settings) -> Iterator[None]:
    """The database of a stack that is down."""
    data = settings.home / "pg"
    server = children.spawn(
        postgres.command(data, settings.run_dir),
        log=settings.home / "log" / "postgres.log",
        orphan_signal=postgres.STOP_SIGNAL,
        env=postgres.environment(),
        cwd=settings.home,
        prefix=postgres.prefix(),
    )
    try:
        wait_for(lambda: postgres.is_ready(data), "Postgres")
        yield
    finally:
        children.end(server, postgres.STOP_SIGNAL, grace_s=10)


def destroy(settings: Settings) -> None:
    """End whatever is left, without manners."""
    last = status.read_file(settings.home)
    for pid, born in [(last.pid, last.born), *((each.pid, each.born) for each in last.children)]:
        if pid and born and processes.alive(pid, born):
            os.kill(pid, signal.SIGKILL)
    wait_gone(last)
    if settings.run_dir.parent != settings.home:
        shutil.rmtree(settings.run_dir, ignore_errors=True)
