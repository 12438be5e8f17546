"""Tasks that stop at each of their steps until they are told how that step ends. One thread at a time runs."""

import threading
from collections.abc import Callable

PATIENCE_S = 60.0


class Died(BaseException):
    """The worker is killed here: no handler of the product sees it."""


class Stepper(threading.Thread):
    """A task of a worker, in a thread. `at` is the step that it is about to do; None when it is over."""

    def __init__(self, kind: str, number: int, work: Callable[[], None]) -> None:
        super().__init__(daemon=True)
        self.kind, self.number = kind, number
        self.at: str | None = None
        self.gate: str | None = None  # the step that its next transaction is
        self.error: BaseException | None = None
        self._work = work
        self._told, self._waits = threading.Semaphore(0), threading.Semaphore(0)
        self._outcome: str | None = None

    def run(self) -> None:
        try:
            self._work()
        except Died:
            pass
        except BaseException as error:  # noqa: BLE001 (raised where the step was asked for)
            self.error = error
        finally:
            self.at = None
            self._waits.release()

    def begin(self) -> "Stepper":
        """Run to its first step, or to its end."""
        self.start()
        self._until_it_waits()
        return self

    def go_on(self, outcome: str | None) -> None:
        """Do the step in this way, and run to the next one. None: it dies instead."""
        assert self.at is not None, "it is over"
        self._outcome = outcome
        self._told.release()
        self._until_it_waits()

    def _until_it_waits(self) -> None:
        assert self._waits.acquire(timeout=PATIENCE_S), f"{self.kind} of {self.number} hangs at {self.at}"
        if self.error is not None:
            raise self.error

    def wait(self, step: str) -> str:
        """Called by the thread itself: how the step is to end."""
        self.at, self.gate = step, None
        self._waits.release()
        self._told.acquire()
        if self._outcome is None:
            raise Died
        return self._outcome


def stepper() -> Stepper | None:
    """The one that runs this code, if any."""
    current = threading.current_thread()
    return current if isinstance(current, Stepper) else None


def at_gate() -> None:
    """Before a transaction: a step of its own, where one was announced."""
    mine = stepper()
    if mine is not None and mine.gate is not None:
        mine.wait(mine.gate)
