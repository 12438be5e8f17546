"""Two transactions at the same time: real connections, real locks, no sleeps."""

import threading
import time
from collections.abc import Callable
from typing import Any

from sqlalchemy import text
from sqlalchemy.orm import Session

from gastown.db import engine, transaction

Work = Callable[[Session], Any]
WAITING = text("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'")


class Thread(threading.Thread):
    """Keeps what its work gave or raised."""

    def __init__(self, work: Callable[[], Any]) -> None:
        super().__init__(daemon=True)
        self._work = work
        self.result: Any = None
        self.error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self.result = self._work()
        except BaseException as error:  # noqa: BLE001 (handed to the test)
            self.error = error

    def value(self) -> Any:
        self.join(timeout=60)
        assert not self.is_alive(), "it still waits"
        if self.error is not None:
            raise self.error
        return self.result


def committed(work: Work) -> Any:
    with transaction() as session:
        return work(session)


def race(first: Work, second: Work) -> Any:
    """`second` comes while `first` is done but not committed. What `second` gives or raises."""
    with transaction() as session:
        first(session)
        session.flush()
        thread = Thread(lambda: committed(second))
        wait_until_blocked(thread)
    return thread.value()


def wait_until_blocked(*threads: Thread) -> None:
    """Until each of these waits for a lock, or is over."""
    deadline = time.monotonic() + 60
    while any(thread.is_alive() for thread in threads):
        with engine().connect() as connection:
            waiting = connection.scalar(WAITING) or 0
        if waiting >= sum(thread.is_alive() for thread in threads):
            return
        assert time.monotonic() < deadline, "neither blocked nor over"


def together(*works: Callable[[], Any]) -> list[Any]:
    """All of them at once; what each gave. Raises what one raised."""
    barrier = threading.Barrier(len(works))

    def after_the_others(work: Callable[[], Any]) -> Any:
        barrier.wait(timeout=60)
        return work()

    threads = [Thread(lambda work=work: after_the_others(work)) for work in works]  # type: ignore[misc]
    return [thread.value() for thread in threads]
