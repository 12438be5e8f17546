"""Taking refs from the mirror to the remote, in the background: a dead remote must not block an attempt."""

import threading
import time
from collections.abc import Callable

from gastown.agent.git import GitError
from gastown.agent.mirror import Mirror


class Pushes:
    def __init__(self, mirror: Mirror, note: Callable[[str], None]) -> None:
        self._mirror, self._note = mirror, note
        self._running: dict[str, threading.Thread] = {}
        self._again: set[str] = set()
        self._lock = threading.Lock()

    def start(self, ref: str) -> None:
        """Push what the ref is when its turn comes: one push of a ref at a time, and the last value gets its turn."""
        with self._lock:
            if ref in self._running:
                self._again.add(ref)
                return
            thread = threading.Thread(target=self._push, args=(ref,), name=f"push {ref}", daemon=True)
            self._running[ref] = thread
        thread.start()

    def wait(self, seconds: float) -> bool:
        """Whether all pushes ended within this time, well or badly. Those that did not go on."""
        deadline = time.monotonic() + seconds
        with self._lock:
            threads = list(self._running.values())
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in threads)

    def _push(self, ref: str) -> None:
        while True:
            try:
                self._mirror.push(f"+{ref}:{ref}")
            except GitError as error:
                self._note(f"the remote did not take {ref}: {error.reason}; it is kept on this machine")
            with self._lock:
                if ref not in self._again:
                    del self._running[ref]
                    return
                self._again.discard(ref)
