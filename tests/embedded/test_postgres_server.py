"""The embedded Postgres: whom it runs as, whose data it takes, and what a failure leaves behind."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest
from stacks import wait_for

from gastown.embedded import postgres
from gastown.errors import StackUnavailable

ROOT = os.geteuid() == 0


@pytest.fixture
def data(short_dir: Path, request: pytest.FixtureRequest) -> Path:
    folder = short_dir / f"d{abs(hash(request.node.name)) % 10**6}"
    folder.mkdir(mode=0o700)
    return folder / "pg"


@pytest.mark.parametrize("kind", [None, *([postgres.NAMESPACE, postgres.AS_NOBODY] if ROOT else [])])
def test_it_runs_for_root_and_for_others(
    data: Path, kind: tuple[str, ...] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """None: as this machine would choose. The folder above is closed to everybody else, as /root is."""
    if kind is not None:
        if subprocess.run([*kind, "true"], capture_output=True).returncode:
            pytest.skip(f"{kind[0]} is not allowed here")
        monkeypatch.setattr(postgres, "prefix", lambda: kind)
    with postgres.throw_away(data.parent) as url, psycopg.connect(url) as connection:
        assert connection.execute("SELECT current_user, current_database()").fetchone() == ("gastown", "gastown")


def test_data_of_another_version_is_refused(data: Path) -> None:
    data.mkdir()
    (data / "PG_VERSION").write_text("16\n")
    with pytest.raises(StackUnavailable, match="made by Postgres 16, and this Gastown brings Postgres 18"):
        postgres.initialise(data)
    assert (data / "PG_VERSION").read_text() == "16\n"


def test_a_folder_that_is_no_data_directory_is_refused(data: Path) -> None:
    data.mkdir()
    (data / "letter").write_text("dear")
    with pytest.raises(StackUnavailable, match="no Postgres data directory"):
        postgres.initialise(data)
    assert (data / "letter").exists()


def test_a_full_disk_leaves_nothing_and_the_next_start_works(data: Path) -> None:
    """No file may grow beyond 64 KB: what initdb meets is what it meets on a full disk."""
    code = f"""
import pathlib, resource
from gastown.embedded import postgres
resource.setrlimit(resource.RLIMIT_FSIZE, (65536, resource.RLIM_INFINITY))
postgres.initialise(pathlib.Path({str(data)!r}), sync=False)
"""
    failed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "StackUnavailable: initdb could not make the database" in failed.stderr
    assert list(data.parent.iterdir()) == []
    postgres.initialise(data, sync=False)
    assert (data / "PG_VERSION").exists()
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY


def test_a_half_made_data_directory_is_made_again(data: Path) -> None:
    unfinished = data.with_name("pg.new")
    unfinished.mkdir()
    (unfinished / "base").mkdir()
    postgres.initialise(data, sync=False)
    assert not unfinished.exists()


def test_a_stale_pid_file_that_names_a_stranger_goes(data: Path) -> None:
    data.mkdir()
    (data / "postmaster.pid").write_text(f"{os.getpid()}\n{data}\n")
    postgres.prepare_start(data)
    assert not (data / "postmaster.pid").exists()


def test_the_pid_file_of_a_living_server_stays(data: Path) -> None:
    with postgres.throw_away(data.parent):
        wait_for(lambda: postgres.is_ready(data), "ready")
        postgres.prepare_start(data)
        assert (data / "postmaster.pid").exists()


def test_variables_of_libpq_lead_nobody_astray(monkeypatch: pytest.MonkeyPatch, data: Path) -> None:
    monkeypatch.setenv("PGPORT", "1")
    monkeypatch.setenv("PGDATA", "/nowhere")
    with postgres.throw_away(data.parent) as url, psycopg.connect(url) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
