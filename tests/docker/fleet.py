"""What a test needs to drive services in containers, and to see in Postgres what became of it."""

import json
import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import psycopg
import pytest
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from gastown import settings
from gastown.commands import towns, work
from gastown.db import in_transaction, transaction
from gastown.demo import faults
from gastown.models import Bead, Dispatch, Event, MergeRequest, Node
from gastown.states import TERMINAL
from gastown.store.claims import clock
from gastown.store.resync import find_violations
from tests.checks import replay_decisions
from tests.docker.engine import environment
from tests.docker.litter import LABEL, docker, mark
from tests.flows.town import git
from tests.flows.town import until as until_within

T = TypeVar("T")
LABELS = {LABEL: mark(os.getpid())}
ROOT_IDS = (1000, 1000)  # of the services when the tests run as root; else the tests' own
SHARED = "/shared"  # in every container: the folder with the repository, and with the faults that are ordered
FAULTS = f"{SHARED}/faults"
USER, PASSWORD = "gastown", "not-a-secret"
API_PORT = 8484
GIVE_UP_S = 180.0
QUICK = {"backoff_s": [0, 0.5], "inspect_start_s": 1, "merge_lease_s": 15, "max_running": 8, "rig_max_running": 8}


def until(what: str, probe: Callable[[], T | None], timeout_s: float = GIVE_UP_S) -> T:
    """As in the flows, with patience for containers that start on a busy machine."""
    return until_within(what, probe, timeout_s)


def ids() -> tuple[int, int]:
    return ROOT_IDS if os.geteuid() == 0 else (os.getuid(), os.getgid())


def user() -> str:
    return ":".join(map(str, ids()))


def give(folder: Path) -> None:
    """To the user of the services."""
    if os.geteuid() == 0:
        for path in [folder, *folder.rglob("*")]:
            os.chown(path, *ids(), follow_symlinks=False)


def port_of(container: str, inside: int) -> int:
    """On 127.0.0.1, where the engine published it."""

    def published() -> int | None:
        lines = docker("port", container, f"{inside}/tcp").splitlines()
        return int(lines[0].rpartition(":")[2]) if lines else None

    return until(f"{container} has its port", published)


def state_of(container: str) -> dict[str, Any]:
    """As `docker inspect` says it: Running, ExitCode, StartedAt, ..."""
    found: dict[str, Any] = json.loads(docker("inspect", "--format", "{{json .State}}", container))
    return found


@dataclass
class PostgresContainer:
    """A Postgres of this session: for services by its name, for the tests by a port of 127.0.0.1."""

    name: str
    port: int = 0

    def outside(self, database: str) -> str:
        return f"postgresql://{USER}:{PASSWORD}@127.0.0.1:{self.port}/{database}"

    def inside(self, database: str) -> str:
        return f"postgresql://{USER}:{PASSWORD}@{self.name}:5432/{database}"

    def administer(self, *statements: str) -> None:
        with psycopg.connect(self.outside("gastown"), autocommit=True, connect_timeout=3) as connection:
            for statement in statements:
                connection.execute(statement.encode())

    def answers(self) -> bool:
        try:
            self.administer("SELECT 1")
        except psycopg.OperationalError:
            return False
        return True


@dataclass
class Fleet:
    """Services on one network, with a database of their own, and a rig in a folder that all of them share."""

    folder: Path
    database: str  # its URL for services
    image: str
    network: str
    api: str = ""  # the name of its container
    rig: str = "rig"
    policy: dict[str, Any] = field(default_factory=lambda: dict(QUICK))

    def environment(self, broker: str, node: str, **more: str) -> dict[str, str]:
        """Of a service, as a compose file would have it; agents are processes in the worker's own container."""
        return {
            "GASTOWN_DATABASE_URL": self.database,
            "GASTOWN_BROKER_URL": broker,
            "GASTOWN_NODE": node,
            "GASTOWN_POLICY": json.dumps(self.policy),
            "GASTOWN_API__BIND": f"0.0.0.0:{API_PORT}",
            "GASTOWN_API__AGENT_URL": f"http://{self.api}:{API_PORT}",
            "GASTOWN_CONTAINERISED": "",
            "GASTOWN_HOME": self._home(node),
            faults.FOLDER: FAULTS,
        } | more

    def _home(self, node: str) -> str:
        """Of a node its own, which outlives its container."""
        home = self.folder / "homes" / node
        home.mkdir(parents=True, exist_ok=True)
        give(home)
        return f"{SHARED}/homes/{node}"

    def run(self, name: str, environment: dict[str, str], *command: str, entrypoint: str = "gastown") -> str:
        """One more service. Its container's name, by which the others reach it."""
        docker(
            *("run", "--detach", "--init", f"--name={name}", f"--hostname={name}", f"--network={self.network}"),
            *(f"--user={user()}", f"--label={LABEL}={LABELS[LABEL]}", f"--volume={self.folder}:{SHARED}"),
            *("--workdir=/tmp", f"--entrypoint={entrypoint}", "--no-healthcheck"),
            *(f"--env={key}={value}" for key, value in environment.items()),
            *(self.image, *command),
        )
        return name

    # --- work

    def set_policy(self, policy: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
        """For services that are started from now on, and for decisions that this process makes again."""
        self.policy = policy
        monkeypatch.setenv("GASTOWN_POLICY", json.dumps(policy))
        settings.get_settings.cache_clear()

    def new_repository(self) -> None:
        repository = self.folder / "repository"
        repository.mkdir()
        (self.folder / "faults").mkdir()
        git("init", "-q", cwd=repository)
        (repository / "README").write_text("a repository\n")
        git("add", ".", cwd=repository)
        git("commit", "-q", "-m", "First", cwd=repository)
        git("clone", "-q", "--bare", str(repository), str(self.folder / "repository.git"), cwd=self.folder)
        give(self.folder)

    def add_rig(self) -> None:
        new = towns.NewRig(
            name=self.rig,
            repository=f"{SHARED}/repository.git",
            branch="main",
            agent="shell",
            environment={"PATH": "/usr/local/bin:/usr/bin:/bin"},
        )
        in_transaction(lambda session: towns.add_rig(session, towns.ensure_town(session, "default"), new))

    def sling(self, script: str, fault: dict[int, str] | None = None) -> str:
        """A shell bead, for the next tick: nobody is poked. `fault` is ordered by epoch."""

        def write(session: Session) -> str:
            town = towns.ensure_town(session, "default")
            rig = towns.get_rig(session, town, self.rig)
            bead = work.sling(session, town, rig, work.NewBead(title=f"do {script[:40]}", body=script))
            for epoch, kind in (fault or {}).items():
                faults.order(self.folder / "faults", bead, epoch, kind)
            give(self.folder / "faults")
            return bead

        return in_transaction(write)

    # --- what became of it

    def bead(self, bead_id: str) -> Bead:
        with transaction() as session:
            return session.get_one(Bead, bead_id)

    def attempts(self, bead_id: str) -> list[Dispatch]:
        with transaction() as session:
            return list(session.scalars(select(Dispatch).where(Dispatch.bead_id == bead_id).order_by(Dispatch.epoch)))

    def places(self, bead_id: str) -> list[str]:
        """The node of each attempt."""
        statement = select(Node.name).join(Dispatch, Dispatch.node_id == Node.id).where(Dispatch.bead_id == bead_id)
        with transaction() as session:
            return list(session.scalars(statement.order_by(Dispatch.epoch)))

    def ends(self, bead_id: str) -> list[tuple[str, str | None]]:
        return [(str(each.status), each.code) for each in self.attempts(bead_id)]

    def nodes(self) -> list[str]:
        with transaction() as session:
            return sorted(session.scalars(select(Node.name)))

    def now(self) -> datetime:
        """By the database's clock."""
        with transaction() as session:
            return clock(session)

    def merged_at(self, bead_id: str) -> datetime:
        with transaction() as session:
            found = session.scalars(select(MergeRequest.merged_at).where(MergeRequest.bead_id == bead_id)).one()
        assert found is not None
        return found

    def beating(self, *names: str) -> bool:
        """Whether each has said within the last seconds that it is there."""
        with transaction() as session:
            fresh = func.gastown_now() - Node.heartbeat_at < func.make_interval(0, 0, 0, 0, 0, 0, 15)
            return set(names) <= set(session.scalars(select(Node.name).where(fresh)))

    def merged(self, *bead_ids: str, timeout_s: float = GIVE_UP_S) -> None:
        """Waits until each is over, and sees that each is merged, exactly once."""

        def over() -> bool:
            return all(self.bead(each).status in TERMINAL for each in bead_ids)

        until(f"every bead is over: {', '.join(bead_ids)}", over, timeout_s)
        for each in bead_ids:
            assert (self.bead(each).resolution, self.merge_commits(each)) == ("merged", 1), self.ends(each)

    def merge_commits(self, bead_id: str) -> int:
        found = self.git("log", "--merges", "--format=%H", f"--grep=^Gastown-Bead: {bead_id}$", "main")
        return len(found.splitlines())

    def git(self, *arguments: str) -> str:
        return git("-c", "safe.directory=*", *arguments, cwd=self.folder / "repository.git")

    def read(self, path: str) -> str:
        """A file as it is on the target."""
        return self.git("show", f"main:{path}")

    def tell(self) -> str:
        """For a failing test: every bead, its attempts, and what was written about it."""
        with transaction() as session:
            lines = []
            for bead in session.scalars(select(Bead)):
                lines.append(f"{bead.id}: {bead.status} {bead.resolution} {bead.verdict}: {bead.verdict_reason}")
                events = session.scalars(select(Event).where(Event.bead_id == bead.id).order_by(Event.id))
                lines += [f"  {event.at:%H:%M:%S.%f} {event.kind}: {event.message}" for event in events]
        return "\n".join(lines)

    def check(self) -> None:
        """What must hold at the end of any test."""
        with transaction() as session:
            assert find_violations(session) == []
            assert replay_decisions(session) > 0


def stop(container: str, signal: str, timeout_s: float = 60.0) -> int:
    """Send it a signal, and wait for its end: its exit code."""
    docker("kill", "--signal", signal, container)
    return int(docker("wait", container, timeout_s=timeout_s))


def tail(container: str) -> str:
    """For a failing test: the last that it said, on both streams."""
    done = subprocess.run(
        ("docker", "logs", "--tail", "60", container), env=environment(), capture_output=True, text=True, check=False
    )
    return done.stdout + done.stderr
