"""gastown doctor: what is in order, and each thing that may be wrong, with what to do about it."""

import gc
import json
import os
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from gastown.cli import checks, checks_of_docker, doctor
from gastown.cli.findings import Finding, Level
from gastown.db import transaction
from gastown.errors import BrokerUnavailable
from gastown.models import Node
from gastown.settings import get_settings
from gastown.tasks import probing
from tests.builders import a_node, a_rig
from tests.cli.conftest import Gastown
from tests.conftest import Clock

Set = Callable[..., None]


@pytest.fixture
def settings_are(monkeypatch: pytest.MonkeyPatch) -> Set:
    def change(**values: str) -> None:
        for name, value in values.items():
            monkeypatch.setenv(f"GASTOWN_{name.upper()}", value)
        get_settings.cache_clear()

    return change


def levels(found: list[Finding], name: str) -> list[Level]:
    return [each.level for each in found if each.name == name]


def only(found: list[Finding]) -> Finding:
    [one] = found
    return one


class Api(BaseHTTPRequestHandler):
    code = 200

    def do_GET(self) -> None:
        self.send_response(self.code)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nobody reads it."""


@pytest.fixture
def api(settings_are: Set) -> Iterator[type[Api]]:
    """Something that answers where the API ought to."""

    class Own(Api):
        pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Own)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    settings_are(API__BIND=f"127.0.0.1:{server.server_port}")
    yield Own
    server.shutdown()
    server.server_close()
    thread.join()


def someone(**changes: object) -> Callable[[object], probing.Answers]:
    """Who answers, instead of workers: each queue of the node `here` has one."""
    queues = {name: ["w"] for name in ("control", "upkeep", "merge", "node.here", "watch.here")}
    answers = {"names": ["w"], "beats": ["celerybeat@x"], "queues": queues} | changes
    return lambda _queues: probing.Answers(**answers)  # type: ignore[arg-type]


def test_all_is_well(gastown: Gastown, api: type[Api], monkeypatch: pytest.MonkeyPatch) -> None:
    with transaction() as session:
        a_node(session)
        a_rig(session, agent="shell", environment={"PATH": os.environ["PATH"]})
    monkeypatch.setattr(probing, "who_is_there", someone())
    said = gastown("doctor")
    assert said.code == 0, said.out
    assert "all is well" in said.out
    as_json = gastown("doctor", "--json").json
    assert {each["name"] for each in as_json} >= {"settings", "home", "git", "database", "clock", "broker", "beat"}
    assert not [each for each in as_json if each["level"] == "bad"]


def test_nobody_is_there(gastown: Gastown) -> None:
    """The database and the broker are, and nothing that would use them."""
    said = gastown("doctor", "--json")
    assert said.code == 1
    bad = {each["name"]: each for each in json.loads(said.out) if each["level"] == "bad"}
    assert bad.keys() == {"workers", "beat", "api", "nodes"}
    assert all(each["next"] for each in bad.values())


def test_settings_that_make_no_sense_are_all_it_says(gastown: Gastown) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GASTOWN_NODE_CAPACITY", "0")
        get_settings.cache_clear()
        said = gastown("doctor")
    get_settings.cache_clear()
    assert said.code == 1
    assert "node_capacity" in said.out
    assert "1 problem" in said.out


def test_servers_that_are_away(gastown: Gastown, settings_are: Set) -> None:
    """Each is said once, with no password, and what rests on it is not said to be bad."""
    settings_are(BROKER_URL="redis://:hunter2@127.0.0.1:1/0")
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        port = nobody.getsockname()[1]
        settings_are(DATABASE_URL=f"postgresql://me:hunter2@127.0.0.1:{port}/x")
        from gastown import db

        db._engine_of.cache_clear()
        found = doctor.examine()
    assert "hunter2" not in repr(found)
    assert levels(found, "database") == [Level.BAD]
    assert levels(found, "nodes") == [Level.LEFT]
    assert levels(found, "agents") == [Level.LEFT]


def test_a_broker_that_takes_nothing(monkeypatch: pytest.MonkeyPatch, database: str) -> None:
    def refuse() -> float:
        raise BrokerUnavailable("it does not take messages: Connection refused", hint="start it")

    monkeypatch.setattr(probing, "round_trip", refuse)
    found = only(checks.broker_answers())
    assert (found.level, found.next) == (Level.BAD, "start it")


def test_a_round_trip_leaves_nothing_behind(database: str) -> None:
    from gastown.celery_app import app

    assert probing.round_trip() > 0
    with app.connection_for_read() as connection:
        assert not list(connection.default_channel.client.keys("*doctor*"))


def test_queues_without_a_reader(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with transaction() as session:
        a_node(session)
    monkeypatch.setattr(probing, "who_is_there", someone(queues={"control": ["w"], "upkeep": ["w"]}))
    bad = [each.what for each in checks.workers_answer(get_settings()) if each.level is Level.BAD]
    assert bad == [f"no worker reads the queue {name}" for name in ("merge", "node.here", "watch.here")]


def test_two_of_one_name_and_two_beats(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    doubled = someone(names=["a@h", "a@h", "b@h"], beats=["celerybeat@x", "celerybeat@y"])
    monkeypatch.setattr(probing, "who_is_there", doubled)
    odd = [each.what for each in checks.workers_answer(get_settings()) if each.level is Level.ODD]
    assert [each.split(":")[0] for each in odd] == ["two workers call themselves a@h", "2 beats run"]


@pytest.mark.parametrize(("off_s", "level"), [(0, Level.GOOD), (-20, Level.ODD), (20, Level.ODD), (-600, Level.BAD)])
def test_clocks_that_differ(clock: Clock, off_s: float, level: Level) -> None:
    clock.now = datetime.now(UTC) + timedelta(seconds=off_s)
    assert levels(checks.database_answers(get_settings()), "clock") == [level]


def test_an_older_schema(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gastown.migrations.head", lambda: "9999")
    said = doctor._guarded("database", lambda: checks.database_answers(get_settings()))
    assert (said[0].level, said[0].next) == (Level.BAD, "gastown db upgrade")


def test_an_api_that_cannot_serve(api: type[Api], database: str) -> None:
    assert only(checks.api_answers(get_settings())).level is Level.GOOD
    api.code = 503
    found = only(checks.api_answers(get_settings()))
    assert found.level is Level.BAD
    assert "503" in found.what


def test_a_node_that_is_silent(database: str) -> None:
    with transaction() as session:
        a_node(session, name="quiet").heartbeat_at = datetime.now(UTC) - timedelta(hours=2)
    found = only(checks.nodes_are_alive())
    assert (found.level, "quiet: silent" in found.what) == (Level.BAD, True)
    with transaction() as session:
        a_node(session, name="here")
    assert {each.level for each in checks.nodes_are_alive()} == {Level.GOOD, Level.ODD}


def test_a_program_that_is_not_installed(database: str) -> None:
    with transaction() as session:
        a_rig(session, name="web", agent="claude", environment={"PATH": "/nonexistent"})
    found = only(checks.programs_are_there(get_settings()))
    assert found.level is Level.BAD
    assert found.what.startswith("rig web: ")


@pytest.mark.parametrize(("free", "level"), [(10**12, Level.GOOD), (2 * 10**9, Level.ODD), (10**6, Level.BAD)])
def test_a_disk_that_is_full(monkeypatch: pytest.MonkeyPatch, own_home: Path, free: int, level: Level) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**12, 10**12 - free, free))
    assert only(checks.home_is_usable(get_settings())).level is level


@pytest.mark.parametrize(("version", "level"), [("2.39.5", Level.GOOD), ("2.20.1", Level.BAD), ("x", Level.BAD)])
def test_a_git_that_is_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, level: Level) -> None:
    git = tmp_path / "git"
    git.write_text(f"#!/bin/sh\necho git version {version}\n")
    git.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert only(checks.git_is_there()).level is level


def test_no_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert only(checks.git_is_there()).what == "git is not on the PATH"


def test_a_password_that_others_can_read(own_home: Path) -> None:
    own_home.mkdir()
    file = own_home / "gastown.toml"
    file.write_text('broker_url = "redis://:hunter2@127.0.0.1/0"\n')
    file.chmod(0o644)
    assert [each.level for each in checks.settings_are_sound(get_settings())] == [Level.GOOD, Level.ODD]
    file.chmod(0o600)
    assert [each.level for each in checks.settings_are_sound(get_settings())] == [Level.GOOD]


def test_no_check_takes_the_others_with_it() -> None:
    """One that raises, and one that never ends."""
    forever = threading.Event()

    def hang() -> list[Finding]:
        forever.wait()
        return []

    def fail() -> list[Finding]:
        raise RuntimeError("of its own")

    fine = Finding("fine", Level.GOOD, "fine")
    try:
        found = doctor._all_at_once([("hangs", hang), ("fails", fail), ("fine", lambda: [fine])], limit_s=0.2)
    finally:
        forever.set()
    assert [each.level for each in found] == [Level.BAD, Level.BAD, Level.GOOD]
    assert "no answer" in found[0].what
    assert "RuntimeError: of its own" in found[1].what


# the SDK leaves the socket of a connection that failed to the garbage collector
@pytest.mark.filterwarnings("ignore:Exception ignored in.*socket:pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
def test_no_engine(settings_are: Set, database: str, tmp_path: Path) -> None:
    settings_are(RUNTIME="docker", DOCKER__URL=f"unix://{tmp_path}/nobody.sock")
    found = only(checks_of_docker.engine_is_usable(get_settings()))
    gc.collect()  # here, where that is known, and not in another test
    assert found.level is Level.BAD
    assert "docker version" in found.next


def test_no_node_is_left(database: str) -> None:
    with transaction() as session:
        assert session.query(Node).count() == 0
    assert only(checks.nodes_are_alive()).next == "gastown up, or gastown worker"
