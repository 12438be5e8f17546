"""Loaded by the workers of the stack (`--include`): says that a worker consumes, in home/run/<worker>.ready."""

import os
from pathlib import Path
from typing import Any

from celery.signals import worker_ready

from gastown.settings import get_settings


def path(home: Path, worker: str) -> Path:
    """The file that holds the pid of the worker once it consumes."""
    return home / "run" / f"{worker}.ready"


@worker_ready.connect  # type: ignore[untyped-decorator]  # Celery has no types
def tell(sender: Any, **_: object) -> None:
    """Celery sends this when the consumer has its queues."""
    path(get_settings().home, sender.hostname).write_text(str(os.getpid()))
