"""The reconciler, run in this process against the test's own database and broker."""

import base64
import json
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from gastown.celery_app import app
from gastown.db import transaction
from gastown.models import Bead, Dispatch, Town
from gastown.states import LIVE
from gastown.tasks.reconcile import Batch, _batch, reconcile_town
from tests.checks import check_invariants

Message = tuple[str, list[Any]]


def tick(town: str = "default") -> None:
    """What a tick of this town does, then what must always hold."""
    with transaction() as session:
        town_id = session.scalars(select(Town.id).where(Town.name == town)).one()
    reconcile_town(town_id)
    with transaction() as session:
        check_invariants(session)


def with_hooks(task: Any, *args: str) -> None:
    """The task as Celery runs it: one that raises has `on_failure` called, any other `on_success`."""
    try:
        result = task(*args)
    except Exception as error:  # noqa: BLE001 (as Celery does)
        task.on_failure(error, "", args, {}, None)
    else:
        task.on_success(result, "", args, {})


def batch(session: Session, town: Town) -> Batch:
    """One batch of a tick, whose commit and effects are left to the test."""
    result = _batch(session, town.id)
    assert result is not None
    return result


def verdict_of(bead: Bead) -> str | None:
    with transaction() as session:
        return session.get_one(Bead, bead.id).verdict


def live() -> list[Dispatch]:
    with transaction() as session:
        return list(session.scalars(select(Dispatch).where(Dispatch.status.in_(LIVE)).order_by(Dispatch.queued_at)))


def take_messages(queue: str) -> list[Message]:
    """The messages on a queue of the real broker, oldest first, which are there no more afterwards."""
    with app.connection_for_read() as connection:
        client = connection.default_channel.client
        raw = client.lrange(queue, 0, -1)
        client.delete(queue)
    found = []
    for each in reversed(raw):
        message = json.loads(each)
        args, _kwargs, _embed = json.loads(base64.b64decode(message["body"]))
        found.append((message["headers"]["task"], args))
    return found
