"""A start whose image a registry does not give: a real engine asks a server that answers as registries do."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from gastown.errors import StartMisconfigured, StartRefused
from gastown.runtimes import docker_images
from gastown.runtimes.docker_engine import Engine


@contextmanager
def registry(status: int, code: str) -> Iterator[str]:
    """Answers each manifest like this. Gives its address, as the engine on this machine reaches it."""

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            greets = self.path == "/v2/"
            body = json.dumps({} if greets else {"errors": [{"code": code, "message": "as it is"}]}).encode()
            self.send_response(200 if greets else status)
            self.send_header("Docker-Distribution-Api-Version", "registry/2.0")
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def do_HEAD(self) -> None:
            self.do_GET()

        def log_message(self, *args: object) -> None:
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def engine() -> Iterator[Engine]:
    engine = Engine()
    yield engine
    engine.close()


@pytest.mark.docker
@pytest.mark.parametrize(
    ("status", "code"), [(429, "TOOMANYREQUESTS"), (500, "UNKNOWN"), (503, "UNAVAILABLE"), (504, "TIMEOUT")]
)
def test_a_registry_that_fails_for_a_moment_is_asked_again(engine: Engine, status: int, code: str) -> None:
    with registry(status, code) as place, pytest.raises(StartRefused, match="its registry fails") as caught:
        docker_images.require(engine, f"{place}/agent:1", supervised=True)
    assert not isinstance(caught.value, StartMisconfigured)


@pytest.mark.docker
@pytest.mark.parametrize(("status", "code"), [(404, "MANIFEST_UNKNOWN"), (401, "UNAUTHORIZED"), (403, "DENIED")])
def test_what_a_registry_does_not_have_or_give_is_for_a_person(engine: Engine, status: int, code: str) -> None:
    with registry(status, code) as place, pytest.raises(StartMisconfigured, match="cannot be pulled"):
        docker_images.require(engine, f"{place}/a-timeout/agent:1", supervised=True)
