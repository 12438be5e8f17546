"""A token for https remotes. Git asks for it when it needs one, for the host of a rig's repository and for no other.

A worker's git reads it from the file that the settings name. A supervisor has it in its memory alone, and tells only a
git that it has itself started for the remote. It is in no command line, environment, address, log, or file of ours.
"""

import contextlib
import os
import shlex
import socket
import struct
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from gastown.agent.line import reaching

WAITING = 16
WRITE_S, REST_S, NOTED_S = 5.0, 1.0, 1.0
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_ASKPASS = Path(__file__).with_name("askpass.py")
_source: tuple[str, ...] = ()  # where the helper finds the token: its arguments
_sessions: set[int] = set()  # of each git that may be told


def use_file(path: Path | None) -> None:
    """Of this process's git from now on: TOKEN or USER:TOKEN, on the first line. None: no token."""
    global _source
    _source = () if path is None else ("--file", os.fspath(path))


def token_in(path: Path) -> str:
    """Raises OSError and ValueError."""
    token = path.read_text(encoding="utf-8").partition("\n")[0].strip()
    if not token or any(not char.isprintable() for char in token):
        raise ValueError(f"{path} has no token on its first line")
    return token


def options(repository: str) -> tuple[str, ...]:
    """Settings for a git that is to reach this repository; none where there is no token, or it is not for there."""
    place = _place(repository)
    if not _source or place is None:
        return ()
    helper = shlex.join([sys.executable, "-I", "-S", os.fspath(_ASKPASS), *_source])
    # the empty one first: it makes git forget helpers that would be asked before, and told to remember what worked
    return tuple(part for value in ("", f"!{helper}") for part in ("-c", f"credential.{place}.helper={value}"))


def _place(repository: str) -> str | None:
    try:
        parts = urlsplit(repository)
        host = parts.hostname
    except ValueError:
        return None
    if not host or not (parts.scheme == "https" or (parts.scheme == "http" and host in _LOOPBACK)):
        return None
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


@contextlib.contextmanager
def lent(session: int) -> Iterator[None]:
    """While this git runs, whose session is its own, it may ask."""
    _sessions.add(session)
    try:
        yield
    finally:
        _sessions.discard(session)


class Keeper(threading.Thread):
    """Tells the token on a socket, to the supervisor's own git. Make it before other threads: see `reaching`."""

    def __init__(self, path: Path, token: str) -> None:
        """From now on this process's git asks here. Raises OSError."""
        global _source
        super().__init__(name="token", daemon=True)
        self._token = token
        self._listener = socket.socket(socket.AF_UNIX)
        path.unlink(missing_ok=True)
        with reaching(path) as name:
            self._listener.bind(name)
        path.chmod(0o600)
        self._listener.listen(WAITING)
        _source = ("--socket", os.fspath(path))

    def run(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                time.sleep(REST_S)  # out of descriptors
                continue
            with connection, contextlib.suppress(OSError):
                if _is_ours(connection):
                    connection.settimeout(WRITE_S)
                    connection.sendall(self._token.encode())


def _is_ours(connection: socket.socket) -> bool:
    """Whether a git that may be told asks; on a busy machine it may be faster than we are at noting that it runs."""
    deadline = time.monotonic() + NOTED_S
    while _session_of(connection) not in _sessions:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def _session_of(connection: socket.socket) -> int:
    """Of the process at the other end. Nobody gets into a session but by being started in it. Raises OSError."""
    if hasattr(socket, "SO_PEERCRED"):
        pid, _, _ = struct.unpack("=iII", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    else:
        pid = connection.getsockopt(0, 2)  # macOS: SOL_LOCAL, LOCAL_PEERPID
    return os.getsid(pid)
