"""Whether this worker is shutting down, as the processes of its pool see it: the signal comes to their parent alone."""

import mmap
from typing import Any

from celery.signals import worker_shutting_down

_told = mmap.mmap(-1, 1)  # one byte of memory that the processes forked later share


@worker_shutting_down.connect(weak=False)
def _tell(**_: Any) -> None:
    _told[0] = 1


def is_near() -> bool:
    """Whether what takes long should be left to the next worker."""
    return _told[0] == 1
