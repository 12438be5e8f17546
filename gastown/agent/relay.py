"""What an agent may say of itself: a socket of its own, from which a few calls reach the API with the attempt's token.

What it announces (costs, tools, limits) is kept here: see `announced`. The token stays in the supervisor. One thread
serves one client after another, each bounded in time and size, so that a broken one holds up others for seconds, and
never the attempt.
"""

import contextlib
import importlib.util
import json
import os
import shlex
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gastown.agent.announced import Announced
from gastown.agent.client import ApiError, Client, Denied, Fenced
from gastown.agent.line import READ_S, WRITE_S, Reply, TooLong, reaching, receive, write

CALLS = frozenset({"status", "escalate", "beads", "reviews"})  # never `done`: the supervisor says how an attempt ended
WAITING_CLIENTS = 64
REST_S = 1.0  # after a failed accept: out of descriptors
REFUSED, USAGE, NOT_FOUND, NOT_NOW = 1, 2, 3, 4  # exit codes


class Relay(threading.Thread):
    """Listens from its making on; answers once it is started. Make it before other threads: see `reaching`."""

    def __init__(
        self,
        path: Path,
        client: Client,
        announced: Announced,
        on_fenced: Callable[[], None],
        note: Callable[[str], None],
    ) -> None:
        super().__init__(name="relay", daemon=True)
        self._path, self._client, self._announced = path, client, announced
        self._on_fenced, self._note = on_fenced, note
        self._ended = threading.Event()
        self._listener = socket.socket(socket.AF_UNIX)
        self.listens = True
        try:
            path.unlink(missing_ok=True)
            with reaching(path) as name:
                self._listener.bind(name)
            path.chmod(0o600)
            self._listener.listen(WAITING_CLIENTS)
        except OSError as error:
            self.listens = False
            note(f"{path} takes no calls of the agent, which goes on without: {error}")

    def run(self) -> None:
        while self.listens and not self._ended.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError as error:
                if not self._ended.is_set():
                    self._note(f"a call of the agent was not taken: {error}")
                    self._ended.wait(REST_S)
                continue
            with connection, contextlib.suppress(OSError):  # it broke off, or does not read what it asked for
                self._serve(connection)

    def close(self) -> None:
        """No more clients. The thread may still wait for the API, and ends with its process."""
        self._ended.set()
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes `accept`
        self._listener.close()

    def _serve(self, connection: socket.socket) -> None:
        try:
            reply = self._answer(receive(connection, READ_S))
        except TooLong as error:
            reply = Reply(ok=False, exit_code=USAGE, message=f"that is too long: {error}", hint="put it into a file")
        except RecursionError:
            reply = Reply(ok=False, exit_code=USAGE, message="that is nested too deeply")
        connection.settimeout(WRITE_S)
        connection.sendall(write(**reply.to_json()))

    def _answer(self, line: bytes) -> Reply:
        try:
            asked = json.loads(line)
            call, body = asked["call"], asked["body"]
        except (ValueError, KeyError, TypeError):
            what = 'a call is one line of JSON: {"call": "status", "body": {"text": "..."}}'
            return Reply(ok=False, exit_code=USAGE, message=what)
        known = CALLS | self._announced.calls.keys()
        if not isinstance(call, str) or call not in known:
            what = f"there is no call {str(call)[:100]!r}"
            return Reply(ok=False, exit_code=USAGE, message=what, hint=f"one of {', '.join(sorted(known))}")
        if call not in CALLS:
            try:
                self._announced.take(call, body)
            except ValueError as error:
                return Reply(ok=False, exit_code=USAGE, message=str(error))
            return Reply()
        try:
            result = self._client.once("POST", call, body)
        except Fenced as error:
            self._on_fenced()
            return Reply(ok=False, exit_code=REFUSED, message=_problem(error)[1], hint="stop: your work is saved")
        except ApiError as error:
            return _failure(error)
        return Reply(result=result if isinstance(result, dict) else {})


def _failure(error: ApiError) -> Reply:
    title, detail, hint = _problem(error)
    if isinstance(error, Denied):
        return Reply(ok=False, exit_code=REFUSED, message="the town does not know this attempt (any more)")
    if error.status in (404, 405):
        code = NOT_FOUND if title == "NotFound" else REFUSED
        return Reply(ok=False, exit_code=code, message=detail, hint=hint)
    if error.status in (400, 413, 422):
        return Reply(ok=False, exit_code=REFUSED if title == "Refused" else USAGE, message=detail, hint=hint)
    return Reply(
        ok=False,
        exit_code=NOT_NOW,
        message=f"Gastown's API cannot take this now: {detail}",
        hint="try again in a moment",
    )


def _problem(error: ApiError) -> tuple[str, str, str]:
    """(title, detail, hint) of problem+json, or of whatever came instead."""
    try:
        found: Any = json.loads(error.body)
        return str(found["title"]), str(found["detail"]), str(found.get("hint", ""))
    except (ValueError, KeyError, TypeError, AttributeError):
        return "", str(error), ""


def _command_line() -> list[str]:
    if importlib.util.find_spec("gastown.cli") is not None:
        return ["-m", "gastown.cli"]
    here = str(Path(__file__).parents[2])  # which is on no path of Python's, but that of the image's environment
    return ["-c", f"import sys; sys.path.insert(0, {here!r}); from gastown.agent.speaking import main; main()"]


def install_command(home: Path) -> Path:
    """A folder whose `gastown` is this installation's, whatever the agent's environment says of Python.

    Where there is nothing but the supervisor, it knows `gastown self` alone. Raises OSError. All attempts share it, so
    it is replaced as a whole, and only by another one.
    """
    command = home / "bin" / "gastown"
    script = f'#!/bin/sh\nexec {shlex.join([sys.executable, "-I", *_command_line()])} "$@"\n'
    with contextlib.suppress(OSError, ValueError):
        if command.read_text() == script and os.access(command, os.X_OK):
            return command.parent
    command.parent.mkdir(exist_ok=True)
    made = command.with_name(f".gastown.{os.getpid()}.{threading.get_ident()}")
    made.write_text(script)
    made.chmod(0o755)
    made.replace(command)
    return command.parent
