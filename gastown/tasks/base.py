"""Publishing, and what all tasks share."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple
from uuid import UUID

import structlog
from amqp.exceptions import AMQPError
from celery import uuid
from kombu import Queue
from kombu.exceptions import BatchPublishError
from kombu.exceptions import OperationalError as BrokerError
from redis.exceptions import RedisError

from gastown import celery_app
from gastown.brokers import PUBLISH_TIMEOUT_S
from gastown.celery_app import START_EXPIRES_S, app, node_queue, watch_queue
from gastown.errors import BrokerUnavailable, UsageError
from gastown.reconcile.actions import AskMerge, Effect, InspectContainers, StartContainer, StopContainer

log = structlog.get_logger()

POKE_EXPIRES_S = 5  # beat asks again by then
BROKER_FAILURES = (
    BrokerError,
    AMQPError,
    RedisError,
    OSError,
)  # what kombu raises when the broker is away, and those below it


def send(name: str, *args: Any, queue: str = "control", expires_s: float, about: str = "") -> None:
    """Publish one message; `about` is what people see of it besides its arguments.

    Raises BrokerUnavailable: after PUBLISH_TIMEOUT_S for a broker that does not answer, and as long for each attempt
    to connect to it before.
    """
    message: dict[str, Any] = {"args": args, "expires": expires_s, "argsrepr": _shown(about, *args)}
    message |= _delivery(celery_app.queue(queue), expires_s)
    try:
        _on_fresh_connection(lambda: app.send_task(name, **message))
    except BROKER_FAILURES as error:
        raise BrokerUnavailable(f"the broker does not take messages: {error}", hint="gastown doctor") from error


def _shown(about: str, *args: Any) -> str:
    """A message's arguments as people see them: what they are about first, because Flower cuts what is long."""
    return repr((about, *args) if about else args)


def _delivery(queue: Queue, expires_s: float) -> dict[str, Any]:
    return {
        "queue": queue,
        "routing_key": queue.routing_key,
        "expiration": expires_s,  # RabbitMQ drops it by then, also when there is no worker to find it too old
        "timeout": PUBLISH_TIMEOUT_S,
        "confirm_timeout": PUBLISH_TIMEOUT_S,
        "retry": False,
    }


def _on_fresh_connection(publishing: Callable[[], object]) -> None:
    """Once more when the connection turned out to be dead, which it is on the first use after RabbitMQ's restart.

    Not when nobody answered in time: the broker hangs, and the next connection will. Nor on Redis, whose client
    connects anew by itself.
    """
    try:
        publishing()
    except (BrokerUnavailable, *BROKER_FAILURES) as error:
        if celery_app.broker.is_redis or _timed_out(error):
            raise
        publishing()


def _timed_out(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, TimeoutError):
            return True
        error = error.__cause__ or error.__context__
    return False


def publish(effect: Effect) -> bool:
    """One effect, after the commit. A failure is logged and left: the rows say what is still to do. False: failed."""
    return publish_all([effect])


def publish_all(effects: Sequence[Effect]) -> bool:
    """Several, on one way to the broker and back where it can do that. The first failure ends it: it is away."""
    if not effects:
        return True
    effects = list(dict.fromkeys(effects))  # of a node whose starts are all slow, one inspection is enough
    try:
        _on_fresh_connection(lambda: _send_batch(effects))
    except (BrokerUnavailable, *BROKER_FAILURES) as error:
        log.warning("publish_failed", effects=len(effects), first=type(effects[0]).__name__, error=str(error))
        return False
    return True


def _send_batch(effects: Sequence[Effect]) -> None:
    with app.producer_or_acquire() as producer:
        try:
            with producer.batch():  # on Redis, 0.1 ms a message instead of 0.3
                _send_each(effects, producer)
        except BatchPublishError:  # a connection that Redis had closed: batches are not tried again by kombu
            _send_each(effects, producer)  # what arrives twice does no harm


def _send_each(effects: Sequence[Effect], producer: Any) -> None:
    drafts: dict[_Kind, _Draft] = {}
    for effect in effects:
        kind, key = _message(effect)
        if kind not in drafts:
            drafts[kind] = _Draft(kind)
        drafts[kind].send(key, "" if isinstance(effect, InspectContainers) else effect.about, producer)


class _Kind(NamedTuple):
    """What messages have in common that can be drafted together."""

    task: str
    queue: str
    expires_s: float  # for how long they are worth while


class _Draft:
    """Messages that differ in their argument alone: Celery words them once, which takes longer than sending them.

    They are what `send` would have made of each; a test compares them.
    """

    def __init__(self, kind: _Kind) -> None:
        task, parent = app.tasks.get(kind.task), app.current_worker_task
        queue = celery_app.queue(kind.queue)
        self._task = kind.task
        self._delivery = _delivery(queue, kind.expires_s)
        self._declare = [queue]
        self._root_id = parent and (parent.request.root_id or parent.request.id)
        self._draft = app.amqp.create_task_message(
            "",
            kind.task,
            expires=kind.expires_s,
            reply_to=app.thread_oid,
            time_limit=task and task.time_limit,
            soft_time_limit=task and task.soft_time_limit,
            parent_id=parent and parent.request.id,
            ignore_result=None,
        )

    def send(self, key: str | int, about: str, producer: Any) -> None:
        """One of them. Raises one of BROKER_FAILURES."""
        task_id = uuid()
        own = {"id": task_id, "root_id": self._root_id or task_id, "argsrepr": _shown(about, key)}
        message = self._draft._replace(
            headers=self._draft.headers | own,
            properties=self._draft.properties | {"correlation_id": task_id},
            body=((key,), *self._draft.body[1:]),
        )
        app.amqp.send_task_message(producer, self._task, message, **self._delivery, declare=self._declare)
        self._declare = []  # declaring a queue takes as long as sending to it


def _message(effect: Effect) -> tuple[_Kind, str | int]:
    """Its task, where it is sent, and what it is about."""
    match effect:
        case StartContainer(dispatch_id=key, node=node):
            return _Kind("gastown.start_container", node_queue(node), START_EXPIRES_S), key
        case StopContainer(dispatch_id=key, node=node):
            return _Kind("gastown.stop_container", node_queue(node), START_EXPIRES_S), key
        case InspectContainers(node=node):
            return _Kind("gastown.inspect_containers", watch_queue(node), POKE_EXPIRES_S), node
        case AskMerge(merge_id=merge_id):
            return _Kind("gastown.merge", "merge", START_EXPIRES_S), merge_id


def poke(town_id: int | None = None) -> bool:
    """Have a tick look now. A lost poke costs the wait for beat. False: the broker is away."""
    try:
        send("gastown.reconcile", *([] if town_id is None else [town_id]), expires_s=POKE_EXPIRES_S)
    except BrokerUnavailable as error:
        log.warning("poke_failed", error=str(error))
        return False
    return True


def id_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The one argument of a task, positional or keyword. None when the message was malformed."""
    return args[0] if args else next(iter(kwargs.values()), None)


def uuid_of(value: object) -> UUID:
    try:
        return UUID(str(value))
    except ValueError as error:
        raise UsageError(f"{value!r} is not the id of a dispatch", hint="gastown bead show BEAD") from error
