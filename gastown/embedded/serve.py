"""The API process of the stack: `python -m gastown.embedded.serve FACTORY DESCRIPTOR`.

The supervisor owns the listening socket. While the API restarts, callers wait for a moment instead of being refused.
"""

import resource
import socket
import sys
from contextlib import suppress

import uvicorn

from gastown.settings import settings_of_a_process

GRACE_S = 3  # for open streams, when it stops
KEEP_ALIVE_S = 30  # a connection that is idle for so long is closed; agents beat every 10 s, and making one costs 1 ms
MOST_FILES = 65_536  # one for each connection, four of an attempt's; the usual limit of 1,024 holds 250 attempts


def main(factory: str, descriptor: int) -> None:
    settings = settings_of_a_process()
    usual, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_FILES if most == resource.RLIM_INFINITY else min(MOST_FILES, most)
    if usual != resource.RLIM_INFINITY and usual < wanted:
        with suppress(OSError, ValueError):  # macOS has further limits
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))
    config = uvicorn.Config(
        factory,
        factory=True,
        log_level=settings.log_level.lower(),
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=GRACE_S,
        timeout_keep_alive=KEEP_ALIVE_S,
    )
    uvicorn.Server(config).run(sockets=[socket.socket(fileno=descriptor)])


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
