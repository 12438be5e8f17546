"""Periodic upkeep of the database, and of what each node keeps on its disk."""

import shutil
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import structlog
from celery.signals import worker_process_init
from sqlalchemy.orm import Session

from gastown import db
from gastown.beat_schedule import EVERYWHERE
from gastown.celery_app import NODE_MESSAGE_TTL_S, app, watch_queue
from gastown.db import in_transaction, transaction
from gastown.errors import GastownError
from gastown.settings import get_settings
from gastown.store import reads, upkeep
from gastown.tasks.base import send
from gastown.tasks.queues import drop_silent_queues
from gastown.tasks.repositories import tidy_repositories

log = structlog.get_logger()

MAX_BATCHES = 300


@app.task(name="gastown.housekeeping", max_retries=0, soft_time_limit=120, time_limit=150)
def housekeeping(node: str | None = None) -> None:
    """Keep the rows: make the next days' partitions, drop what is older than its retention, retire agents.

    "*": have each node that is there tidy its own disk. A name: tidy this node's, if that is its name.
    """
    if node is None:
        _keep_rows()
    elif node == EVERYWHERE:
        for each in in_transaction(reads.beating_nodes):
            _step("ask_node", partial(ask_to_tidy, each))
    elif node == get_settings().node:
        _step("tidy", lambda: tidy(get_settings().home))
        _step("repositories", lambda: tidy_repositories(get_settings().home, get_settings().archive_days))
    else:
        log.warning("housekeeping_not_ours", node=node, this_is=get_settings().node)


def ask_to_tidy(node: str) -> None:
    """Only workers of that node read it: nobody else sees its disk. Raises BrokerUnavailable."""
    send("gastown.housekeeping", node, queue=watch_queue(node), expires_s=NODE_MESSAGE_TTL_S)


def _keep_rows() -> None:
    """Each step is on its own: a lock that is held, or a table that is slow, must not keep the others from theirs."""
    _step("make_partitions", lambda: in_transaction(upkeep.make_partitions))
    drop_old()
    _step("retire_agents", partial(_in_batches, upkeep.retire_agents))
    _step("queues", drop_silent_queues)


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
