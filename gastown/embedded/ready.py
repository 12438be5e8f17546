"""Loaded by the workers (`--include`): says that a worker consumes, in home/run/<worker>.ready or where FOLDER says."""

import os
from pathlib import Path
from typing import Any

from celery.signals import worker_ready

from gastown.settings import get_settings

FOLDER = "GASTOWN_READY"  # for the workers of a `crew`: several may share a home


def path(folder: Path, worker: str) -> Path:
    """The file that holds the pid of the worker once it consumes."""
    return folder / f"{worker}.ready"


@worker_ready.connect  # type: ignore[untyped-decorator]  # Celery has no types
def tell(sender: Any, **_: object) -> None:
    """Celery sends this when the consumer has its queues."""
    folder = os.environ.get(FOLDER)
    path(Path(folder) if folder else get_settings().home / "run", sender.hostname).write_text(str(os.getpid()))
