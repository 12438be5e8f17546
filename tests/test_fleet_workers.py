"""Real workers, and the node that they are of: who reads its queues, and what becomes of it when they go."""

import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery
from sqlalchemy import Engine, text

from gastown import db
from tests.conftest import administer, url_of

QUICK = """
import sys
from gastown.tasks import fleet
fleet.NODE_BEAT_S = fleet.LOOK_S = 0.1
fleet.LEAVE_S = 60.0
from celery.__main__ import main
sys.argv[0] = "celery"
main()
"""
FLAGS = ("--concurrency=1", "--without-mingle", "--without-gossip", "--without-heartbeat")


@dataclass
class Fleet:
    """A database and a broker of this test alone, and its workers."""

    engine: Engine
    broker: str
    folder: Path
    workers: list[subprocess.Popen[str]] = field(default_factory=list)

    def start(self, name: str, *queues: str, home: str = "home", **settings: str) -> subprocess.Popen[str]:
        wanted = {"GASTOWN_HOME": str(self.folder / home), "GASTOWN_NODE": "n1", "GASTOWN_BROKER_URL": self.broker}
        wanted["GASTOWN_DATABASE_URL"] = self.engine.url.render_as_string(hide_password=False)
        wanted |= {f"GASTOWN_{key}": value for key, value in settings.items()}
        command = [
            sys.executable,
            "-P",
            "-c",
            QUICK,
            "-A",
            "gastown.celery_app",
            "worker",
            "-n",
            name,
            "-Q",
            ",".join(queues),
            *FLAGS,
        ]
        with (self.folder / f"{name}.log").open("a") as log:
            worker = subprocess.Popen(command, env=wanted, stdout=log, stderr=log, text=True, cwd=self.folder)
        self.workers.append(worker)
        return worker

    def said(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text()

    def row(self, what: str) -> Any:
        with self.engine.connect() as connection:
            return connection.scalar(text(f"SELECT {what} FROM nodes WHERE name = 'n1'"))

    def reads(self, name: str, queue: str) -> bool:
        """Whether the worker says that it does."""
        asked = Celery(broker=self.broker).control.inspect([name], timeout=5, limit=1)
        return queue in {each["name"] for each in (asked.active_queues() or {}).get(name, ())}


def until(what: str, probe: Callable[[], Any], timeout_s: float = 120.0) -> Any:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if answer := probe():
            return answer
        time.sleep(0.05)
    raise AssertionError(f"not within {timeout_s:.0f} s: {what}")


@pytest.fixture
def fleet(postgres_url: str, migrated_template: str, redis_url: str, tmp_path: Path) -> Iterator[Fleet]:
    name = f"fleet_{uuid.uuid4().hex}"
    administer(postgres_url, f"CREATE DATABASE {name} TEMPLATE {migrated_template}")
    engine = db.make_engine(url_of(postgres_url, name))
    found = Fleet(engine, redis_url, tmp_path)
    try:
        with alone(redis_url):
            try:
                yield found
            finally:
                for worker in found.workers:
                    with suppress(ProcessLookupError):
                        worker.kill()
                    worker.wait(60)
    finally:
        engine.dispose()
        administer(postgres_url, f"DROP DATABASE {name} WITH (FORCE)")


@contextmanager
def alone(redis_url: str) -> Iterator[None]:
    """The broker is the session's: nothing of this test stays in it."""
    connection = redis.Redis.from_url(redis_url.replace("redis+socket://", "unix://").split("?")[0])
    connection.flushall()
    try:
        yield
    finally:
        connection.flushall()
        connection.close()


NODE, WATCH = "node.n1", "watch.n1"


def test_the_name_of_a_live_node_is_taken(fleet: Fleet) -> None:
    """The second one reads nothing of the node until the first one is gone for longer than its lease."""
    first = fleet.start("one@a", NODE, WATCH, NODE_LABELS='["gpu"]')
    until("it is of the node", lambda: fleet.row("identity"))
    identity = fleet.row("identity")
    assert "machine" in identity
    assert fleet.row("labels") == ["gpu"]
    assert "schema 0" in fleet.row("version")
    fleet.start("two@b", NODE, WATCH, "upkeep", home="other")
    until("it is refused", lambda: "refused" in (fleet.row("workers -> 'two@b'") or {}))
    until("it reads the rest", lambda: fleet.reads("two@b", "upkeep"))
    assert not fleet.reads("two@b", NODE)
    assert not fleet.reads("two@b", WATCH)
    assert "node_refused" in fleet.said("two@b")
    assert fleet.row("identity") == identity
    first.kill()
    first.wait(60)
    with fleet.engine.begin() as connection:  # a minute later
        connection.execute(text("UPDATE nodes SET heartbeat_at = heartbeat_at - interval '1 minute'"))
    until("the name is its own", lambda: fleet.row("identity") != identity)
    until("it reads what the node is told", lambda: fleet.reads("two@b", NODE) and fleet.reads("two@b", WATCH))
    fleet.start("one@a", NODE, "upkeep", NODE_LABELS='["gpu"]')  # and now it is the other one's turn to wait
    until("it is refused", lambda: "refused" in (fleet.row("workers -> 'one@a'") or {}))
    assert not fleet.reads("one@a", NODE)


def test_the_last_worker_that_is_stopped_closes_its_node(fleet: Fleet) -> None:
    workers = {name: fleet.start(name, NODE, "upkeep") for name in ("one@a", "two@a")}
    until("both beat", lambda: len(fleet.row("workers") or ()) == 2)
    for (name, worker), closed in zip(workers.items(), (False, True), strict=True):
        until("it can be stopped", lambda name=name: fleet.reads(name, NODE))  # type: ignore[misc]
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(120) == 0
        assert (fleet.row("draining_at") is not None) is closed
    fleet.start("three@a", NODE)
    until("it takes starts again", lambda: fleet.row("draining_at IS NULL"))


def test_a_worker_of_an_unknown_version_ends_and_says_why(fleet: Fleet) -> None:
    with fleet.engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
        connection.execute(text("INSERT INTO nodes (name, runtime, capacity) VALUES ('n1', 'process', 1)"))
    assert fleet.start("one@a", NODE).wait(120) != 0
    said = fleet.said("one@a")
    assert "gastown: the database has schema 9999, and this version of gastown knows none after" in said
    assert "Traceback" not in said
    assert "schema 9999" in fleet.row("workers -> 'one@a' ->> 'refused'")
