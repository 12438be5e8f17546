"""Services in containers: a Postgres of the session, and what pytest-celery needs for our own worker image.

Of pytest-celery, brokers, workers and their clusters are used as they are; its own worker image and app are not.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker as docker_sdk
import pytest
import pytest_docker_tools.wrappers.container
from celery import Celery
from pytest_celery import (
    CeleryBrokerCluster,
    CeleryTestContainer,
    CeleryTestSetup,
    CeleryWorkerContainer,
    RabbitMQContainer,
    RedisContainer,
)
from pytest_docker_tools import container, fxtr, network
from pytest_docker_tools.exceptions import ContainerFailed

from gastown import db, migrations, settings
from tests.docker.fleet import (
    LABELS,
    PASSWORD,
    QUICK,
    SHARED,
    USER,
    Fleet,
    PostgresContainer,
    port_of,
    tail,
    until,
    user,
)
from tests.docker.litter import Session, docker
from tests.docker.town import Town

# It takes a machine with /.dockerenv for a container, where published ports would be of no use. Some machines have one.
pytest_docker_tools.wrappers.container.tests_inside_container = lambda: False

BROKERS = ("celery_redis_broker", "celery_rabbitmq_broker")
NODE = "box"
CONTAINER_TIMEOUT_S = 180


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker("docker")
            if item.get_closest_marker("timeout") is None:
                item.add_marker(pytest.mark.timeout(600))


@pytest.fixture(scope="session")
def docker_client() -> Iterator[docker_sdk.DockerClient]:
    """As pytest-docker-tools has it, and closed at the end."""
    client = docker_sdk.from_env()
    yield client
    client.close()


default_pytest_celery_network = network(scope="session", labels=LABELS)


@pytest.fixture(scope="session")
def postgres_container(litter: Session, default_pytest_celery_network: Any) -> Iterator[PostgresContainer]:
    """A real Postgres 15 in a container, with the newest schema in the database `template`."""
    running = PostgresContainer(litter.name("postgres"))
    docker(
        *("run", "--detach", f"--name={running.name}", f"--label={litter.label}", "--publish=127.0.0.1::5432"),
        *(f"--network={default_pytest_celery_network.name}", "--shm-size=256m"),
        *(f"--env=POSTGRES_USER={USER}", f"--env=POSTGRES_PASSWORD={PASSWORD}", "--env=POSTGRES_DB=gastown"),
        *("postgres:15", "postgres", "-c", "fsync=off", "-c", "full_page_writes=off"),
    )
    running.port = port_of(running.name, 5432)
    until("Postgres answers", running.answers)
    running.administer("CREATE DATABASE template")
    engine = db.make_engine(running.outside("template").replace("postgresql:", "postgresql+psycopg:"))
    migrations.upgrade(engine)
    engine.dispose()
    yield running
    docker("rm", "--force", "--volumes", running.name)


@pytest.fixture
def fleet_database(postgres_container: PostgresContainer, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A migrated database of this test alone, in force for this process; its name."""
    name = f"test_{os.urandom(6).hex()}"
    postgres_container.administer(f"CREATE DATABASE {name} TEMPLATE template")
    monkeypatch.setenv("GASTOWN_DATABASE_URL", postgres_container.outside(name))
    monkeypatch.setenv("GASTOWN_BROKER_URL", "redis://127.0.0.1:1/0")  # nothing in this process sends messages
    monkeypatch.setenv("GASTOWN_POLICY", json.dumps(QUICK))  # as the services have it, for decisions made again
    settings.get_settings.cache_clear()
    db._engine_of.cache_clear()
    yield name
    db.engine().dispose()
    db._engine_of.cache_clear()
    settings.get_settings.cache_clear()
    postgres_container.administer(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def fleet(
    fleet_database: str,
    postgres_container: PostgresContainer,
    default_pytest_celery_network: Any,
    control_image: str,
    tmp_path: Path,
) -> Fleet:
    """A database, a repository and a rig, and nobody yet who works on it."""
    folder = tmp_path / "shared"
    folder.mkdir()
    fleet = Fleet(
        folder=folder,
        database=postgres_container.inside(fleet_database),
        image=control_image,
        network=default_pytest_celery_network.name,
        api=f"api-{fleet_database[-8:]}",
    )
    fleet.new_repository()
    fleet.add_rig()
    return fleet


# --- pytest-celery


class Setup(CeleryTestSetup):
    """Its app must not become the current one: the tests of this process use the product's."""

    @classmethod
    def create_setup_app(cls, celery_setup_config: dict[str, Any], celery_setup_app_name: str) -> Celery:
        app = Celery(celery_setup_app_name, set_as_current=False)
        app.config_from_object(celery_setup_config)
        return app


class Watched(CeleryTestContainer):
    """One that ends before it is ready is no reason to wait: pytest-celery alone would, for two minutes."""

    def _wait_ready(self, timeout: int = CONTAINER_TIMEOUT_S) -> bool:
        def says_so() -> bool:
            self.reload()
            if self.status == "exited":
                raise ContainerFailed(self, f"{self.name} ended before it was ready:\n{self.logs()[-3000:]}")
            return self.ready_prompt in self.logs()

        return until(f"{self.name} is ready", says_so, timeout)


class Redis(Watched, RedisContainer): ...


class RabbitMQ(Watched, RabbitMQContainer): ...


class GastownWorker(Watched, CeleryWorkerContainer):
    """The project's own image with the project's own app, whose starts can be told to fail. No code is injected."""

    @classmethod
    def command(cls, *args: str, **_: Any) -> list[str]:
        queues = f"control,upkeep,merge,node.{NODE},watch.{NODE}"
        app = ("-A", "gastown.demo.faulty_app", "worker", f"--hostname=all@{NODE}", f"--queues={queues}")
        return [*app, "--concurrency=6", "--loglevel=INFO", "--without-gossip", "--without-mingle", *args]


@pytest.fixture
def celery_setup_cls() -> type[CeleryTestSetup]:
    return Setup


@pytest.fixture
def default_worker_container_cls() -> type[CeleryWorkerContainer]:
    return GastownWorker


@pytest.fixture(scope="session")
def default_worker_container_session_cls() -> type[CeleryWorkerContainer]:
    return GastownWorker


@pytest.fixture
def celery_broker_cluster(request: pytest.FixtureRequest) -> Iterator[CeleryBrokerCluster]:
    """One broker in a container: Redis, unless the test is parametrized with one of BROKERS."""
    cluster = CeleryBrokerCluster(request.getfixturevalue(getattr(request, "param", BROKERS[0])))
    yield cluster
    cluster.teardown()


@pytest.fixture
def celery_backend_cluster() -> None:
    """Nobody waits for results: Postgres holds the truth."""


@pytest.fixture
def default_worker_env(fleet: Fleet, celery_worker_cluster_config: dict[str, Any]) -> dict[str, str]:
    [url] = celery_worker_cluster_config["celery_broker_cluster_config"]["urls"]
    return fleet.environment(url, NODE)


@pytest.fixture
def shared_folder(fleet: Fleet) -> dict[str, dict[str, str]]:
    return {str(fleet.folder): {"bind": SHARED, "mode": "rw"}}


default_redis_broker = container(
    image="redis:7",
    ports={"6379/tcp": None},
    network="{default_pytest_celery_network.name}",
    wrapper_class=Redis,
    timeout=CONTAINER_TIMEOUT_S,
    command=fxtr("default_redis_broker_command"),
    labels=LABELS,
)

default_rabbitmq_broker = container(
    image="rabbitmq:3",
    ports={"5672/tcp": None},
    network="{default_pytest_celery_network.name}",
    wrapper_class=RabbitMQ,
    timeout=CONTAINER_TIMEOUT_S,
    labels=LABELS,
)

default_worker_container = container(
    image="{control_image}",
    entrypoint=["celery"],
    command=fxtr("default_worker_command"),
    environment=fxtr("default_worker_env"),
    network="{default_pytest_celery_network.name}",
    volumes=fxtr("shared_folder"),
    wrapper_class=GastownWorker,
    user=user(),
    working_dir="/tmp",
    init=True,
    timeout=CONTAINER_TIMEOUT_S,
    labels=LABELS,
)


@pytest.fixture
def town(fleet: Fleet, celery_setup: CeleryTestSetup, default_worker_env: dict[str, str]) -> Iterator[Town]:
    """A worker, a broker, an API and a beat, each in a container of its own."""
    town = Town(fleet, celery_setup, default_worker_env)
    try:
        town.begin()
        yield town
        fleet.check()
    finally:
        town.end()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """A test that failed quotes its containers, while they are there."""
    report = yield
    used = getattr(item, "funcargs", {})
    containers = [each for name in ("town", "hosts") if name in used for each in used[name].containers]
    if report.when == "call" and report.failed and containers:
        report.sections.append(("beads", used["fleet"].tell()))
        report.sections.extend((each, tail(each)) for each in containers)
    return report
