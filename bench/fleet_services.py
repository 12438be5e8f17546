"""A fleet as containers, as docker-compose.yml has it but without compose: made here, and gone at the end."""

import json
import os
from collections.abc import Mapping
from pathlib import Path

from gastown import db, settings
from gastown.db import transaction
from gastown.models import Node, Service
from gastown.runtimes import docker_making as making
from gastown.store import members
from gastown.store.claims import clock
from tests.docker.engine import NoEngine
from tests.docker.fleet import API_PORT, PASSWORD, USER, PostgresContainer, give, port_of, until, user
from tests.docker.litter import Session, docker

REPOSITORY = """
set -e
git init -q -b main /tmp/work && cd /tmp/work
git -c user.name=Bench -c user.email=bench@localhost commit -q --allow-empty -m First
git clone -q --bare . /tmp/repository.git
exec git daemon --enable=receive-pack --export-all --base-path=/tmp --reuseaddr --max-connections=0
"""
REDIS = ("redis-server", "--protected-mode", "no", "--bind", "0.0.0.0", "--appendonly", "yes", "--save", "")
CONFINED = ("--read-only", "--tmpfs=/tmp:mode=1777,size=256m", "--cap-drop=ALL", "--security-opt=no-new-privileges")
FRESH_S = 15  # two signs of life of a worker or the API, and some
MIGRATE_TIMEOUT_S = 120


def engine_socket() -> Path:
    """Of an engine on this machine, for the workers. Raises NoEngine: theirs would have to be another one."""
    where = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
    path = Path(where.removeprefix("unix://"))
    if not where.startswith("unix://") or not path.is_socket():
        raise NoEngine(f"it needs an engine with a socket on this machine, and DOCKER_HOST is {where}")
    return path


class Services:
    """Postgres, Redis, a git server, API, beat, and the workers of one node. Agents have a network of their own."""

    def __init__(self, names: Session, folder: Path, *, control: str, agent: str) -> None:
        self.names, self.home, self.control, self.agent = names, folder / "home", control, agent
        self.node = names.prefix
        self.backend, self.agents = names.name("backend"), names.name("agents")
        self.postgres, self.api = PostgresContainer(names.name("postgres")), names.name("api")
        self.redis, self.git = names.name("redis"), names.name("git")
        self.workers: list[str] = []
        self.are_up = False

    @property
    def repository(self) -> str:
        return f"git://{self.git}/repository.git"

    def up(self, *, workers: int, policy: Mapping[str, int]) -> None:
        """Until each of them has shown itself. Then they are those of all of gastown in this process, too."""
        socket = engine_socket()
        self.home.mkdir()
        give(self.home)
        for network in (self.backend, self.agents):
            docker("network", "create", f"--label={self.names.label}", network)
        self._servers()
        common = {
            "GASTOWN_DATABASE_URL": self.postgres.inside("gastown"),
            "GASTOWN_BROKER_URL": f"redis://{self.redis}:6379/0",
            "GASTOWN_POLICY": json.dumps(policy),
        }
        self._use(policy)
        migrate = self._options("migrate", self.backend, *_variables(common))
        docker("run", "--rm", *migrate, self.control, "db", "upgrade", "--no-backup", timeout_s=MIGRATE_TIMEOUT_S)
        own = {"GASTOWN_API__BIND": f"0.0.0.0:{API_PORT}"}
        self._run(self.api, self.control, "api", options=_variables(common | own), also=self.agents)
        self._run(self.names.name("beat"), self.control, "beat", options=_variables(common))
        own = {
            "GASTOWN_HOME": str(self.home),
            "GASTOWN_NODE": self.node,
            "GASTOWN_RUNTIME": "docker",
            "GASTOWN_NODE_CAPACITY": str(policy["max_running"]),
            "GASTOWN_API__AGENT_URL": f"http://{self.api}:{API_PORT}",
            "GASTOWN_DOCKER__CONTAINER": json.dumps({"image": self.agent, "network": self.agents}),
        }
        mounts = (f"--volume={self.home}:{self.home}", f"--volume={socket}:/var/run/docker.sock")
        group = f"--group-add={socket.stat().st_gid}"
        for number in range(workers):
            name = self.names.name(f"worker{number + 1}")
            self.workers.append(name)
            self._run(name, self.control, "worker", options=(*_variables(common | own), *mounts, group))
        until("the API and each worker have shown themselves", lambda: self._alive(workers))
        self.are_up = True

    def _servers(self) -> None:
        login = (f"--env=POSTGRES_USER={USER}", f"--env=POSTGRES_PASSWORD={PASSWORD}", "--env=POSTGRES_DB=gastown")
        options = (*login, "--publish=127.0.0.1::5432", "--shm-size=128m")
        self._run(self.postgres.name, "postgres:15", "postgres", "-c", "max_connections=300", options=options)
        self._run(self.redis, "redis:7", *REDIS, options=("--publish=127.0.0.1::6379",))
        self._run(self.git, self.agent, "sh", "-c", REPOSITORY, also=self.agents)
        self.postgres.port = port_of(self.postgres.name, 5432)
        until("Postgres answers", self.postgres.answers)

    def _use(self, policy: Mapping[str, int]) -> None:
        from gastown.celery_app import app

        broker = f"redis://127.0.0.1:{port_of(self.redis, 6379)}/0"
        os.environ |= {
            "GASTOWN_HOME": str(self.home),
            "GASTOWN_DATABASE_URL": self.postgres.outside("gastown"),
            "GASTOWN_BROKER_URL": broker,
            "GASTOWN_POLICY": json.dumps(policy),
        }
        settings.get_settings.cache_clear()
        db._engine_of.cache_clear()
        app.conf.broker_url = broker

    def _options(self, name: str, network: str, *more: str) -> tuple[str, ...]:
        return ("--init", f"--label={self.names.label}", f"--network={network}", f"--hostname={name}", *more)

    def _run(self, name: str, image: str, *command: str, options: tuple[str, ...] = (), also: str = "") -> None:
        """`also`: a second network that it is on."""
        confined = (*CONFINED, f"--user={user()}") if image == self.control else ()
        docker("create", f"--name={name}", *self._options(name, self.backend, *confined, *options), image, *command)
        if also:
            docker("network", "connect", also, name)
        docker("start", name)

    def _alive(self, workers: int) -> bool:
        with transaction() as session:
            now = clock(session)
            api, node = session.get(Service, "api"), session.query(Node).filter_by(name=self.node).one_or_none()
            if api is None or node is None or (now - api.alive_at).total_seconds() > FRESH_S:
                return False
            beating = [each for each in members.read(node.workers) if (now - each.at).total_seconds() < FRESH_S]
            return sum(each.starts for each in beating) == workers

    # --- the end

    def containers(self) -> list[str]:
        """Of attempts and gates, also those that have ended."""
        return docker("ps", "--all", "--quiet", "--filter", f"label={making.NODE}={self.node}").split()

    def end(self) -> None:
        """All containers and networks, whatever state they are in. Workers first, since they make others."""
        if self.workers:
            db.engine().dispose()
            docker("rm", "--force", "--volumes", *self.workers)
        for each in self.containers():
            docker("rm", "--force", "--volumes", each)
        self.names.remove_all()


def _variables(environment: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(f"--env={name}={value}" for name, value in environment.items())
