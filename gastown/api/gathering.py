"""Heartbeats that come at the same time share a thread, a way to Postgres and a commit: see bench/heartbeats.py."""

import asyncio
from collections.abc import Sequence

import structlog
from fastapi.concurrency import run_in_threadpool

from gastown.agent.protocol import Heartbeat
from gastown.commands import attempt
from gastown.db import one_statement
from gastown.errors import DatabaseUnavailable
from gastown.store.heartbeats import Beaten

log = structlog.get_logger()

GATHER_S = 0.05  # nobody waits for a heartbeat's answer; of 1,000 agents, five beat within this time
MOST = 500  # in one statement

Said = tuple[str, Heartbeat]


class Gathered:
    """Of one process, for its event loop."""

    def __init__(self) -> None:
        self._waiting: list[tuple[Said, asyncio.Future[Beaten | None]]] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def beat(self, token: str, said: Heartbeat) -> Beaten | None:
        """None: the usual did not happen, whatever the reason. The caller asks on its own, and so no other suffers."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Beaten | None] = loop.create_future()
        self._waiting.append(((token, said), answer))
        if len(self._waiting) == 1:
            loop.call_later(GATHER_S, self._start)
        return await answer

    def _start(self) -> None:
        waiting, self._waiting = self._waiting, []
        for first in range(0, len(waiting), MOST):
            task = asyncio.get_running_loop().create_task(self._carry(waiting[first : first + MOST]))
            self._tasks.add(task)  # the loop itself would forget it
            task.add_done_callback(self._tasks.discard)

    async def _carry(self, waiting: list[tuple[Said, asyncio.Future[Beaten | None]]]) -> None:
        answers: Sequence[Beaten | None] = [None] * len(waiting)
        try:
            answers = await run_in_threadpool(_beat, [said for said, _ in waiting])
        except DatabaseUnavailable as error:
            log.info("heartbeats_one_by_one", count=len(waiting), error=str(error))
        except Exception:  # each is asked for on its own now, and whoever is the cause gets the answer
            log.exception("heartbeats_failed", count=len(waiting))
        for (_, answer), beaten in zip(waiting, answers, strict=True):
            if not answer.done():  # its caller may be gone
                answer.set_result(beaten)


def _beat(said: list[Said]) -> list[Beaten | None]:
    with one_statement() as connection:
        return attempt.usual_heartbeats(connection, said)
