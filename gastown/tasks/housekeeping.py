"""Periodic upkeep of the database, and the signs of life of a worker's node."""

import os
import threading
from typing import Any

import structlog
from celery.signals import worker_process_init, worker_ready, worker_shutting_down

from gastown import db
from gastown.celery_app import app, node_queue
from gastown.commands import towns
from gastown.db import in_transaction
from gastown.errors import GastownError
from gastown.reconcile.actions import InspectContainers
from gastown.settings import get_settings
from gastown.store import attempts, upkeep
from gastown.tasks.base import poke, publish

log = structlog.get_logger()

NODE_BEAT_S = 10.0  # a node is lost after 45 s (policy.node_silence_s)
_stopping = threading.Event()


@app.task(name="gastown.housekeeping", max_retries=0, soft_time_limit=120, time_limit=150)
def housekeeping() -> None:
    """Make the partitions of the next days, drop what is older than its retention."""
    in_transaction(upkeep.make_partitions)
    in_transaction(upkeep.drop_old)


@worker_process_init.connect(weak=False)
def forget_connections(**_: Any) -> None:
    """Connections of the parent must not be used by its forked children."""
    db.engine().dispose(close=False)


@worker_ready.connect(weak=False)
def join_fleet(sender: Any = None, **_: Any) -> None:
    """A worker that takes starts is its node's sign of life; what it had been starting before it died is in doubt."""
    settings = get_settings()
    queues = {queue.name for queue in sender.task_consumer.queues}
    if node_queue(settings.node) not in queues:
        return
    _stopping.clear()
    threading.Thread(target=_beat, args=(sender.hostname,), name="node-beat", daemon=True).start()


@worker_shutting_down.connect(weak=False)
def leave_fleet(**_: Any) -> None:
    _stopping.set()


def _beat(worker: str) -> None:
    settings, rejoined = get_settings(), False
    while not _stopping.is_set():
        try:
            if not rejoined:
                _rejoin(settings.node, worker)
                rejoined = True
            in_transaction(lambda session: towns.beat_node(session, settings.node, "process", upkeep.node_capacity()))
        except GastownError as error:
            log.warning("node_beat_failed", node=settings.node, error=str(error), pid=os.getpid())
        _stopping.wait(NODE_BEAT_S if rejoined else 1.0)


def _rejoin(node: str, worker: str) -> None:
    in_transaction(lambda session: towns.beat_node(session, node, "process", upkeep.node_capacity()))
    if in_transaction(lambda session: attempts.doubt_starts_of(session, worker)):
        publish(InspectContainers(node=node))
    poke()
