"""What every test gets: a clean environment, and on request a real Postgres and a real Redis."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from gastown.embedded import postgres, redis

DEVELOPERS_OWN = ("GASTOWN_", "PG", "GIT_", "XDG_")


def pytest_configure(config: pytest.Config) -> None:
    """Before anything is imported or started: the developer's settings, databases and git identity are not ours."""
    for name in [name for name in os.environ if name.startswith(DEVELOPERS_OWN)]:
        del os.environ[name]


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """HOME and GASTOWN_HOME of this test alone, so that none touches the developer's; the path of the second."""
    from gastown import settings

    for name in [name for name in os.environ if name.startswith(DEVELOPERS_OWN)]:
        monkeypatch.delenv(name)
    person = tmp_path / "person"
    person.mkdir(exist_ok=True)
    monkeypatch.setenv("HOME", str(person))
    monkeypatch.setenv("GASTOWN_HOME", str(tmp_path / "home"))
    settings.get_settings.cache_clear()
    return tmp_path / "home"


@pytest.fixture(scope="session")
def short_dir() -> Iterator[Path]:
    """A folder of this session whose path is short enough for sockets."""
    folder = Path(tempfile.mkdtemp(prefix="gt-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres_url(short_dir: Path) -> Iterator[str]:
    """A real Postgres of this session, with an empty database. It ends with the session, also when that is killed."""
    folder = short_dir / "p"
    folder.mkdir()
    with postgres.throw_away(folder) as url:
        yield url.replace("postgresql://", "postgresql+psycopg://")


@pytest.fixture(scope="session")
def redis_url(short_dir: Path) -> Iterator[str]:
    """A real Redis of this session, as Celery wants its URL."""
    folder = short_dir / "r"
    folder.mkdir()
    with redis.throw_away(folder) as url:
        yield url
