"""What every test gets: a clean environment, and on request a real Postgres and a real Redis."""

import os
import shutil
import signal
import tempfile
import uuid
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import Connection, event, make_url

from gastown.embedded import postgres, redis

pytest.register_assert_rewrite("tests.checks", "tests.ticks", "tests.races")
pytest_plugins = ["tests.tables", "tests.docker.plugin"]  # the second says what the marker `docker` means

DEVELOPERS_OWN = ("GASTOWN_", "PG", "GIT_", "XDG_")
# of the test process only; what it starts has the product's own. They end a test that hangs, and none on a busy machine
PATIENT = "-c statement_timeout=60s -c lock_timeout=30s -c idle_in_transaction_session_timeout=60s"
MEMORY_BYTES = 1024**3  # a session's Postgres takes up to 300 MB: its log, and 9 MB for each test that runs


def pytest_configure(config: pytest.Config) -> None:
    """Before anything is imported or started: the developer's settings, databases and git identity are not ours."""
    for name in [name for name in os.environ if name.startswith(DEVELOPERS_OWN)]:
        del os.environ[name]
    # a job that was put into the background ignores Ctrl-C, and so would all that the tests start and interrupt
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """HOME and GASTOWN_HOME of this test alone, so that none touches the developer's; the path of the second."""
    from gastown import settings

    for name in [name for name in os.environ if name.startswith(DEVELOPERS_OWN)]:
        monkeypatch.delenv(name)
    monkeypatch.delenv("COLUMNS", raising=False)  # pytest-xdist sets it, and tables would be that narrow
    person = tmp_path / "person"
    person.mkdir(exist_ok=True)
    monkeypatch.setenv("HOME", str(person))
    monkeypatch.setenv("GASTOWN_HOME", str(tmp_path / "home"))
    settings.get_settings.cache_clear()
    return tmp_path / "home"


@pytest.fixture(scope="session")
def short_dir() -> Iterator[Path]:
    """A folder of this session whose path is short enough for sockets; in memory, where there is room for that.

    Copying the template database takes 15 ms there and 300 ms on a virtual disk: 300 small files.
    """
    memory = Path("/dev/shm")
    roomy = memory.is_dir() and os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > MEMORY_BYTES
    folder = Path(tempfile.mkdtemp(prefix="gt-", dir=memory if roomy else None))
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


def administer(postgres_url: str, *statements: str) -> None:
    """Run statements that no transaction may hold, such as CREATE DATABASE."""
    with psycopg.connect(postgres_url.replace("+psycopg", ""), autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement.encode())


def url_of(postgres_url: str, database: str) -> str:
    return make_url(postgres_url).set(database=database).render_as_string(hide_password=False)


@pytest.fixture(scope="session")
def migrated_template(postgres_url: str) -> str:
    """The name of a database with the newest schema and no rows, to copy."""
    from gastown import db, migrations

    administer(postgres_url, "CREATE DATABASE gastown_template")
    engine = db.make_engine(url_of(postgres_url, "gastown_template"))
    migrations.upgrade(engine)
    engine.dispose()
    administer(url_of(postgres_url, "gastown_template"), "SELECT 1")  # writes the catalog cache that copies start with
    return "gastown_template"


class TestEngine:
    """One engine for all tests of the session, because each has to compile every statement anew (100 ms a test)."""

    __test__ = False

    def __init__(self, url: str) -> None:
        from gastown import db

        self.database = ""
        self.patient = True
        self.engine = db.make_engine(url, pool_size=5, max_overflow=20)
        event.listen(self.engine, "do_connect", self._connect)

    def _connect(self, dialect: object, record: object, arguments: object, options: dict[str, object]) -> None:
        options["dbname"] = self.database
        if self.patient:
            options["options"] = f"{options['options']} {PATIENT}"


@pytest.fixture(scope="session")
def test_engine(postgres_url: str) -> TestEngine:
    return TestEngine(postgres_url)


@pytest.fixture
def database(
    own_home: Path,
    postgres_url: str,
    redis_url: str,
    migrated_template: str,
    test_engine: TestEngine,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[str]:
    """A migrated Postgres of this test alone, and an empty Redis, both in force for all of gastown; its URL.

    Code under test really commits, from as many connections as it likes. The copy takes 15 ms in memory.
    """
    from gastown import db, settings

    name = f"test_{uuid.uuid4().hex}"
    administer(postgres_url, f"CREATE DATABASE {name} TEMPLATE {migrated_template} STRATEGY file_copy")
    monkeypatch.setenv("GASTOWN_DATABASE_URL", url_of(postgres_url, name))
    monkeypatch.setenv("GASTOWN_BROKER_URL", redis_url)
    settings.get_settings.cache_clear()
    ours, make_engine = settings.get_settings().database, db.make_engine
    test_engine.database = name
    monkeypatch.setattr(
        db, "make_engine", lambda url, **more: test_engine.engine if url == ours else make_engine(url, **more)
    )
    db._engine_of.cache_clear()
    use_broker(redis_url, monkeypatch)
    try:
        yield url_of(postgres_url, name)
    finally:
        db.engine().dispose()
        db._engine_of.cache_clear()
        settings.get_settings.cache_clear()
        administer(postgres_url, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def products_deadlines(database: str, test_engine: TestEngine) -> Iterator[None]:
    """Connections wait as short as the product's do (DESIGN 3)."""
    test_engine.patient = False
    test_engine.engine.dispose()
    yield
    test_engine.patient = True


class Clock:
    """The time as this process's transactions see it. Stands still until it is moved."""

    def __init__(self, now: datetime) -> None:
        self.now = now

    def advance(self, seconds: float) -> datetime:
        self.now += timedelta(seconds=seconds)
        return self.now


@pytest.fixture
def clock(database: str) -> Iterator[Clock]:
    """It is noon in the database, in every transaction that this process begins from now on (L11: the one clock)."""
    from gastown import db
    from tests.views import NOON

    clock = Clock(NOON)

    def set_time(connection: Connection) -> None:
        connection.exec_driver_sql("SELECT set_config('gastown.now', %s, true)", (clock.now.isoformat(),))

    event.listen(db.engine(), "begin", set_time)
    yield clock
    event.remove(db.engine(), "begin", set_time)


def use_broker(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Point the Celery app of this process at this Redis, and empty it. The app reads its settings once, on import."""
    from gastown.celery_app import app

    if app.conf.broker_url != url:
        app.close()  # its pool of connections to another broker
        monkeypatch.setattr(app.conf, "broker_url", url)
    with app.connection_for_write() as connection:
        connection.default_channel.client.flushdb()
