"""Periodic upkeep of the database, and the signs of life of a worker's node."""

import shutil
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import structlog
from celery.signals import worker_process_init, worker_ready, worker_shutting_down
from sqlalchemy.orm import Session

from gastown import db
from gastown.celery_app import app, node_queue
from gastown.commands import towns
from gastown.db import in_transaction, transaction
from gastown.errors import GastownError
from gastown.reconcile.actions import InspectContainers
from gastown.settings import get_settings
from gastown.store import attempts, merges, reads, upkeep
from gastown.store.workers import claimer
from gastown.tasks.base import poke, publish, send
from gastown.tasks.repositories import tidy_repositories

log = structlog.get_logger()

NODE_BEAT_S = 10.0  # a node is lost after 45 s (policy.node_silence_s)
MAX_BATCHES = 300
_stopping = threading.Event()


@app.task(name="gastown.housekeeping", max_retries=0, soft_time_limit=120, time_limit=150)
def housekeeping() -> None:
    """Make the next days' partitions, drop what is older than its retention, retire agents, tidy this node.

    Each step is on its own: a lock that is held, or a table that is slow, must not keep the disk from being tidied.
    """
    _step("make_partitions", lambda: in_transaction(upkeep.make_partitions))
    drop_old()
    _step("retire_agents", partial(_in_batches, upkeep.retire_agents))
    _step("tidy", lambda: tidy(get_settings().home))
    _step("repositories", lambda: tidy_repositories(get_settings().home, get_settings().archive_days))


def drop_old() -> None:
    """In small transactions. What does not fit into MAX_BATCHES goes an hour later."""
    names: list[str] = []
    _step("old_partitions", lambda: names.extend(in_transaction(upkeep.old_partitions)))
    for name in names:
        _step(name, partial(in_transaction, partial(upkeep.drop_partition, name=name)))
    for deletion in upkeep.DELETIONS:
        _step(deletion.__name__, partial(_in_batches, deletion))


def _in_batches(deletion: Callable[[Session], int]) -> None:
    for _ in range(MAX_BATCHES):
        if in_transaction(deletion) == 0:
            return


def _step(name: str, work: Callable[[], object]) -> None:
    try:
        work()
    except GastownError as error:
        log.warning("housekeeping_failed", step=name, error=str(error))
    except Exception:
        log.exception("housekeeping_raised", step=name)


def tidy(home: Path) -> None:
    """Remove agents' HOMEs of beads that are over, and folders of attempts as old as the logs that are dropped.

    Worktrees are not touched: each goes when its own work is safe (G3); see `tidy_repositories`.
    """
    homes = [each.name for each in (home / "homes").glob("*")]
    with transaction() as session:
        finished = reads.finished_beads(session, homes)
    for bead_id in finished:
        shutil.rmtree(home / "homes" / bead_id, ignore_errors=True)
    oldest = time.time() - upkeep.LOG_DAYS * 86_400
    for folder in (home / "runs").glob("*"):
        if folder.stat().st_mtime < oldest:
            shutil.rmtree(folder, ignore_errors=True)


@worker_process_init.connect(weak=False)
def forget_connections(**_: Any) -> None:
    """Connections of the parent must not be used by its forked children."""
    db.engine().dispose(close=False)


@worker_ready.connect(weak=False)
def join_fleet(sender: Any = None, **_: Any) -> None:
    """A worker is there, perhaps again: nobody is at what it had claimed before. One that takes starts beats."""
    queues = {queue.name for queue in sender.task_consumer.queues}
    node = get_settings().node if node_queue(get_settings().node) in queues else None
    _stopping.clear()
    threading.Thread(target=_stay, args=(sender.hostname, node), name="fleet", daemon=True).start()


@worker_shutting_down.connect(weak=False)
def leave_fleet(**_: Any) -> None:
    _stopping.set()


def _stay(worker: str, node: str | None) -> None:
    """Take up where this worker's predecessor left off, then show that the node is alive until the worker ends."""
    rejoined = False
    while not _stopping.is_set() and not (rejoined and node is None):
        try:
            if node is not None:
                in_transaction(lambda session: towns.beat_node(session, node, "process", upkeep.node_capacity()))
            if not rejoined:
                rejoin(worker, node)
                rejoined = True
        except GastownError as error:
            log.warning("node_beat_failed", node=node, error=str(error))
        except Exception:  # without this thread the node is lost, and nothing starts on it any more
            log.exception("node_beat_raised", node=node)
        _stopping.wait(NODE_BEAT_S if rejoined else 1.0)


def rejoin(worker: str, node: str | None) -> None:
    """A worker is back: nobody is inside the starts and merges that its earlier life had claimed."""
    doubted = in_transaction(lambda session: attempts.doubt_starts_of(session, claimer(worker)))
    in_transaction(lambda session: merges.expire_merges_of(session, claimer(worker)))
    if doubted and node is not None:
        publish(InspectContainers(node=node))
    poke()
    if node is not None:  # beat asks after an hour for the first time, and a laptop may never be up that long
        send("gastown.housekeeping", queue="upkeep", expires_s=NODE_BEAT_S)
