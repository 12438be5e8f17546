"""The right of a worker to the merge that it claimed."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import structlog

from gastown.db import in_transaction
from gastown.errors import DatabaseUnavailable
from gastown.store import merges
from gastown.store.orders import MergeOrder
from gastown.tasks import shutdown

log = structlog.get_logger()


class Lease:
    """The right to this merge, beaten from a thread. `lost` is set when it is somebody else's, or cannot be renewed."""

    def __init__(self, order: MergeOrder) -> None:
        self.order = order
        self.lost = threading.Event()
        self._failures = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="merge-lease", daemon=True)

    def _beat(self) -> None:
        while not self._ended.wait(self.order.lease_s / 3):
            if not self.renew():
                return

    def renew(self) -> bool:
        """One beat. False: it is lost, and so is any further beat."""
        try:
            ours = self.note(None)
        except DatabaseUnavailable:
            self._failures += 1
            ours = self._failures < 2  # the lease holds three beats: after two misses it is about to end
        except Exception:  # this thread must not end without a word: the merge would go on without a lease
            log.exception("merge_lease_raised", merge_request=self.order.id)
            ours = False
        else:
            self._failures = 0
        if not ours:
            self.lost.set()
        return ours

    def note(self, step: str | None) -> bool:
        return in_transaction(lambda session: merges.beat_merge(session, self.order.id, self.order.merge_epoch, step))

    @contextmanager
    def held(self) -> Iterator["Lease"]:
        self._thread.start()
        try:
            yield self
        finally:
            self._ended.set()
            self._thread.join()

    def is_over(self) -> bool:
        """Whether to stop before the push. A worker that shuts down leaves its merge to the next one under its name."""
        return self.lost.is_set() or shutdown.is_near()

    def on_step(self, step: str) -> None:
        if not self.note(step):
            self.lost.set()
