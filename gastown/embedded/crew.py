"""The Celery workers of a machine or container that is part of a fleet, under one small parent: `gastown worker`.

Four of them, as in the embedded stack: however many starts or inspections hang, ticks and merges have processes of
their own. One that dies is started again; a signal that ends the parent ends them, each after the task it is at.
"""

import socket
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from gastown.embedded import health, ready, services
from gastown.embedded.service import INHERITED, Service
from gastown.embedded.status import ChildState
from gastown.embedded.wakeups import Wakeups
from gastown.errors import UsageError
from gastown.settings import Settings

NODE_QUEUES = ("node", "watch")  # each machine has its own: node.<name>
WORKERS = {"control": ("control",), "watch": ("watch", "upkeep"), "worker": ("node",), "merge": ("merge",)}
QUEUES = tuple(queue for queues in WORKERS.values() for queue in queues)
REST_S = 60.0
POLL_S = 0.2  # while one is to become ready, or to end


class Crew:
    """The workers of `queues`. `run` returns when it was told to stop and all of them have ended."""

    def __init__(
        self, settings: Settings, queues: Sequence[str], concurrency: int | None, say: Callable[[str], None]
    ) -> None:
        self.say = say
        self.wakeups = Wakeups()
        self.folder = health.FOLDER if health.is_containerised() else Path(tempfile.mkdtemp(prefix="gastown-worker-"))
        self.folder.mkdir(mode=0o700, exist_ok=True)
        self.workers = [
            self._worker(
                settings, name, [_queue(settings, each) for each in own], _processes(settings, name, concurrency)
            )
            for name, all_of_it in WORKERS.items()
            if (own := [each for each in all_of_it if each in queues])
        ]

    def run(self) -> None:
        health.note(self.folder, workers=[_celery_name(each.name) for each in self.workers])
        with self.wakeups:
            for each in self.workers:
                each.try_start()
            while not self.wakeups.asked:
                self._tend()
                waits = [each.next_start_at - time.monotonic() for each in self.workers if each.process is None]
                starting = any(each.state is ChildState.STARTING for each in self.workers)
                self.wakeups.rest(POLL_S if starting else min([REST_S, *waits]))
            self.say("stopping: each worker ends when its task does")
            self._stop()

    def _tend(self) -> None:
        for each in self.workers:
            before = each.state
            if each.look() and each.state in (ChildState.RESTARTING, ChildState.FAILING):
                self.say(f"{each.name} {each.reason}; starting it again")
            elif before is ChildState.STARTING and each.state is ChildState.READY:
                self.say(f"{each.name} is ready")
            if each.process is None and time.monotonic() >= each.next_start_at:
                each.try_start()

    def _stop(self) -> None:
        """They end warm. A second signal ends them now, and what they were at is left to leases and inspection."""
        for each in self.workers:
            each.ask_to_stop()
        while not all(each.ended for each in self.workers) and len(self.wakeups.asked) < 2:
            self.wakeups.rest(POLL_S)
        for each in self.workers:
            each.end(grace_s=0.0)
            ready.path(self.folder, _celery_name(each.name)).unlink(missing_ok=True)

    def _worker(self, settings: Settings, name: str, queues: Sequence[str], processes: int) -> Service:
        celery_name = _celery_name(name)
        told = ready.path(self.folder, celery_name)
        return Service(
            name=name,
            argv=services.worker_command(services.APP, celery_name, queues, processes),
            log=INHERITED,
            cwd=Path.cwd(),
            env=services.environment(settings, {ready.FOLDER: str(self.folder)}),
            orphan_signal=services.ORPHANED_WORKER,
            before=lambda quick_deaths: told.unlink(missing_ok=True),
            is_ready=lambda pid: services.holds(told, pid),
        )


def queues_of(names: str | None) -> list[str]:
    """What `--queues a,b` means; None is all. Raises UsageError."""
    wanted = [each.strip() for each in names.split(",")] if names is not None else list(QUEUES)
    unknown = sorted(set(wanted) - set(QUEUES))
    if unknown:
        hint = f"there are {', '.join(QUEUES)}; node and watch are those of this node"
        raise UsageError(f"no queue is called {', '.join(map(repr, unknown))}", hint=hint)
    return wanted


def _queue(settings: Settings, name: str) -> str:
    return f"{name}.{settings.node}" if name in NODE_QUEUES else name


def _processes(settings: Settings, name: str, concurrency: int | None) -> int:
    if name == "worker":
        return concurrency or settings.worker_processes
    return settings.merge_processes if name == "merge" else int(services.CONTROL_PROCESSES)


def _celery_name(name: str) -> str:
    """Of a container its own: replicas share a node, and no two workers may have one name."""
    return f"{name}@{socket.gethostname()}"
