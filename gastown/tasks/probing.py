"""What `gastown doctor` asks the broker, and through it every worker and beat."""

import time
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from kombu import Producer, Queue

from gastown.brokers import PUBLISH_TIMEOUT_S
from gastown.celery_app import app
from gastown.errors import BrokerUnavailable
from gastown.tasks.base import BROKER_FAILURES

POLL_S = 0.02
FIRST_WAIT_S, SECOND_WAIT_S = 1.5, 4.0  # answers come within milliseconds, unless the machine is busy
BEAT = "celerybeat@"


def round_trip() -> float:
    """A message to a queue of its own and back, and how many seconds that took. Raises BrokerUnavailable."""
    name = f"gastown.doctor.{uuid.uuid4().hex}"
    began = time.monotonic()
    try:
        with app.connection_for_write() as connection:
            connection.ensure_connection(max_retries=0, timeout=PUBLISH_TIMEOUT_S)
            queue = Queue(name, exclusive=True, durable=False, auto_delete=True)(connection.default_channel)
            queue.declare()
            try:
                Producer(connection).publish(
                    name, routing_key=name, timeout=PUBLISH_TIMEOUT_S, confirm_timeout=PUBLISH_TIMEOUT_S
                )
                while (message := queue.get(no_ack=True)) is None:
                    if time.monotonic() - began > 2 * PUBLISH_TIMEOUT_S:
                        raise BrokerUnavailable("a message that it took did not come back", hint="see the broker's log")
                    time.sleep(POLL_S)
            finally:
                queue.delete()
    except BROKER_FAILURES as error:
        raise BrokerUnavailable(
            f"it does not take messages: {error}", hint="start it, or correct broker_url"
        ) from error
    assert message.payload == name
    return time.monotonic() - began


@dataclass(frozen=True)
class Answers:
    """Who answered. Two workers of one name are twice among `names`."""

    names: list[str]
    beats: list[str]
    queues: dict[str, list[str]]  # queue: its workers

    @property
    def doubled(self) -> list[str]:
        return sorted({each for each in self.names if self.names.count(each) > 1})


def who_is_there(queues: Iterable[str]) -> Answers:
    """Everybody who listens. Asked again, with more patience, while one of these queues or beat seems to have nobody.

    Raises BrokerUnavailable.
    """
    wanted = set(queues)
    answers = _ask(FIRST_WAIT_S)
    if wanted - answers.queues.keys() or not answers.beats:
        answers = _ask(SECOND_WAIT_S)
    return answers


def _ask(wait_s: float) -> Answers:
    try:
        with app.connection_for_write() as connection:
            connection.ensure_connection(max_retries=0, timeout=PUBLISH_TIMEOUT_S)
            read = _broadcast(connection, "active_queues", wait_s)
            present = _broadcast(connection, "ping", wait_s)
    except BROKER_FAILURES as error:
        raise BrokerUnavailable(f"workers cannot be asked: {error}", hint="gastown doctor") from error
    queues: dict[str, list[str]] = {}
    for name, found in read:
        for each in found if isinstance(found, list) else ():
            queues.setdefault(str(each["name"]), []).append(name)
    return Answers(
        names=sorted(name for name, _ in read),
        beats=sorted(name for name, _ in present if name.startswith(BEAT)),
        queues=queues,
    )


def _broadcast(connection: Any, command: str, wait_s: float) -> list[tuple[str, Any]]:
    replies = app.control.broadcast(command, reply=True, timeout=wait_s, connection=connection)
    return [(name, answer) for reply in replies or () for name, answer in reply.items()]
