"""What the agent's shell and its supervisor say to each other: one JSON line each way, on a Unix socket.

{"call": "status", "body": {"text": "reading"}}
{"ok": true, "result": {"status": "ok"}, "exit_code": 0, "message": "", "hint": ""}
"""

import contextlib
import json
import os
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gastown.agent.protocol import Message

LINE_BYTES = 1024 * 1024  # as much as the body of a bead may have
READ_S, WRITE_S = 2.0, 2.0  # for the other side to say its line, and to take ours
ANSWER_S = 60.0  # for the whole answer: the API's 15 s, twice, and whoever came before
PATH_BYTES = 100  # a socket's path holds 107 on Linux and 103 on macOS


@dataclass(frozen=True, kw_only=True)
class Reply(Message):
    """How a call ended. `exit_code` is that of `gastown`: 0 done, 1 refused, 2 usage, 3 not found, 4 not now."""

    ok: bool = True
    result: dict[str, Any] = field(default_factory=dict)
    exit_code: int = 0
    message: str = ""
    hint: str = ""


class TooLong(Exception):
    """A line of more than LINE_BYTES."""


def ask(path: Path, call: str, body: dict[str, Any]) -> Reply:
    """Say one thing and wait for the answer.

    Raises TooLong, OSError when nobody listens or answers in time, ValueError for an answer that is none.
    """
    line = write(call=call, body=body)
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(WRITE_S)
        with reaching(path) as name:
            connection.connect(name)
        connection.sendall(line)
        answer = json.loads(receive(connection, ANSWER_S))
    if not isinstance(answer, dict):
        raise ValueError("the answer is no object")
    return Reply.from_json(answer)


def write(**content: Any) -> bytes:
    """Raises TooLong."""
    data = json.dumps(content).encode()
    if len(data) > LINE_BYTES:
        raise TooLong(f"{len(data)} bytes, at most {LINE_BYTES} fit")
    return data + b"\n"


def receive(connection: socket.socket, within_s: float) -> bytes:
    """The line that the other side says. Raises TooLong, or OSError when it does not come in time, or not whole."""
    deadline = time.monotonic() + within_s
    data = bytearray()
    while b"\n" not in data[-65536:]:
        connection.settimeout(max(0.001, deadline - time.monotonic()))
        part = connection.recv(65536)
        if not part:
            raise ConnectionError("the other side closed the connection before its line ended")
        data += part
        if len(data) > LINE_BYTES + 1:
            raise TooLong(f"more than {LINE_BYTES} bytes")
        if time.monotonic() > deadline:
            raise TimeoutError("the line did not come in time")
    return bytes(data[: data.index(b"\n")])


@contextlib.contextmanager
def reaching(path: Path) -> Iterator[str]:
    """A name for a socket's path that is short enough: when it is not, we go to its folder for the moment.

    Only for processes that have one thread as yet, since all threads share the directory.
    """
    if len(os.fsencode(path)) <= PATH_BYTES:
        yield str(path)
        return
    with contextlib.chdir(path.parent):
        yield path.name
