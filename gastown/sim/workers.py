"""Celery as the product meets it: workers that take messages, run tasks, call their hooks, and die in every way.

What a real worker does was measured: a body that raised has `on_failure` called in its process; one that was killed,
or ran out of its hard time limit, has only the parent's signal, later; of a worker that was killed nothing is heard.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from sqlalchemy.exc import SQLAlchemyError

from gastown.celery_app import app, node_queue
from gastown.errors import GastownError
from gastown.sim.actors import Actor
from gastown.sim.broker import Message
from gastown.sim.nodes import Node
from gastown.store.moves import MoveLost
from gastown.store.orders import MergeOrder
from gastown.tasks.containers import StartTask, start_died
from gastown.tasks.leases import Lease

if TYPE_CHECKING:
    from gastown.sim.world import World

# what only a fault in the product raises; anything else is what the outside did to it
FAULTS = (ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError)
OUR_FAULTS = (*FAULTS, MoveLost, SQLAlchemyError)


@dataclass
class Worker:
    """One Celery worker; each of its lives claims rows under another name."""

    name: str
    node: Node
    queues: tuple[str, ...]
    processes: int = 3
    life: int = 1
    up: bool = True
    shutting_down: bool = False
    joined: bool = False  # took up what its earlier life had claimed
    beat_at: datetime | None = None

    @property
    def hostname(self) -> str:
        return f"{self.name}@{self.node.name}"

    @property
    def takes_starts(self) -> bool:
        """It beats for its node."""
        return node_queue(self.node.name) in self.queues

    @property
    def this_life(self) -> str:
        return f"{sum(map(ord, self.name)) % 4096:03x}{self.life:09x}"


@dataclass
class Job:
    """A task that a worker runs."""

    worker: Worker
    message: Message
    began_at: datetime
    actor: Actor


class Fleet:
    """All workers, and what they run."""

    def __init__(self, world: "World") -> None:
        self.world = world
        self.workers: dict[str, Worker] = {}
        self.jobs: dict[str, Job] = {}  # by the name of the actor

    def takers(self, message: Message) -> list[Worker]:
        return [
            worker
            for worker in self.workers.values()
            if worker.up
            and worker.node.connected
            and not worker.shutting_down
            and message.queue in worker.queues
            and sum(job.worker is worker for job in self.jobs.values()) < worker.processes
        ]

    def is_read(self, queue: str) -> bool:
        """Some worker reads it, or did, or will when it is back."""
        return any(queue in worker.queues and worker.node.joined for worker in self.workers.values())

    def deliver(self, message: Message, worker: Worker) -> None:
        """The worker runs the task, up to where something else may happen."""
        self.world.broker.remove(message)
        if message.task == "gastown.housekeeping":
            return  # files and old rows: nothing of what is proven here
        task = app.tasks[message.task]
        actor = self.world.stage.add(
            f"{message.label} on {worker.name}", lambda: self._run(task, message, worker), home=worker
        )
        actor.on_end = self._ended
        self.jobs[actor.name] = Job(worker, message, self.world.now, actor)
        self.world.advance(actor)

    def _run(self, task: Any, message: Message, worker: Worker) -> Any:
        task.push_request(args=message.args, kwargs={}, hostname=worker.hostname)
        try:
            result = task.run(*message.args)
        except Exception as error:
            if not isinstance(task, StartTask) or isinstance(error, OUR_FAULTS):
                raise
            task.on_failure(error, "", message.args, {}, None)
            start_died(sender=task, exception=error, args=message.args, kwargs={})
            return None
        finally:
            task.pop_request()
        if isinstance(task, StartTask):
            task.on_success(result, "", message.args, {})
        return result

    def _ended(self, actor: Actor) -> None:
        self.jobs.pop(actor.name, None)
        if actor.error is not None and not actor.killed and not isinstance(actor.error, GastownError):
            self.world.fail("a task raised", f"{actor.name}: {type(actor.error).__name__}: {actor.error}")

    def kill(self, job: Job) -> None:
        """The pool process is gone, by a signal or by the hard time limit: its parent hears of it."""
        self._end(job)
        task = app.tasks[job.message.task]
        if isinstance(task, StartTask):
            died = self.world.stage.add(
                f"died {job.message.label} on {job.worker.name}",
                lambda: start_died(sender=task, exception=OSError("killed"), args=job.message.args, kwargs={}),
                home=job.worker,
            )
            died.on_end = self._ended

    def crash(self, worker: Worker) -> None:
        """All of the worker is gone, and nobody hears of anything."""
        worker.up = worker.joined = worker.shutting_down = False
        for job in [job for job in self.jobs.values() if job.worker is worker]:
            self._end(job)
        for actor in [each for each in self.world.stage.actors.values() if each.home is worker]:
            self.world.kill(actor)

    def _end(self, job: Job) -> None:
        self.jobs.pop(job.actor.name, None)
        self.world.kill(job.actor)

    def revive(self, worker: Worker) -> None:
        worker.up, worker.life, worker.beat_at = True, worker.life + 1, None

    def enforce_limits(self) -> None:
        """What ran longer than its hard limit is killed."""
        for job in list(self.jobs.values()):
            limit = app.tasks[job.message.task].time_limit
            if limit is not None and self.world.now > job.began_at + timedelta(seconds=limit):
                self.kill(job)


class SimLease(Lease):
    """A lease that is beaten by an actor: when it is due, and somebody lets it."""

    def __init__(self, world: "World", order: MergeOrder) -> None:
        super().__init__(order)
        self.world = world
        self.worker: Worker | None = None
        self.due_at = world.now + timedelta(seconds=order.lease_s / 3)

    @contextmanager
    def held(self) -> Iterator["SimLease"]:
        assert self.world.stage.current is not None
        self.worker = self.world.stage.current.home
        self.world.leases.append(self)
        try:
            yield self
        finally:
            self.world.leases.remove(self)

    @property
    def name(self) -> str:
        return self.world.name_of(str(self.order.dispatch_id))

    def beat(self) -> None:
        actor = self.world.stage.add(f"lease {self.name}", self.renew, home=self.worker)
        self.due_at = self.world.now + timedelta(seconds=self.order.lease_s / 3)
        self.world.advance(actor)
