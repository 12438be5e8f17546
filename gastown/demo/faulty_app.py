"""The Celery app of the product with a faulty runtime and a faulty broker: for workers of the demo and tests."""

import os
from pathlib import Path
from typing import Any
from uuid import UUID

from gastown.celery_app import app
from gastown.db import transaction
from gastown.demo import faults
from gastown.models import Dispatch
from gastown.runtimes import registry

__all__ = ["app"]

_folder = Path(os.environ[faults.FOLDER])
_real, _send = registry.FACTORIES["process"], app.amqp.send_task_message
registry.FACTORIES["process"] = lambda: faults.FaultyRuntime(_real(), _folder)


def _post(producer: Any, name: str, message: Any, **options: Any) -> None:
    """What the product takes for a broker: it never complains, and may lose a message or deliver it twice."""
    for _ in range(_copies(name, message.body[0])):
        _send(producer, name, message, **options)


def _copies(name: str, args: Any) -> int:
    if name != "gastown.start_container" or not faults.any_message(_folder):
        return 1
    with transaction() as session:
        dispatch = session.get_one(Dispatch, UUID(str(args[0])))
    return faults.copies_of_message(_folder, dispatch.bead_id, dispatch.epoch)


app.amqp.send_task_message = _post
