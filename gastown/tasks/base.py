"""Publishing, and what all tasks share."""

from collections.abc import Callable, Sequence
from typing import Any
from uuid import UUID

import structlog
from amqp.exceptions import AMQPError
from kombu.exceptions import BatchPublishError
from kombu.exceptions import OperationalError as BrokerError

from gastown import celery_app
from gastown.brokers import PUBLISH_TIMEOUT_S
from gastown.celery_app import START_EXPIRES_S, app, node_queue, watch_queue
from gastown.errors import BrokerUnavailable, UsageError
from gastown.reconcile.actions import AskMerge, Effect, InspectContainers, StartContainer, StopContainer

log = structlog.get_logger()

POKE_EXPIRES_S = 5  # beat asks again by then
BROKER_FAILURES = (BrokerError, AMQPError, OSError)  # what kombu raises when the broker is away, and those below it


def send(
    name: str,
    *args: Any,
    queue: str = "control",
    expires_s: float,
    about: str = "",
    producer: Any = None,
    **options: Any,
) -> None:
    """Publish one message; `about` is what people see of it besides its arguments.

    Raises BrokerUnavailable: after PUBLISH_TIMEOUT_S for a broker that does not answer, and as long for each attempt
    to connect to it before.
    """
    message: dict[str, Any] = {
        "args": args,
        "queue": celery_app.queue(queue),
        "routing_key": queue,
        "expires": expires_s,
        "expiration": expires_s,  # RabbitMQ drops it by then, also when there is no worker to find it too old
        "argsrepr": repr((about, *args) if about else args),  # first, because Flower cuts what is long
        "timeout": PUBLISH_TIMEOUT_S,
        "confirm_timeout": PUBLISH_TIMEOUT_S,
        "retry": False,
    } | options
    try:
        if producer is not None:
            app.send_task(name, producer=producer, **message)
        else:
            _on_fresh_connection(lambda: app.send_task(name, **message))
    except BROKER_FAILURES as error:
        raise BrokerUnavailable(f"the broker does not take messages: {error}", hint="gastown doctor") from error


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
    declared: set[str] = set()  # declaring a queue takes as long as sending to it
    for effect in effects:
        name, key, queue, expires_s = _message(effect)
        options: dict[str, Any] = {"declare": []} if queue in declared else {}
        about = "" if isinstance(effect, InspectContainers) else effect.about
        send(name, key, queue=queue, expires_s=expires_s, about=about, producer=producer, **options)
        declared.add(queue)


def _message(effect: Effect) -> tuple[str, str | int, str, float]:
    """The task, what it is about, the queue, and for how long it is worth while."""
    match effect:
        case StartContainer(dispatch_id=key, node=node):
            return "gastown.start_container", key, node_queue(node), START_EXPIRES_S
        case StopContainer(dispatch_id=key, node=node):
            return "gastown.stop_container", key, node_queue(node), START_EXPIRES_S
        case InspectContainers(node=node):
            return "gastown.inspect_containers", node, watch_queue(node), POKE_EXPIRES_S
        case AskMerge(merge_id=merge_id):
            return "gastown.merge", merge_id, "merge", START_EXPIRES_S


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
