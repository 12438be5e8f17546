"""The API process of the stack: `python -m gastown.embedded.serve FACTORY DESCRIPTOR`.

The supervisor owns the listening socket. While the API restarts, callers wait for a moment instead of being refused.
"""

import socket
import sys

import uvicorn

from gastown.settings import get_settings

GRACE_S = 3  # for open streams, when it stops


def main(factory: str, descriptor: int) -> None:
    config = uvicorn.Config(
        factory,
        factory=True,
        log_level=get_settings().log_level.lower(),
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=GRACE_S,
    )
    uvicorn.Server(config).run(sockets=[socket.socket(fileno=descriptor)])


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
