"""The API as agents meet it: a real server on a port of its own, in this process."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest
import uvicorn

from gastown.api import create_app

TOKEN = "a token of 256 random bits"


@contextmanager
def serve(lifespan: str = "off") -> Iterator[str]:
    """Its address. With `lifespan` off it does not beat in the database."""
    config = uvicorn.Config(create_app, factory=True, lifespan=lifespan, ws="none", log_level="critical")  # type: ignore[arg-type]
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        deadline = time.monotonic() + 60
        while not server.started:
            assert thread.is_alive(), "the server did not start"
            assert time.monotonic() < deadline, "the server does not start"
            time.sleep(0.005)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True
        thread.join(timeout=60)


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Each request opens its own transaction on the database that is in force then."""
    with serve() as found:
        yield found


@pytest.fixture
def client(database: str, address: str) -> Iterator[httpx.Client]:
    with httpx.Client(
        base_url=address, headers={"Authorization": f"Bearer {TOKEN}"}, trust_env=False, timeout=60
    ) as client:
        yield client
