"""What a flow test needs to drive a real stack, and to see what became of it."""

import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import kombu.pools
import psutil
import pytest
from sqlalchemy import select

from gastown import db, settings
from gastown.agent.runs import RunFiles
from gastown.commands import towns, work
from gastown.db import in_transaction, transaction
from gastown.demo import faults
from gastown.embedded import control
from gastown.errors import DatabaseUnavailable
from gastown.models import Bead, Dispatch, Event, MergeRequest, Rig
from gastown.presets.environment import capture
from gastown.settings import Settings
from gastown.states import TERMINAL
from gastown.store.resync import find_violations
from gastown.tasks.base import poke
from tests import tables
from tests.checks import replay_decisions
from tests.flows.watch import AgentWatch

T = TypeVar("T")
FAULTS = "faults: time to the next attempt queued, attempts, agents at one time"
GIVE_UP_S = 120.0


def until(what: str, probe: Callable[[], T | None], timeout_s: float = GIVE_UP_S) -> T:
    """The first true answer of `probe`; fails the test when there is none in time. A database that is away is a no."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        with suppress(DatabaseUnavailable):
            answer = probe()
            if answer:
                return answer
        time.sleep(0.03)
    raise AssertionError(f"not within {timeout_s:.0f} s: {what}")


def git(*arguments: str, cwd: Path) -> str:
    identity = ["-c", "user.name=Somebody", "-c", "user.email=somebody@localhost", "-c", "init.defaultBranch=main"]
    done = subprocess.run(["git", *identity, *arguments], cwd=cwd, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def forget_broker(app: Any) -> None:
    """Connections to another test's broker are pooled in the app, and below it in kombu."""
    app._after_fork()
    kombu.pools.reset()


@dataclass
class Town:
    """A stack, and the rig that the test at hand made on it."""

    settings: Settings
    folder: Path
    environment: dict[str, str]
    watch: AgentWatch
    rig: str = ""
    repository: Path = field(default_factory=Path)
    rigs: int = 0

    # --- the stack

    def start(self) -> None:
        control.start_detached(self.settings, app="gastown.demo.faulty_app", env=self.environment)

    def child(self, name: str) -> int:
        """The pid of a process of the stack, once it has one."""

        def pid() -> int | None:
            children = control.read_status(self.settings).children
            return next((child.pid for child in children if child.name == name), None)

        return until(f"{name} runs", pid)

    def kill_everything(self) -> None:
        """kill -9 of the supervisor and all children of the stack; attempts are none of them."""
        status = control.read_status(self.settings)
        assert status.pid is not None
        for pid in [status.pid, *(child.pid for child in status.children if child.pid)]:
            for each in [*_descendants(pid), pid]:
                _kill(each)

    def kill_attempt(self, name: str) -> None:
        """kill -9 of an attempt's supervisor, if it still runs."""
        supervisor = RunFiles(self.settings.home, name).supervisor()
        if supervisor is not None and supervisor.alive:
            _kill(supervisor.pid)

    @contextmanager
    def entered(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        """This process speaks to this stack."""
        from gastown.celery_app import app

        for name, value in self.environment.items():
            monkeypatch.setenv(name, value)
        settings.get_settings.cache_clear()
        db._engine_of.cache_clear()
        monkeypatch.setattr(app.conf, "broker_url", self.settings.broker)
        forget_broker(app)
        try:
            yield
            with transaction() as session:
                assert find_violations(session) == []
                assert replay_decisions(session) > 0
        finally:
            db.engine().dispose()
            db._engine_of.cache_clear()
            settings.get_settings.cache_clear()
            forget_broker(app)

    # --- work

    def new_rig(self, *gates: str, bare: bool = False, policy: dict[str, Any] | None = None, **options: Any) -> None:
        self.rigs += 1
        self.rig = f"rig{self.rigs}-{os.urandom(2).hex()}"
        self.repository = self.folder / self.rig
        self.repository.mkdir()
        git("init", "-q", cwd=self.repository)
        (self.repository / "README").write_text("a repository\n")
        git("add", ".", cwd=self.repository)
        git("commit", "-q", "-m", "First", cwd=self.repository)
        if bare:
            checkout = self.repository
            self.repository = self.folder / f"{self.rig}.git"
            git("clone", "-q", "--bare", str(checkout), str(self.repository), cwd=self.folder)
        new = towns.NewRig(
            name=self.rig,
            repository=str(self.repository),
            branch="main",
            agent="shell",
            gates=list(gates),
            environment=capture(os.environ),
            **options,
        )

        def write(session: Any) -> None:
            towns.add_rig(session, towns.ensure_town(session, "default"), new).policy = policy or {}

        in_transaction(write)

    def sling(
        self,
        script: str,
        *,
        after: list[str] | None = None,
        fault: dict[int, str] | None = None,
        message: str | None = None,
    ) -> str:
        """A shell bead. `fault` is ordered by epoch, `message` for the first start, before anybody can start it."""

        orders = Path(self.environment[faults.FOLDER])

        def write(session: Any) -> str:
            town = towns.ensure_town(session, "default")
            rig = towns.get_rig(session, town, self.rig)
            new = work.NewBead(title=f"do {script.splitlines()[0][:40]}", body=script, after=after or [])
            bead_id = work.sling(session, town, rig, new)
            for epoch, kind in (fault or {}).items():
                faults.order(orders, bead_id, epoch, kind)
            if message is not None:
                faults.order_message(orders, bead_id, 1, message)
            return bead_id

        bead_id = in_transaction(write)
        poke()
        return bead_id

    # --- what became of it

    def bead(self, bead_id: str) -> Bead:
        with transaction() as session:
            return session.get_one(Bead, bead_id)

    def attempts(self, bead_id: str) -> list[Dispatch]:
        with transaction() as session:
            statement = select(Dispatch).where(Dispatch.bead_id == bead_id).order_by(Dispatch.epoch)
            return list(session.scalars(statement))

    def request(self, bead_id: str) -> MergeRequest:
        with transaction() as session:
            statement = select(MergeRequest).where(MergeRequest.bead_id == bead_id).order_by(MergeRequest.id.desc())
            return session.scalars(statement.limit(1)).one()

    def events(self, bead_id: str) -> list[Event]:
        with transaction() as session:
            return list(session.scalars(select(Event).where(Event.bead_id == bead_id).order_by(Event.id)))

    def merged(self, *bead_ids: str, timeout_s: float = GIVE_UP_S) -> None:
        """Waits until each is over, and sees that each is merged, exactly once, with one agent at a time."""

        def over() -> bool:
            return all(self.bead(each).status in TERMINAL for each in bead_ids)

        try:
            until("every bead is over", over, timeout_s)
        except AssertionError:
            raise AssertionError("\n".join(self.tell(each) for each in bead_ids)) from None
        for each in bead_ids:
            assert self.bead(each).resolution == "merged", self.tell(each)
            assert self.merge_commits(each) == 1, git("log", "--graph", "--oneline", "main", cwd=self.repository)
            assert self.watch.most.get(each, 0) <= 1

    def measure(self, fault: str, bead_id: str, struck_at: datetime | None = None) -> None:
        """For the table at the end of a test run: from the fault to the next attempt, and how many agents overlapped.

        The fault struck when the first attempt's start was claimed, unless the test knows better.
        """
        attempts = self.attempts(bead_id)
        struck_at = struck_at or attempts[0].starting_at
        after = [each.queued_at for each in attempts if each.queued_at > struck_at]
        gap = f"{(after[0] - struck_at).total_seconds():.2f} s" if after else "none was needed"
        tables.add(FAULTS, f"{fault:55} {gap:>16} {len(attempts):3} {self.watch.most.get(bead_id, 0):3}")

    def merge_commits(self, bead_id: str) -> int:
        found = git("log", "--merges", "--format=%H", f"--grep=^Gastown-Bead: {bead_id}$", "main", cwd=self.repository)
        return len(found.splitlines())

    def tell(self, bead_id: str) -> str:
        """For a failing test: the bead's story."""
        bead = self.bead(bead_id)
        lines = [f"{bead_id}: {bead.status} {bead.resolution} {bead.verdict}: {bead.verdict_reason}"]
        lines += [
            f"  {event.at:%H:%M:%S.%f} {event.kind} {event.actor}: {event.message}" for event in self.events(bead_id)
        ]
        return "\n".join(lines)

    def rig_row(self) -> Rig:
        with transaction() as session:
            return session.scalars(select(Rig).where(Rig.name == self.rig)).one()

    def read(self, path: str) -> str:
        """A file as it is on the target."""
        return git("show", f"main:{path}", cwd=self.repository)

    def agent_alive(self, bead_id: str) -> int | None:
        """The pid of an agent process that works on the bead."""
        for process in psutil.process_iter():
            try:
                environment = process.environ()
            except psutil.Error:
                continue
            if environment.get("GASTOWN_BEAD") == bead_id and "GASTOWN_AGENT" in environment:
                return process.pid
        return None


@contextmanager
def run_town(folder: Path, *, policy: dict[str, Any], worker_processes: int = 3) -> Iterator[Town]:
    """A stack in a home of its own, which is gone afterwards, with all its agents."""
    home = Path(tempfile.mkdtemp(prefix="gt-flow-"))
    orders = home / "orders"
    orders.mkdir()
    environment = {
        "GASTOWN_HOME": str(home),
        "GASTOWN_API__BIND": f"127.0.0.1:{free_port()}",
        "GASTOWN_WORKER_PROCESSES": str(worker_processes),
        "GASTOWN_POLICY": json.dumps(policy),
        faults.FOLDER: str(orders),
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        town = Town(settings=settings.load(), folder=folder, environment=environment, watch=AgentWatch())
    town.watch.start()
    try:
        town.start()
        yield town
    finally:
        town.watch.end()
        control.stop(town.settings)
        _end_agents(home)
        shutil.rmtree(home)


def _end_agents(home: Path) -> None:
    from gastown.runtimes.process import ProcessRuntime

    runtime = ProcessRuntime(home)
    for name in runtime.list_names():
        runtime.stop(name, grace_s=5)


def _descendants(pid: int) -> list[int]:
    try:
        return [child.pid for child in psutil.Process(pid).children(recursive=True)]
    except psutil.Error:
        return []


def _kill(pid: int) -> None:
    try:
        psutil.Process(pid).kill()
    except psutil.NoSuchProcess:
        return
