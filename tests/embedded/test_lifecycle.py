"""A whole stack: it comes up, survives the death of any part, and goes away without a trace (S30, S77, S80)."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import psycopg
import pytest
from stacks import destroy, free_port, postgres_only, settings_of, sql, still_there, wait_for, wait_gone

from gastown.agent import processes
from gastown.embedded import binaries, control, lock, postgres, prepare, status
from gastown.embedded.status import ChildState, StackState
from gastown.errors import DatabaseUnavailable, GastownError, Refused, StackUnavailable
from gastown.settings import ApiSettings, Settings

pytestmark = pytest.mark.flow
CHILDREN = ["redis", "postgres", "control", "watch", "worker", "merge", "api", "beat"]


def test_everything_is_ready(stack: Settings) -> None:
    now = control.read_status(stack)
    assert now.state is StackState.UP
    assert [(child.name, child.state) for child in now.children] == [(name, ChildState.READY) for name in CHILDREN]
    with urllib.request.urlopen(f"http://{stack.api.bind}/readyz", timeout=60) as answer:
        assert answer.status == 200
    assert sql(stack, "SELECT count(*) FROM alembic_version") == [(1,)]


def test_the_home_is_closed_to_others_and_long_paths_work(stack: Settings) -> None:
    assert stack.run_dir.parent != stack.home
    for folder in (stack.home, stack.run_dir, stack.home / "run", stack.home / "pg", stack.home / "redis"):
        assert folder.stat().st_mode & 0o077 == 0, folder
    assert all(file.stat().st_mode & 0o077 == 0 for file in (stack.home / "log").iterdir())


def test_a_second_start_changes_nothing(stack: Settings) -> None:
    before = control.read_status(stack)
    assert control.start_detached(stack) is False
    assert control.read_status(stack) == before


def test_a_second_supervisor_is_refused(stack: Settings) -> None:
    from gastown.embedded.supervisor import Supervisor

    before = control.read_status(stack)
    with pytest.raises(Refused, match=re.escape(f"pid {before.pid}, since {before.since}")):
        Supervisor(stack).run()
    assert control.read_status(stack) == before
    assert len(still_there(before)) == 1 + len(CHILDREN)


def test_the_port_of_another_home_is_named(stack: Settings, own_home: Path) -> None:
    with pytest.raises(
        StackUnavailable, match=re.escape(f"{stack.api.bind} is in use by the Gastown of {stack.home}")
    ) as caught:
        control.start_detached(Settings(home=own_home, api=stack.api))
    assert "GASTOWN_API__BIND" in caught.value.hint
    assert caught.value.exit_code == 4
    assert control.read_status(stack).state is StackState.UP


@pytest.mark.parametrize("name", CHILDREN)
def test_a_killed_child_comes_back(stack: Settings, name: str) -> None:
    wait_for(lambda: control.read_status(stack).state is StackState.UP, "up before")
    before = next(child for child in control.read_status(stack).children if child.name == name)
    assert before.pid is not None
    os.kill(before.pid, signal.SIGKILL)

    def is_back() -> bool:
        now = control.read_status(stack)
        child = next(child for child in now.children if child.name == name)
        return child.pid not in (None, before.pid) and child.state is ChildState.READY and now.state is StackState.UP

    wait_for(is_back, f"{name} is back")
    after = next(child for child in control.read_status(stack).children if child.name == name)
    assert after.restarts == before.restarts + 1
    assert after.reason == "killed by SIGKILL"


def test_a_killed_supervisor_takes_all_with_it_and_up_finds_every_row(stack: Settings) -> None:
    sql(stack, "CREATE TABLE kept AS SELECT 42 AS answer")
    before = control.read_status(stack)
    assert before.pid is not None
    os.kill(before.pid, signal.SIGKILL)
    wait_gone(before)
    down = control.read_status(stack)
    assert down.state is StackState.DOWN
    assert "was killed" in down.reason
    assert control.start_detached(stack)
    assert sql(stack, "SELECT answer FROM kept") == [(42,)]


def test_all_killed_and_up_at_once(stack: Settings) -> None:
    sql(stack, "CREATE TABLE kept_too AS SELECT 43 AS answer")
    before = control.read_status(stack)
    pids = [before.pid, *(child.pid for child in before.children)]
    for pid in pids:
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
    assert control.start_detached(stack)  # and nobody waited for the last of them
    assert sql(stack, "SELECT answer FROM kept_too") == [(43,)]
    wait_gone(before)


def test_dumps_are_complete_private_and_few(stack: Settings) -> None:
    backups = stack.home / "backups"
    for day in range(6):
        (backups / f"gastown-2026010{day}T000000.dump").write_text("")
    made = prepare.dump(stack)
    assert len(list(backups.iterdir())) == prepare.KEPT_DUMPS
    assert made in backups.iterdir()
    assert made.stat().st_mode & 0o077 == 0
    listed = subprocess.run([binaries.postgres_bin() / "pg_restore", "-l", made], capture_output=True, text=True)
    assert "TABLE DATA public beads" in listed.stdout


def test_down_leaves_nothing(stack: Settings) -> None:
    before = control.read_status(stack)
    assert control.stop(stack) is True
    assert still_there(before) == []
    assert control.read_status(stack).state is StackState.DOWN
    assert lock.holders(stack.home) == []
    assert not (stack.home / "pg" / "postmaster.pid").exists()
    assert control.stop(stack) is False


def test_a_newer_schema_is_refused_but_damaged_hints_are_not(stack_settings: Settings) -> None:
    stack = stack_settings
    if not (stack.home / "pg").exists():
        control.start_detached(stack)
    control.stop(stack)
    with postgres_only(stack):
        known = sql(stack, "SELECT version_num FROM alembic_version")[0][0]
        sql(stack, "UPDATE alembic_version SET version_num = '9999'")
    dumps = set((stack.home / "backups").iterdir())
    try:
        with pytest.raises(GastownError, match="schema 9999"):
            control.start_detached(stack)
        assert control.read_status(stack).state is StackState.DOWN
        assert set((stack.home / "backups").iterdir()) == dumps
    finally:
        with postgres_only(stack):
            sql(stack, f"UPDATE alembic_version SET version_num = '{known}'")
    shutil.rmtree(stack.home / "redis" / "appendonlydir", ignore_errors=True)  # of Redis 7
    damaged = stack.home / "redis" / "appendonly.aof"  # and a broker whose data is broken keeps nothing from starting
    damaged.write_text("no append-only file\n")
    assert control.start_detached(stack)
    assert list((stack.home / "redis.damaged").rglob("appendonly.aof*"))


@pytest.mark.skipif(os.geteuid() != 0, reason="the other tests run as an ordinary user already")
def test_an_ordinary_user_can(own_home: Path) -> None:
    """As nobody, who keeps the right to read this Python below a closed folder, and no other."""
    as_nobody = [*postgres.AS_NOBODY, sys.executable, "-P", "-m", "gastown.cli"]
    if subprocess.run([*postgres.AS_NOBODY, "true"], capture_output=True).returncode:
        pytest.skip("setpriv is not allowed here")
    own_home.mkdir()
    os.chown(own_home, postgres.NOBODY, postgres.NOBODY)
    settings = settings_of(own_home)
    env = os.environ | {"GASTOWN_API__BIND": settings.api.bind}
    try:
        made = subprocess.run([*as_nobody, "up", "--detach"], capture_output=True, text=True, env=env, timeout=250)
        assert (made.returncode, made.stderr) == (0, "")
        now = control.read_status(settings)
        assert [child.state for child in now.children] == [ChildState.READY] * len(CHILDREN)
        assert (own_home / "pg").stat().st_uid == postgres.NOBODY
        ended = subprocess.run([*as_nobody, "down"], capture_output=True, text=True, env=env, timeout=250)
        assert (ended.returncode, ended.stdout) == (0, "gastown is down\n")
        assert still_there(now) == []
    finally:
        destroy(settings)


def test_servers_by_url_are_used_and_not_started(own_home: Path, postgres_url: str, redis_url: str) -> None:
    with psycopg.connect(postgres_url.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute("CREATE DATABASE by_url")
    settings = settings_of(
        own_home, database_url=postgres_url.replace("/gastown?", "/by_url?"), broker_url=redis_url.replace("=0", "=5")
    )
    try:
        assert control.start_detached(settings)
        now = control.read_status(settings)
        assert [child.name for child in now.children] == ["control", "watch", "worker", "merge", "api", "beat"]
        assert not (own_home / "pg").exists()
    finally:
        control.stop(settings)
    assert still_there(now) == []


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ({"database_url": "postgresql://me:secret@127.0.0.1:1/x"}, "Postgres cannot be reached"),
        ({"broker_url": "redis://:secret@127.0.0.1:1/0"}, "the broker redis://:**@127.0.0.1:1/0 cannot be reached"),
    ],
)
def test_a_server_that_is_not_there_is_said(own_home: Path, url: dict[str, str], said: str) -> None:
    settings = settings_of(own_home, **url)
    with pytest.raises(GastownError) as caught:
        control.start_detached(settings)
    assert said in str(caught.value)
    assert "secret" not in str(caught.value)
    assert caught.value.exit_code == DatabaseUnavailable.exit_code
    assert still_there(status.read_file(own_home)) == []


def test_a_port_in_use_is_said_before_anything_starts(own_home: Path) -> None:
    with socket.socket() as stranger:
        stranger.bind(("127.0.0.1", 0))
        stranger.listen()
        settings = Settings(home=own_home, api=ApiSettings(bind=f"127.0.0.1:{stranger.getsockname()[1]}"))
        with pytest.raises(StackUnavailable, match=rf"is in use by \w+.* \(pid {os.getpid()}\)"):
            control.start_detached(settings)
    assert not (own_home / "pg").exists()
    assert processes.alive(os.getpid(), processes.birth(os.getpid()) or "")


def test_a_worker_that_cannot_start_is_said_and_nothing_stays(own_home: Path) -> None:
    settings = Settings(home=own_home, api=ApiSettings(bind=f"127.0.0.1:{free_port()}"))
    with pytest.raises(StackUnavailable, match="no_such_app") as caught:
        control.start_detached(settings, app="no_such_app")
    assert "log" in caught.value.hint
    assert still_there(status.read_file(own_home)) == []
