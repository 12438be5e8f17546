"""A town whose node is a second engine: real rows, a real API for its containers, and tasks that a test calls."""

import os
import threading
from pathlib import Path
from typing import Any

import uvicorn

from gastown.api import create_app
from gastown.commands import towns
from gastown.db import transaction
from gastown.models import Bead, Dispatch
from gastown.runtimes.docker import DockerRuntime
from gastown.store.explain import Explanation, explain
from gastown.tasks import containers
from tests.agent.town import eventually
from tests.builders import a_bead, a_node, a_rig, a_town, attempts_on, the_api_is_there
from tests.docker.own_engine import OwnEngine
from tests.races import committed
from tests.ticks import take_messages, tick, with_hooks

NODE = "docks"
MEMORY_MB, PIDS, UID = 256, 128, 1000


class Served:
    """The API on a port in the network of the second engine."""

    def __init__(self, engine: OwnEngine) -> None:
        config = uvicorn.Config(create_app, factory=True, lifespan="off", ws="none", log_level="critical")
        self._server, self._listener = uvicorn.Server(config), engine.listener()
        self.port = int(self._listener.getsockname()[1])
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self._listener]}, daemon=True)
        self._thread.start()
        eventually(lambda: self._server.started or not self._thread.is_alive())

    def close(self) -> None:
        self._server.should_exit = True
        self._thread.join(timeout=10)
        self._listener.close()


class Yard:
    """One node, one rig, and no worker: what a worker of the node would do is done by calling its tasks."""

    def __init__(self, engine: OwnEngine, home: Path, repository: Path, image: str) -> None:
        self.engine, self.home = engine, home
        home.mkdir(exist_ok=True)
        for path, folders, files in os.walk(repository):  # containers do not run as the user of the tests
            for name in (".", *folders, *files):
                os.chown(os.path.join(path, name), UID, UID)
        self._runtimes: list[DockerRuntime] = []
        container = {"image": image, "memory_mb": MEMORY_MB, "pids": PIDS}
        with transaction() as session:
            the_api_is_there(session)
            a_node(session, NODE, runtime="docker")
            self.rig = a_rig(session, repository=str(repository), container=container)
            self.town = a_town(session)

    def runtime(self) -> DockerRuntime:
        made = DockerRuntime(self.home, node=NODE, url=self.engine.url, user=f"{UID}:{UID}")
        self._runtimes.append(made)
        return made

    def wait_at_most(self, seconds: float) -> None:
        """For an answer of the engine, from the next call on."""
        for each in self._runtimes:
            each.engine._connected().timeout = seconds

    def sling(self, script: str, **values: Any) -> Bead:
        return committed(lambda session: a_bead(session, self.rig, body=script, **values))

    def beat(self) -> None:
        """Its node and the API are there at this time too."""
        committed(the_api_is_there)
        committed(lambda session: towns.beat_node(session, NODE, "docker", 8))

    def start(self, bead: Bead) -> Dispatch:
        """Everything from the tick that decides it to the callbacks of the start."""
        tick()
        for name, args in take_messages(f"node.{NODE}"):
            if name == containers.start_container.name:
                with_hooks(containers.start_container, *args)
        return self.last(bead)

    def look(self, sweep: bool = False) -> None:
        """An inspection, what it asks for, and what is then decided."""
        containers.inspect_containers(NODE, sweep)
        for name, args in take_messages(f"node.{NODE}"):
            assert name == containers.stop_container.name, name
            containers.stop_container(*args)
        tick()

    def last(self, bead: Bead) -> Dispatch:
        return attempts_on(bead.id)[-1]

    def ends(self, bead: Bead) -> list[tuple[str, str | None, str | None]]:
        """How its attempts stand, and whose fault that was."""
        return [(each.status, each.code, each.failure_class) for each in attempts_on(bead.id)]

    def runs(self, bead: Bead) -> Dispatch:
        """Once its newest attempt has made its first call."""
        return eventually(lambda: next((each for each in (self.last(bead),) if each.status == "running"), None))

    def agents_home(self, bead: Bead) -> Path:
        return self.home / "beads" / bead.id / "homes" / bead.id

    def wrote(self, bead: Bead, name: str) -> str:
        """What its agents wrote into a file in their home, once there is something."""
        file = self.agents_home(bead) / name
        return eventually(lambda: file.exists() and file.read_text())

    def containers(self) -> set[str]:
        """The attempts of which there is one."""
        return set(self._runtimes[0].list_names())

    def why(self, bead: Bead) -> Explanation:
        with transaction() as session:
            [found] = explain(session, self.town.id, [bead.id])
        return found

    def close(self) -> None:
        for each in self._runtimes:
            each.engine.close()
