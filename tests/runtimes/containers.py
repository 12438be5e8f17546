"""A town whose attempts are containers."""

import fcntl
import os
import threading
from dataclasses import replace
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

from gastown.agent.runs import RunFiles
from gastown.containers import Container
from gastown.runtimes import RunSpec
from gastown.runtimes.docker import DockerRuntime
from gastown.settings import HOST_ALIAS
from tests.agent.town import Attempt, Town, _handler

NODE = "test-docker"


class ContainerTown(Town):
    """The same town, as containers reach it. Its repository is theirs to read, since no test runs as their user."""

    runtime: DockerRuntime  # type: ignore[assignment]

    def __init__(self, folder: Path, repository: Path, image: str) -> None:
        super().__init__(folder, repository)
        self.runtimes: list[DockerRuntime] = []
        for path, folders, files in os.walk(repository):
            for name in (".", *folders, *files):
                os.chown(os.path.join(path, name), 1000, 1000)
        self.runtime = self.new_runtime()
        self.container = Container(image=image, memory_mb=256, pids=128)

    def new_runtime(self, **changes: Any) -> DockerRuntime:
        """Another one for the same home, as another worker has it."""
        runtime = DockerRuntime(self.home, **{"node": NODE, "user": "1000:1000", **changes})
        self.runtimes.append(runtime)
        return runtime

    def _serve(self, port: int) -> None:
        self.server = ThreadingHTTPServer(("0.0.0.0", port), _handler(self))
        self.server.daemon_threads = True
        self.port = self.server.server_address[1]
        self.url = f"http://{HOST_ALIAS}:{self.port}"
        self._thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()

    def spec(self, attempt: Attempt) -> RunSpec:
        usual = super().spec(attempt)
        return replace(usual, rig_id=7, reads=(self.repository,), container=self.container)

    def start(self, attempt: Attempt) -> int:
        assert self.runtime.start(self.spec(attempt)) is not None
        return 0

    def files(self, attempt: Attempt) -> RunFiles:
        return RunFiles(self.home / "beads" / attempt.assignment.bead_id, attempt.name)

    def look(self, attempt: Attempt) -> dict[str, Any]:
        """What `docker inspect` says of it."""
        found = self.runtime.engine.look(f"gastown-{attempt.name}")
        assert found is not None
        return found

    def close(self) -> None:
        super().close()
        for found in self.runtime.engine.listed(**{"dev.gastown.node": NODE, "dev.gastown.home": self.mark}):
            self.runtime.engine.remove(found["Id"])
        for runtime in self.runtimes:
            runtime.engine.close()

    @property
    def mark(self) -> str:
        return self.runtime._place.mark


def is_held(file: Path) -> bool:
    """Whether a process holds a lock on this file, wherever it runs on this machine."""
    try:
        with file.open("ab") as opened:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False
