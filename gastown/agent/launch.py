"""From the runtime's pipe to a supervisor on record: in a process of its own, or as the first one of a container.

A name is taken once and for all, so a second start finds the first one's record, whether that attempt still runs or
ended long ago. On a machine the first process detaches the supervisor and exits 0 once that is on record: the runtime
waits for it. In a container nothing is detached, since the container ends with its first process.
"""

import contextlib
import fcntl
import json
import os
import select
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import NoReturn

from gastown.agent import journal, processes, runs
from gastown.agent.protocol import Launch
from gastown.agent.runs import RunFiles

OK, REFUSED = 0, 73  # EX_CANTCREAT: nothing was started, and standard error says why
OTHER_START_S = 20.0  # for another start of the same name to get its supervisor on record
LAUNCH_S = 60.0  # for the launch to come whole to a container: who made that may have died

Run = Callable[[Launch, RunFiles], int]


def launch(run: Run) -> NoReturn:
    """Read a Launch from standard input and run it in a detached process."""
    message = _message(sys.stdin.buffer.read())
    try:
        files, lock = _files(message)
        if not _take(lock, files):
            os._exit(OK)
        log = os.open(files.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        read, write = os.pipe()
        child = os.fork()
    except (OSError, ValueError) as error:
        _refuse(str(error))
    if child == 0:
        os.close(read)
        _detach(message, files, log, write, run)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        said = pipe.read()
    if said == b"ok":
        os._exit(OK)
    _refuse(said.decode(errors="replace") or "the supervisor ended before it was on record")


def launch_here(run: Run) -> NoReturn:
    """Read a Launch from standard input and run it in this process, as whose exit code the attempt ends.

    Made for process 1 of a container: for that one a signal without a handler is none, its orphans are its children,
    and an agent that runs as the same user must not look into it.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _leave)  # until the attempt has handlers of its own there is nothing to save
    processes.hide()
    message = _message(_read_within(LAUNCH_S))
    try:
        files, lock = _files(message)
        if not _take(lock, files):
            _refuse(f"{message.dispatch_id} was started before; a name is started once")
        journal.keep_in(files.log)
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.chdir("/")
        os.umask(0o022)
        _mark_own_git(message)
        files.record_supervisor(os.getpid())
    except (OSError, ValueError) as error:
        _refuse(str(error))
    sys.stderr = journal.Stream()
    _end_with(message, files, run)


def _message(data: bytes) -> Launch:
    try:
        return Launch.from_json(json.loads(data))
    except (ValueError, TypeError, AttributeError):
        _refuse("no launch came on standard input; whoever started this is gone")


def _read_within(seconds: float) -> bytes:
    """All of standard input; what came of it when it does not end in time."""
    deadline, data = time.monotonic() + seconds, bytearray()
    while select.select([0], [], [], max(0.0, deadline - time.monotonic()))[0]:
        part = os.read(0, 65536)
        if not part:
            break
        data += part
    return bytes(data)


def _files(message: Launch) -> tuple[RunFiles, int]:
    """The files of this attempt, and its lock, not taken yet. Raises OSError and ValueError."""
    home = Path(message.home)
    if not home.is_dir():
        raise OSError(f"there is no directory {home}")
    files = RunFiles(home, message.dispatch_id)
    files.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return files, os.open(files.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _mark_own_git(message: Launch) -> None:
    """What this process starts for itself is told from the agent's by these; see `program.Tree`."""
    os.environ[runs.DISPATCH], os.environ[runs.BEAD] = message.dispatch_id, message.bead_id
    os.environ[runs.EPOCH], os.environ[runs.ROLE] = str(message.epoch), runs.SUPERVISOR
    os.environ[runs.NODE] = runs.node_mark(Path(message.home))


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    os._exit(128 + number)


def _take(lock: int, files: RunFiles) -> bool:
    """Whether this name is ours to start. The lock is held as long as the supervisor lives."""
    deadline = time.monotonic() + OTHER_START_S
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return files.supervisor() is None
        except BlockingIOError:
            if files.supervisor() is not None:
                return False
            if time.monotonic() > deadline:
                raise OSError(f"{files.lock} is held, but nobody is on record") from None
            time.sleep(0.01)


def _detach(message: Launch, files: RunFiles, log: int, acknowledge: int, run: Run) -> NoReturn:
    try:
        os.setsid()
        null = os.open(os.devnull, os.O_RDWR)
        for source, target in ((null, 0), (log, 1), (log, 2)):
            os.dup2(source, target)
        os.chdir("/")
        os.umask(0o022)
        files.record_supervisor(os.getpid())
    except OSError as error:
        files.pid.unlink(missing_ok=True)
        os.write(acknowledge, str(error).encode())
        os._exit(REFUSED)
    os.write(acknowledge, b"ok")
    os.close(acknowledge)
    _end_with(message, files, run)


def _end_with(message: Launch, files: RunFiles, run: Run) -> NoReturn:
    code = 1
    try:
        code = run(message, files)
    except BaseException:  # noqa: BLE001 - this process has no caller; its log has to say it
        import traceback

        with contextlib.suppress(OSError):
            traceback.print_exc()
    with contextlib.suppress(OSError):
        files.record_exit(code)
    with contextlib.suppress(OSError):
        sys.stderr.flush()
    os._exit(code)  # threads that wait for a dead remote do not hold it up


def _refuse(reason: str) -> NoReturn:
    sys.stderr.write(reason + "\n")
    sys.stderr.flush()
    os._exit(REFUSED)
