"""A merge worker that dies: `python -m tests.refinery.faulty` forks a process for each order that it reads, which runs
the real merge task and kills itself (SIGKILL) at a named point between two effects.

Points are functions of the product, wrapped in the process that is to die. Forked from a process that has everything
imported, each costs 20 ms instead of a second.
"""

import json
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from functools import wraps
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

OURS = ("HOME", "GASTOWN_HOME", "GASTOWN_DATABASE_URL", "GASTOWN_BROKER_URL", "PATH")
KILLS = "merge workers killed: point, next worker, outcome, merge commits, dependants released"


class When(StrEnum):
    BEFORE = "before"
    AFTER = "after"
    DURING = "during"  # once there is something in the point's file
    PAUSED = "paused"  # does not die: waits before it, as if its machine slept, until the point's file is gone


@dataclass(frozen=True)
class Point:
    """Where a process dies: at a call of this function."""

    function: str  # module:attribute
    when: When
    call: int = 1  # the how many-th
    file: str = ""

    def arm(self) -> None:
        """In this process, from now on."""
        module, _, path = self.function.partition(":")
        owner: Any = import_module(module)
        *parents, name = path.split(".")
        for parent in parents:
            owner = getattr(owner, parent)
        original, calls = getattr(owner, name), iter(range(1, 1000))

        @wraps(original)
        def deadly(*args: Any, **kwargs: Any) -> Any:
            if next(calls) != self.call:
                return original(*args, **kwargs)
            if self.when == When.BEFORE:
                die()
            if self.when == When.PAUSED:
                _sleep(Path(self.file))
                return original(*args, **kwargs)
            if self.when == When.DURING:
                threading.Thread(target=_die_when_written, args=(Path(self.file),)).start()
            original(*args, **kwargs)
            die()

        setattr(owner, name, deadly)


def die() -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("it lives on")


def _sleep(file: Path) -> None:
    file.write_text(str(os.getpid()))
    while file.exists():
        time.sleep(0.01)


def _die_when_written(file: Path) -> None:
    while not file.exists() or not file.read_text():
        time.sleep(0.01)
    die()


def serve() -> None:
    """Read orders, one JSON object a line; answer each with the exit code of its process and the most memory it had."""
    import_module("gastown.tasks.merge")
    for line in sys.stdin:
        order = json.loads(line)
        pid = os.fork()
        if pid == 0:
            _work(order)
        _, status, usage = os.wait4(pid, 0)
        answer = [os.waitstatus_to_exitcode(status), usage.ru_maxrss // 1024]
        print(json.dumps(answer), flush=True)  # noqa: T201 (to the test)


def _work(order: dict[str, Any]) -> NoReturn:
    """One message, as a worker of this name takes it. 0: it came to its end; 1: it raised."""
    log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for descriptor in (1, 2):
        os.dup2(log, descriptor)
    code = 1
    try:
        _settle_in(order["environment"], order["now"])
        if order["point"]:
            Point(**order["point"]).arm()
        _merge(order["worker"], order["merge_id"])
        code = 0
    except BaseException:  # noqa: BLE001 (into the log, and the test sees the exit code)
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stderr.flush()
        os._exit(code)


def _settle_in(environment: dict[str, str], now: str | None) -> None:
    """The database, broker and home of the test that asks, and its clock."""
    from sqlalchemy import Connection, event

    from gastown import db, settings
    from gastown.celery_app import app
    from gastown.store import workers

    for name in OURS:
        os.environ.pop(name, None)
    os.environ.update(environment)
    settings.get_settings.cache_clear()
    app.conf.broker_url = environment["GASTOWN_BROKER_URL"]
    workers.this_life = secrets.token_hex(6)

    def set_time(connection: Connection) -> None:
        connection.exec_driver_sql("SELECT set_config('gastown.now', %s, true)", (now,))

    if now is not None:
        event.listen(db.engine(), "begin", set_time)


def _merge(worker: str, merge_id: int) -> None:
    from gastown.tasks.merge import merge

    merge.push_request(hostname=worker)
    merge.run(merge_id)


class Workers:
    """The program, as a test uses it."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process
        self.peak_mb = 0  # of the last one, and of what it started

    def run(
        self, merge_id: int, *, log: Path, now: str | None, worker: str, point: Point | None = None, **environment: str
    ) -> int:
        """Its exit code, once it has ended: -9 when it was killed. `environment` is laid over that of the test."""
        given = {name: os.environ[name] for name in OURS if name in os.environ} | environment
        order: dict[str, Any] = {
            "environment": given,
            "now": now,
            "worker": worker,
            "merge_id": merge_id,
            "log": str(log),
        }
        order |= {"point": point and vars(point)}
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        code, self.peak_mb = json.loads(self._process.stdout.readline())
        assert code in (0, -signal.SIGKILL), log.read_text()
        return int(code)


@contextmanager
def running() -> Iterator[Workers]:
    command = [sys.executable, "-m", "tests.refinery.faulty"]
    root = Path(__file__).parent.parent.parent
    with subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield Workers(process)
        finally:
            assert process.stdin
            process.stdin.close()
            try:
                process.wait(timeout=120)
            except subprocess.TimeoutExpired:
                process.kill()


if __name__ == "__main__":
    serve()
