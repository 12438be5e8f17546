"""The embedded Postgres: its data directory, its command line, and whom it runs as."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import psutil

from gastown.embedded import binaries, children
from gastown.errors import StackUnavailable

STOP_SIGNAL = signal.SIGINT  # fast shutdown: ends sessions, writes a checkpoint
PORT = 5432  # names the socket file only: nothing listens on TCP
INITDB_TIMEOUT_S = 120.0
NOBODY = 65534
NAMESPACE = ("unshare", "--user", "--map-user=1000", "--map-group=1000", "--")
# As nobody, one of root's capabilities stays: without it, Postgres could not reach a home below a 0700 folder (/root).
AS_NOBODY = (
    "setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups",
    "--inh-caps=-all,+dac_override", "--ambient-caps=-all,+dac_override", "--",
)  # fmt: skip

# The builtin locale sorts by code point and is the same on every machine, whatever locales it has.
INITDB_OPTIONS = (
    "--username=gastown", "--auth=trust", "--encoding=UTF8", "--no-instructions",
    "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8",
)  # fmt: skip

# Safe first, then small and quiet. A laptop is idle most of the time, and one stack never needs more than this.
OPTIONS = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "fsync": "on",
    "full_page_writes": "on",
    "autovacuum": "on",
    "max_connections": "200",  # slots cost 20 KB each; every process of the stack keeps a pool of 5 to 25
    "shared_buffers": "64MB",
    "dynamic_shared_memory_type": "mmap",  # logind's RemoveIPC and Docker's 64 MB /dev/shm cannot harm it
    "jit": "off",
    "wal_level": "minimal",  # nothing replicates from here; backups are dumps
    "max_wal_senders": "0",
    "max_wal_size": "256MB",
    "min_wal_size": "32MB",
    "checkpoint_timeout": "15min",
    "bgwriter_delay": "10s",  # the largest: idle wake-ups are all it would do here
    "wal_writer_delay": "10s",  # every commit flushes for itself; this is for asynchronous ones
    "io_method": "sync",  # no I/O worker processes
    "autovacuum_naptime": "1min",
    "log_min_messages": "log",  # a statement's error is its client's to report: losing a race is no news here
    "log_checkpoints": "off",
    "log_min_duration_statement": "2s",
    "log_line_prefix": "%m [%p] ",
}
UNSAFE_AND_FAST = {"fsync": "off", "full_page_writes": "off", "synchronous_commit": "off"}  # throw-away data, in tests


def environment() -> dict[str, str]:
    """Ours without what would lead initdb, postgres or pg_dump astray: PGPORT and the like, and the locale."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "LC_", "LANG"))}
    return kept | {"LC_ALL": "C"}


def url(socket_dir: Path, database: str = "gastown") -> str:
    """What libpq needs to connect, independent of PGPORT and PGSERVICE in the environment."""
    return f"postgresql://gastown@/{database}?host={socket_dir}&port={PORT}"


def initialise(data: Path, *, sync: bool = True) -> None:
    """Make the data directory if there is none. All or nothing: a half-made one is never seen under this name.

    Raises StackUnavailable: initdb failed (disk full, say), or the directory belongs to another major version.
    """
    if (data / "PG_VERSION").exists():
        _check_version(data)
        return
    if data.exists() and any(data.iterdir()):
        raise StackUnavailable(
            f"{data} is no Postgres data directory, and not empty", hint=f"move it away: mv {data} {data}.old"
        )
    unfinished = data.with_name(data.name + ".new")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(mode=0o700, parents=True)
    give_away(unfinished)
    initdb = str(binaries.postgres_bin() / "initdb")
    argv = [*prefix(), initdb, "--pgdata", str(unfinished), *INITDB_OPTIONS, *([] if sync else ["--no-sync"])]
    try:
        made = subprocess.run(
            argv,
            capture_output=True,
            text=True,
            errors="replace",
            env=environment(),
            timeout=INITDB_TIMEOUT_S,
            cwd="/",
            start_new_session=True,  # Ctrl-C is for the supervisor
        )
        reason = _reason(made.stderr) if made.returncode else ""
    except (OSError, subprocess.TimeoutExpired) as error:
        reason = str(error)
    if reason:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise StackUnavailable(
            f"initdb could not make the database in {data}: {reason}",
            hint=f"check free space and permissions there (df -h {data.parent}), then: gastown up",
        )
    if data.exists():
        data.rmdir()
    unfinished.rename(data)


def command(data: Path, socket_dir: Path, **options: str) -> list[str]:
    """The server's argv. `options` override OPTIONS."""
    settings = [f"--{name}={value}" for name, value in (OPTIONS | options).items()]
    server = str(binaries.postgres_bin() / "postgres")
    return [server, "-D", str(data), "-k", str(socket_dir), "-p", str(PORT), *settings]


def prepare_start(data: Path) -> None:
    """Remove a postmaster.pid that names a process which is not this directory's Postgres.

    Postgres itself only sees that a process with this number lives. Call it while holding the lock of the home.
    """
    pid_file = data / "postmaster.pid"
    try:
        pid = int(pid_file.read_text().split("\n", 1)[0])
    except (FileNotFoundError, ValueError):
        pid_file.unlink(missing_ok=True)
        return
    if not _serves(pid, data):
        pid_file.unlink(missing_ok=True)


def is_ready(data: Path) -> bool:
    """Whether the server has written that it accepts connections (as pg_ctl looks at it: line 8 of postmaster.pid)."""
    try:
        lines = (data / "postmaster.pid").read_text().splitlines()
    except OSError:
        return False
    return len(lines) > 7 and lines[7].strip() == "ready"


@cache
def prefix() -> tuple[str, ...]:
    """What to put before a Postgres program: nothing for an ordinary user.

    Postgres refuses to run as root, so root goes into a user namespace or, where that is forbidden (in a container),
    becomes nobody. Raises StackUnavailable when neither can be had.
    """
    if os.geteuid() != 0:
        return ()
    for candidate in (NAMESPACE, AS_NOBODY):
        if shutil.which(candidate[0]) and subprocess.run([*candidate, "true"], capture_output=True).returncode == 0:
            return candidate
    raise StackUnavailable(
        "Postgres does not run as root, and neither a user namespace nor another user can be had here",
        hint="run gastown as an ordinary user, or set GASTOWN_DATABASE_URL to a Postgres of your own",
    )


def give_away(folder: Path) -> None:
    """Let the user that Postgres runs as own its directory. In a user namespace that is root's own number."""
    if prefix() == AS_NOBODY:
        os.chown(folder, NOBODY, NOBODY)


def create_database(socket_dir: Path, name: str = "gastown") -> None:
    """Make the database if it is not there. Raises psycopg.Error."""
    import psycopg

    with psycopg.connect(url(socket_dir, "postgres"), autocommit=True, connect_timeout=5) as connection:
        if not connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [name]).fetchone():
            connection.execute(psycopg.sql.SQL("CREATE DATABASE {}").format(psycopg.sql.Identifier(name)))


@contextmanager
def throw_away(folder: Path) -> Iterator[str]:
    """A server on fresh data that need not survive a crash, for tests. Yields its URL. Raises StackUnavailable."""
    data, log = folder / "pg", folder / "postgres.log"
    initialise(data, sync=False)
    argv = command(data, folder, **UNSAFE_AND_FAST)
    process = children.spawn(argv, log=log, orphan_signal=STOP_SIGNAL, env=environment(), cwd=folder, prefix=prefix())
    try:
        deadline = time.monotonic() + 30
        while not is_ready(data):
            if process.poll() is not None or time.monotonic() > deadline:
                raise StackUnavailable(f"Postgres does not start: {log.read_text(errors='replace')[-500:]}")
            time.sleep(0.01)
        create_database(folder)
        yield url(folder)
    finally:
        children.end(process, signal.SIGQUIT, grace_s=10)


def _check_version(data: Path) -> None:
    version = (data / "PG_VERSION").read_text().strip()
    if version != str(binaries.POSTGRES_MAJOR):
        raise StackUnavailable(
            f"{data} was made by Postgres {version}, and this Gastown brings Postgres {binaries.POSTGRES_MAJOR}",
            hint="dump it with the Gastown that made it (pg_dump), move the folder away, gastown up, restore the dump",
        )


def _serves(pid: int, data: Path) -> bool:
    try:
        process = psutil.Process(pid)
        return process.name() == "postgres" and Path(process.cwd()) == data.resolve()
    except psutil.AccessDenied:
        return sys.platform != "linux"  # on Linux we see our own; elsewhere believe the file
    except psutil.Error:
        return False


def _reason(stderr: str) -> str:
    lines = [line for line in stderr.splitlines() if "FATAL" in line or "error" in line or "PANIC" in line]
    return (
        (lines or stderr.strip().splitlines() or ["no reason given"])[0]
        .removeprefix("initdb: ")
        .removeprefix("error: ")
    )
