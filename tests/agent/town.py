"""A town in the test process: a real HTTP server that speaks the agent protocol and writes down every call."""

import base64
import json
import subprocess
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from gastown.agent import processes
from gastown.agent.protocol import Assignment
from gastown.agent.runs import RunFiles
from gastown.runtimes import RunSpec
from gastown.runtimes.process import ProcessRuntime

SHELL = ["/bin/sh", "{script_file}"]


def eventually(condition: Callable[[], Any], within_s: float = 60.0, what: str = "") -> Any:
    deadline = time.monotonic() + within_s
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"did not happen within {within_s} s: {what or condition}")
        threading.Event().wait(0.01)
    return found


def git(*arguments: str, cwd: Path) -> str:
    identity = ["-c", "user.name=Tester", "-c", "user.email=tester@localhost"]
    return subprocess.run(
        ["git", *identity, *arguments], cwd=cwd, check=True, capture_output=True, text=True, errors="surrogateescape"
    ).stdout.strip()


def make_repository(path: Path) -> Path:
    """A bare repository with one commit on main."""
    work = path.with_name(path.name + ".work")
    git("init", "-q", "-b", "main", str(work), cwd=path.parent)
    (work / "README").write_text("hello\n")
    (work / ".gitignore").write_text("ignored/\n")
    git("add", "-A", cwd=work)
    git("commit", "-q", "-m", "first", cwd=work)
    git("clone", "-q", "--bare", str(work), str(path), cwd=path.parent)
    return path


@dataclass
class Attempt:
    """One dispatch as the town sees it."""

    assignment: Assignment
    token: str
    calls: list[tuple[str, dict[str, Any], float]] = field(default_factory=list)
    logs: dict[int, bytes] = field(default_factory=dict)
    done: dict[str, Any] | None = None
    fenced: bool = False
    answers: dict[str, tuple[int, dict[str, Any]]] = field(default_factory=dict)  # to calls that the town does not know
    refuses: Callable[[dict[str, Any]], str] = lambda done: ""  # why a `done` is refused

    @property
    def name(self) -> str:
        return self.assignment.dispatch_id

    @property
    def output(self) -> bytes:
        return b"".join(self.logs[seq] for seq in sorted(self.logs))

    def of(self, call: str) -> list[dict[str, Any]]:
        return [body for name, body, _ in list(self.calls) if name == call]


class Town:
    """Serves attempts until closed. `down` answers 503 to everything, as a proxy before a dead API does."""

    def __init__(self, folder: Path, repository: Path) -> None:
        self.home, self.repository = folder / "home", repository
        self.home.mkdir()
        self.runtime = ProcessRuntime(self.home)
        self.attempts: dict[str, Attempt] = {}
        self.down = False
        self.denied: list[str] = []
        self._serve(0)

    def _serve(self, port: int) -> None:
        self.server = ThreadingHTTPServer(("127.0.0.1", port), _handler(self))
        self.server.daemon_threads = True
        self.port = self.server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()

    def close(self) -> None:
        for name in list(self.attempts):
            self.runtime.stop(name, grace_s=0)
        self.server.shutdown()
        self.server.server_close()
        self._thread.join()

    def sling(self, script: str, *, bead: str = "gt-1", epoch: int = 1, **changes: Any) -> Attempt:
        """An attempt that is not started yet. `script` is the bead's body."""
        given: dict[str, Any] = {
            "dispatch_id": str(uuid.uuid4()),
            "bead_id": bead,
            "epoch": epoch,
            "title": "Do the thing",
            "body": script,
            "agent": "toast",
            "rig_id": 7,
            "repository": str(self.repository),
            "branch": "main",
            "setup": "",
            "environment": {"PATH": "/usr/local/bin:/usr/bin:/bin"},
            "argv": SHELL,
            "prompt_on_stdin": False,
            "preset": "shell",
            "previous_epochs": list(range(1, epoch)),
            "base": None,
            "notes": "",
            "heartbeat_s": 0.3,
        }
        attempt = Attempt(Assignment(**{**given, **changes}), f"token-{uuid.uuid4().hex}")
        self.attempts[attempt.name] = attempt
        return attempt

    def spec(self, attempt: Attempt) -> RunSpec:
        given = attempt.assignment
        return RunSpec(
            name=given.dispatch_id, bead_id=given.bead_id, epoch=given.epoch, api_url=self.url, token=attempt.token
        )

    def start(self, attempt: Attempt) -> int:
        handle = self.runtime.start(self.spec(attempt))
        assert handle is not None
        return handle.pid

    def run(self, script: str, **changes: Any) -> Attempt:
        """Start an attempt and wait until its supervisor is gone."""
        attempt = self.sling(script, **changes)
        self.start(attempt)
        self.wait_gone(attempt)
        return attempt

    def wait_gone(self, attempt: Attempt, within_s: float = 60.0) -> int | None:
        """Until nothing of it runs; returns the supervisor's exit code."""
        eventually(
            lambda: not self.runtime.inspect(attempt.name).present, within_s, self.supervisor_log(attempt) or "gone"
        )
        return self.files(attempt).exit_code()

    def wait_phase(self, attempt: Attempt, phase: str = "agent") -> None:
        eventually(lambda: any(beat["phase"] == phase for beat in attempt.of("heartbeat")), what=f"phase {phase}")

    def wait_output(self, attempt: Attempt, text: bytes) -> None:
        eventually(lambda: text in attempt.output, what=f"{text!r} in the log")

    def files(self, attempt: Attempt) -> RunFiles:
        return RunFiles(self.home, attempt.name)

    def supervisor_log(self, attempt: Attempt) -> str:
        log = self.files(attempt).log
        return log.read_text() if log.exists() else ""

    def worktree(self, attempt: Attempt) -> Path:
        return self.home / "work" / attempt.assignment.bead_id / str(attempt.assignment.epoch)

    @property
    def mirror(self) -> Path:
        return self.home / "mirrors" / "7.git"

    def left(self, attempt: Attempt) -> set[int]:
        return set(processes.marked("GASTOWN_DISPATCH", attempt.name))

    def show(self, rev: str, path: str) -> str:
        return git("show", f"{rev}:{path}", cwd=self.mirror)

    def paths(self, rev: str) -> set[str]:
        return set(filter(None, git("ls-tree", "-r", "--name-only", "-z", rev, cwd=self.mirror).split("\0")))


def _handler(town: Town) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            self._serve({})

        def do_POST(self) -> None:
            self._serve(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

        def _serve(self, body: dict[str, Any]) -> None:
            call = self.path.removeprefix("/agent/v1/")
            token = self.headers["Authorization"].removeprefix("Bearer ")
            attempt = next((a for a in town.attempts.values() if a.token == token), None)
            if attempt is None:
                town.denied.append(call)
                return self._answer(401, {})
            if town.down:
                return self._answer(503, {})
            attempt.calls.append((call, body, time.monotonic()))
            if attempt.fenced:
                return self._answer(409, {"detail": "superseded"})
            if call == "assignment" and call not in attempt.answers:
                return self._answer(200, attempt.assignment.to_json())
            if call == "logs":
                attempt.logs.setdefault(body["seq"], base64.b64decode(body["data"]))
            elif call == "done" and (refusal := attempt.refuses(body)):
                return self._answer(422, {"title": "unstorable", "status": 422, "detail": refusal})
            elif call == "done":
                attempt.done = attempt.done or body
            return self._answer(*attempt.answers.get(call, (200, {})))

        def _answer(self, status: int, body: dict[str, Any]) -> None:
            data = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *arguments: Any) -> None:
            """Quiet."""

    return Handler
