"""The queues of nodes that are gone: nobody reads them any more, so what is in them would stay for ever."""

from typing import Any

import structlog
from amqp.exceptions import PreconditionFailed

from gastown import celery_app
from gastown.celery_app import app, node_queue, watch_queue
from gastown.db import transaction
from gastown.errors import BrokerUnavailable
from gastown.store import fleet
from gastown.tasks.base import BROKER_FAILURES

log = structlog.get_logger()


def drop_queues(node: str) -> None:
    """Those of this node, with what is in them; RabbitMQ keeps what somebody reads. Raises BrokerUnavailable.

    Whatever was to be told is in the rows: of a node that comes back, the rules publish it again.
    """
    try:
        with app.connection_for_write() as connection:
            for name in (node_queue(node), watch_queue(node)):
                with connection.channel() as channel:
                    if celery_app.broker.is_redis:
                        queue = celery_app.queue(name)
                        queue.exchange = app.amqp.queues.default_exchange
                        bound = queue(channel)
                        bound.declare()  # kombu forgets a binding only where it has made it
                        bound.delete()
                    else:
                        _delete_unused(channel, name)
    except BROKER_FAILURES as error:
        raise BrokerUnavailable(f"the broker cannot be reached: {error}", hint="gastown doctor") from error


def _delete_unused(channel: Any, queue: str) -> None:
    try:
        channel.queue_delete(queue, if_unused=True)
    except PreconditionFailed:  # which also closes the channel
        log.info("queue_in_use", queue=queue)


def drop_silent_queues() -> None:
    """Of nodes that have been silent for a day. Raises BrokerUnavailable."""
    with transaction() as session:
        silent = fleet.silent_nodes(session)
    for node in silent:
        drop_queues(node)
