"""The embedded Redis: a Unix socket, an append-only file, and nothing that anybody would miss (L1)."""

import shutil
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gastown.embedded import binaries, children
from gastown.embedded.postgres import environment
from gastown.errors import StackUnavailable

STOP_SIGNAL = signal.SIGTERM
DAMAGED_AFTER = 2  # quick deaths, after which its data is suspected
# fmt: off
OPTIONS = (
    "--port", "0", "--unixsocketperm", "700", "--daemonize", "no", "--loglevel", "warning",
    "--appendonly", "yes", "--appendfsync", "everysec", "--save", "", "--maxmemory-policy", "noeviction",
    "--hz", "4",  # wake-ups a second, ten by default; a stop takes effect at one of them
)
# fmt: on


def socket_path(socket_dir: Path) -> Path:
    return socket_dir / "redis.sock"


def url(socket_dir: Path) -> str:
    """As Celery wants it."""
    return f"redis+socket://{socket_path(socket_dir)}?virtual_host=0"


def command(data: Path, socket_dir: Path) -> list[str]:
    """The server's argv."""
    server = str(binaries.redis_server())
    return [server, "--unixsocket", str(socket_path(socket_dir)), "--dir", str(data), *OPTIONS]


def prepare_start(data: Path, quick_deaths: int = 0) -> None:
    """Make the data directory. When Redis keeps dying, put its data aside: the broker holds only hints (G5)."""
    if quick_deaths == DAMAGED_AFTER and data.exists():
        aside = data.with_name(data.name + ".damaged")
        shutil.rmtree(aside, ignore_errors=True)
        data.rename(aside)
    data.mkdir(mode=0o700, parents=True, exist_ok=True)


def is_ready(socket_dir: Path) -> bool:
    """Whether it answers PING."""
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(1)
            connection.connect(str(socket_path(socket_dir)))
            connection.sendall(b"PING\r\n")
            return connection.recv(16).startswith(b"+PONG")
    except OSError:
        return False


@contextmanager
def throw_away(folder: Path) -> Iterator[str]:
    """A server on fresh data, for tests. Yields its URL. Raises StackUnavailable."""
    data, log = folder / "redis", folder / "redis.log"
    prepare_start(data)
    argv = command(data, folder)
    process = children.spawn(argv, log=log, orphan_signal=STOP_SIGNAL, env=environment(), cwd=folder)
    try:
        deadline = time.monotonic() + 15
        while not is_ready(folder):
            if process.poll() is not None or time.monotonic() > deadline:
                raise StackUnavailable(f"Redis does not start: {log.read_text(errors='replace')[-500:]}")
            time.sleep(0.01)
        yield url(folder)
    finally:
        children.end(process, STOP_SIGNAL, grace_s=10)
