"""The broker: queues as lists, whose messages may be lost, doubled, late, or out of order."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import datetime, timedelta
from types import SimpleNamespace
from typing import Any

from kombu.exceptions import OperationalError

from gastown.sim.actors import Option, Stage

ALIKE = 2
MANY = 150  # messages of one queue that nobody took: it would grow for ever
SHORT = {
    "gastown.reconcile": "tick",
    "gastown.start_container": "start",
    "gastown.stop_container": "stop",
    "gastown.inspect_containers": "inspect",
    "gastown.merge": "merge",
    "gastown.resync": "resync",
    "gastown.dispatch": "dispatch",
    "gastown.housekeeping": "housekeeping",
}
PUBLISHED, LOST = Option("go", 30), Option("lost", 0.6, fault=True)


@dataclass
class Message:
    label: str
    task: str
    args: tuple[Any, ...]
    queue: str
    expires_at: datetime

    def again(self) -> "Message":
        return Message(self.label, self.task, self.args, self.queue, self.expires_at)


class SimBroker:
    """In place of Celery's way of sending messages."""

    def __init__(self, stage: Stage, clock: Callable[[], datetime], name_of: Callable[[str, Any], str]) -> None:
        self.stage, self.clock, self.name_of = stage, clock, name_of
        self.on_publish: Callable[[str, tuple[Any, ...]], None] = lambda *_: None
        self.is_read: Callable[[str], bool] = lambda _queue: True  # by a worker that was there at least once
        self.on_pile: Callable[[str, int], None] = lambda *_: None
        self.up = True
        self.queues: dict[str, list[Message]] = {}

    def send_task(self, name: str, args: Any = (), queue: Any = "control", expires: float = 60.0, **_: Any) -> None:
        chosen = self.stage.pause(f"publishes {SHORT[name]}", (PUBLISHED, LOST))
        if not self.up:
            raise OperationalError("the broker is away")
        self.on_publish(name, tuple(args))
        if chosen != LOST.name:
            self.put(name, tuple(args), getattr(queue, "name", queue), expires)

    def send_task_message(self, _: Any, name: str, message: Any, *, queue: Any, expiration: float, **__: Any) -> None:
        """In place of Celery's, for messages that are made already."""
        self.send_task(name, message.body[0], queue, expiration)

    @contextmanager
    def producer_or_acquire(self, *_: Any) -> Iterator[Any]:
        """In place of Celery's: what is sent through it goes out one by one, since any part of it may get lost."""
        connection = SimpleNamespace(connection_errors=(OSError,))
        yield SimpleNamespace(batch=nullcontext, connection=connection)

    def put(self, name: str, args: tuple[Any, ...], queue: str, expires_s: float) -> None:
        words = [SHORT[name], *(self.name_of(name, each) for each in args)]
        message = Message(" ".join(words), name, args, queue, self.clock() + timedelta(seconds=expires_s))
        waiting = self.queues.setdefault(queue, [])
        waiting[:] = [each for each in waiting if each.expires_at > self.clock()]
        if name == "gastown.reconcile" and sum(each.label == message.label for each in waiting) >= ALIKE:
            return  # lost, as any message may be: more of the same ticks would only take the time of other things
        waiting.append(message)
        if len(waiting) > MANY or not self.is_read(queue):
            self.on_pile(queue, len(waiting))

    def waiting(self) -> list[Message]:
        """Each message that could be delivered now, oldest first; of those with one label, the oldest."""
        now = self.clock()
        found: list[Message] = []
        for queue in self.queues.values():
            queue[:] = [each for each in queue if each.expires_at > now]
            found += {each.label: each for each in reversed(queue)}.values()
        return found

    def find(self, label: str) -> Message | None:
        return next((each for each in self.waiting() if each.label == label), None)

    def remove(self, message: Message) -> None:
        self.queues[message.queue] = [each for each in self.queues[message.queue] if each is not message]

    def flush(self) -> None:
        self.queues.clear()
