"""gastown up, down, status, config, db: as a user types them."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from gastown.runtimes import RunSpec
from gastown.runtimes.process import ProcessRuntime

GASTOWN = [sys.executable, "-P", "-m", "gastown.cli"]


def gastown(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*GASTOWN, *arguments],
        capture_output=True,
        text=True,
        timeout=250,
        env=os.environ | environment,
        stdin=subprocess.DEVNULL,
    )


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        number = int(probe.getsockname()[1])
    monkeypatch.setenv("GASTOWN_API__BIND", f"127.0.0.1:{number}")
    yield number
    gastown("down")


@pytest.mark.flow
def test_a_life(own_home: Path, port: int) -> None:
    first = gastown("up", "--detach")
    assert (first.returncode, first.stderr) == (0, "")
    assert first.stdout.startswith(f"gastown is up: http://127.0.0.1:{port} (pid ")
    told = json.loads(gastown("status", "--json").stdout)
    assert (told["state"], told["home"]) == ("up", str(own_home))

    again = gastown("up", "--detach")
    assert (again.returncode, again.stdout) == (0, first.stdout.replace("is up:", "is up already:"))
    refused = gastown("up")
    assert refused.returncode == 1
    assert f"gastown: it is up already: pid {told['pid']}, since {told['since']}" in refused.stderr
    assert "next: gastown status, or gastown down" in refused.stderr
    assert json.loads(gastown("status", "--json").stdout) == told

    now = gastown("status")
    assert now.returncode == 0
    names = ("redis", "postgres", "control", "watch", "worker", "merge", "beat", "api", "url", "town")
    assert all(f"  {name}" in now.stdout for name in names)
    assert gastown("db", "upgrade").stdout == "the database is up to date\n"

    attempt = ProcessRuntime(own_home)
    name = str(uuid.uuid4())
    attempt.start(RunSpec(name=name, bead_id="gt-1", epoch=1, api_url="http://127.0.0.1:1", token="t"))
    down = gastown("down", "--leave-agents")
    assert (down.returncode, down.stdout) == (0, "gastown is down\n")
    assert attempt.list_names() == [name]
    attempt.stop(name, grace_s=0)
    assert gastown("down").stdout == "gastown is down already\n"
    gone = gastown("status")
    assert (gone.returncode, gone.stdout) == (4, f"gastown is down, home {own_home}\nnext: gastown up\n")


@pytest.mark.flow
def test_ctrl_c_during_a_start_in_the_foreground_stops_all(own_home: Path, port: int) -> None:
    process = subprocess.Popen([*GASTOWN, "up"], stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True)
    try:
        stack = own_home / "run" / "stack.json"
        deadline = time.monotonic() + 60
        while not (stack.exists() and '"name": "postgres"' in stack.read_text()):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=120)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0
    assert "stopping before it was up" in errors
    assert "Traceback" not in errors
    assert json.loads(stack.read_text())["state"] == "down"
    assert all(child["pid"] is None for child in json.loads(stack.read_text())["children"])


def test_a_command_that_needs_the_database_says_so_when_it_is_down(own_home: Path) -> None:
    answer = gastown("db", "upgrade")
    assert answer.returncode == 4
    assert answer.stderr == (
        "gastown: the embedded Postgres is not running\nnext: gastown up, which migrates by itself\n"
    )


def test_wrong_settings_are_a_usage_error(own_home: Path) -> None:
    answer = gastown("up", "--detach", GASTOWN_NODEE="x")
    assert answer.returncode == 2
    assert "gastown: unknown setting GASTOWN_NODEE" in answer.stderr
    answer = gastown("up", "--detach", GASTOWN_API__BIND="nonsense")
    assert answer.returncode == 2
    assert "api.bind" in answer.stderr


def test_a_home_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    answer = gastown("up", "--detach", GASTOWN_HOME=str(tmp_path / "file" / "home"))
    assert answer.returncode == 2
    assert "cannot be written: Not a directory" in answer.stderr
    assert "GASTOWN_HOME=" in answer.stderr
    assert "Traceback" not in answer.stderr


def test_unknown_words_are_usage_errors() -> None:
    answer = gastown("statsu")
    assert (answer.returncode, answer.stdout) == (2, "")
    assert answer.stderr.startswith("gastown: no such command 'statsu'")
    assert gastown().returncode == 2


def test_config_show_says_where_values_come_from_and_hides_passwords(own_home: Path) -> None:
    own_home.mkdir()
    (own_home / "gastown.toml").write_text(
        'broker_url = "redis://me:secret@host:6379/0"\nworker_processes = 3\n[policy]\nmax_running = 2\n'
    )
    answer = gastown("config", "show", "--json", GASTOWN_DATABASE_URL="postgresql://me:p%40ss@db/x")
    assert "secret" not in answer.stdout
    rows = {row["setting"]: (row["value"], row["source"]) for row in json.loads(answer.stdout)}
    assert rows["broker_url"] == ("redis://me:***@host:6379/0", "file (gastown.toml)")
    assert rows["database_url"] == ("postgresql://me:***@db/x", "environment (GASTOWN_DATABASE_URL)")
    assert rows["worker_processes"] == (3, "file (gastown.toml)")
    assert rows["policy.max_running"] == (2, "file (gastown.toml)")
    assert rows["policy.heartbeat_s"] == (10, "default")
    assert rows["api.bind"] == ("127.0.0.1:8484", "default")
    assert rows["home"] == (str(own_home), "environment (GASTOWN_HOME)")


def test_a_closed_pipe_is_no_error() -> None:
    shell = f"{sys.executable} -P -m gastown.cli config show --json | head -c 1"
    answer = subprocess.run(["bash", "-c", f"set -o pipefail; {shell}"], capture_output=True, text=True)
    assert answer.stderr == ""


def test_help_imports_nothing_slow() -> None:
    code = "import sys; from gastown.cli import build; build(); print([m for m in sys.modules if m in SLOW])"
    slow = ("sqlalchemy", "celery", "pydantic", "rich", "fastapi", "psycopg")
    answer = subprocess.run([sys.executable, "-c", f"SLOW = {slow!r}\n{code}"], capture_output=True, text=True)
    assert answer.stdout == "[]\n"


def test_an_unexpected_error_is_one_line_and_debug_shows_the_traceback(tmp_path: Path) -> None:
    code = "import gastown.cli.stack as s; s.json = None; from gastown.cli import main; main()"
    home = os.environ | {"GASTOWN_HOME": str(tmp_path / "other")}
    plain = subprocess.run([sys.executable, "-c", code, "status", "--json"], capture_output=True, text=True, env=home)
    assert plain.returncode == 1
    assert plain.stderr.startswith("gastown: unexpected AttributeError")
    assert "next: the same with --debug" in plain.stderr
    loud = subprocess.run(
        [sys.executable, "-c", code, "status", "--json", "--debug"], capture_output=True, text=True, env=home
    )
    assert "Traceback" in loud.stderr
