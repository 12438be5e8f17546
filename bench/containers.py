"""What Gastown adds to `docker run`: from the call to the first request that the container makes.

Bar (issue 5): at most 150 ms, median, over `docker run` of the same image, with the same limits, user and mount.
"""

import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from gastown.containers import Container
from gastown.runtimes import RunSpec
from gastown.runtimes.docker import DockerRuntime
from gastown.settings import HOST_ALIAS
from tests.docker import images
from tests.docker.engine import NoEngine

ROUNDS = 15
BAR_S = 0.150
# What any supervisor has to do: an interpreter, a connection, a request. It says who it is by the path.
PROGRAM = "import http.client, sys; c = http.client.HTTPConnection(sys.argv[1]);"
PROGRAM += "c.request('GET', '/' + sys.argv[2]); c.getresponse().read()"


def containers() -> None:
    try:
        image = images.agent()
    except NoEngine as error:
        print(f"containers  not measured: {error}", file=sys.stderr)
        return
    home = Path(tempfile.mkdtemp(prefix="gastown-bench-"))
    home.chmod(0o755)
    came: dict[str, float] = {}
    server = _serve(came)
    address = f"{HOST_ALIAS}:{server.server_address[1]}"
    runtime = DockerRuntime(home, node="bench", user="1000:1000")
    container = Container(image=image, memory_mb=512)
    try:
        plain, ours = [], []
        for number in range(ROUNDS + 1):  # one after the other, so that both see the same machine
            plain.append(_docker_run(image, address, home, came))
            ours.append(_start(runtime, container, address, number, came))
        _print(plain[1:], ours[1:])
    finally:
        for name in runtime.list_names():
            runtime.stop(name, grace_s=0)
        runtime.engine.close()
        server.shutdown()
        server.server_close()
        shutil.rmtree(home, ignore_errors=True)


def _print(plain: list[float], ours: list[float]) -> None:
    added = statistics.median(ours) - statistics.median(plain)
    print(
        f"containers  {ROUNDS} starts each, to the first request  docker run {1e3 * statistics.median(plain):.0f} ms  "
        f"Gastown {1e3 * statistics.median(ours):.0f} ms  added {1e3 * added:.0f} ms, bar {1e3 * BAR_S:.0f} ms  "
        f"ratio {added / BAR_S:.2f}"
    )


def _serve(came: dict[str, float]) -> ThreadingHTTPServer:
    class Asked(BaseHTTPRequestHandler):
        """Notes who calls, and refuses: a supervisor ends at that."""

        def do_GET(self) -> None:
            self._note(self.path.strip("/"))

        def do_POST(self) -> None:
            self._note("")

        def _note(self, path: str) -> None:
            name = self.headers.get("Authorization", "").removeprefix("Bearer ") or path
            came.setdefault(name, time.monotonic())
            body = json.dumps({}).encode()
            self.send_response(401)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: object) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("0.0.0.0", 0), Asked)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    return server


def _docker_run(image: str, address: str, home: Path, came: dict[str, float]) -> float:
    name = f"bench-{uuid.uuid4().hex}"
    limits = ("--read-only", "--tmpfs", "/tmp", "--cap-drop=ALL", "--security-opt=no-new-privileges", "--memory=512m")
    limits += ("--memory-swap=512m", "--cpus=2", "--pids-limit=1024", "--user=1000:1000")
    place = (f"--add-host={HOST_ALIAS}:host-gateway", f"--mount=type=bind,src={home},dst={home}")
    command = ("docker", "run", "--rm", "--detach", *limits, *place, image, "python3", "-c", PROGRAM, address, name)
    began = time.monotonic()
    subprocess.run(command, check=True, capture_output=True)
    return _wait(name, came) - began


def _start(runtime: DockerRuntime, container: Container, address: str, number: int, came: dict[str, float]) -> float:
    name = str(uuid.uuid4())
    spec = RunSpec(
        name=name, bead_id=f"gt-{number}", epoch=1, api_url=f"http://{address}", token=name, container=container
    )
    began = time.monotonic()
    runtime.start(spec)
    arrived = _wait(name, came) - began
    runtime.stop(name, grace_s=0)
    return arrived


def _wait(name: str, came: dict[str, float]) -> float:
    deadline = time.monotonic() + 60
    while name not in came:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{name} never called")
        time.sleep(0.002)
    return came[name]
