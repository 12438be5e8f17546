"""One Celery worker: `python -P -m gastown.embedded.working APP NAME QUEUES PROCESSES`.

What `celery -A APP worker` does, less Celery's command line: that loads every command of every package, all of Flower
for one, which costs each process of the pool 14 MB and each start half a second.
"""

import logging
import sys
from importlib import import_module

from gastown.settings import settings_of_a_process

EVENTS_S = 10  # between its signs of life to Flower; without any, Celery refuses to switch events on later


def main(app: str, name: str, queues: str, processes: str) -> int:
    """The worker's exit code. Signals end it as they end every Celery worker."""
    worker = import_module(app).app.Worker(
        hostname=name,
        pool_cls="prefork",
        concurrency=int(processes),
        queues=queues.split(","),
        include=["gastown.embedded.ready"],
        loglevel=logging.getLevelName(settings_of_a_process().log_level),
        quiet=True,  # no banner
        without_mingle=True,
        without_gossip=True,
        heartbeat_interval=EVENTS_S,
    )
    worker.start()
    return worker.exitcode or 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
