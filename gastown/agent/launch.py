"""From the runtime's pipe to a process on its own: take the name, detach, and only then acknowledge.

The first process exits 0 once the supervisor is on record: that is what the runtime waits for. A name is taken once and
for all, so a second start finds the first one's record, whether that attempt still runs or ended long ago.
"""

import contextlib
import fcntl
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from gastown.agent.protocol import Launch
from gastown.agent.runs import RunFiles

OK, REFUSED = 0, 73  # EX_CANTCREAT: nothing was started, and standard error says why
OTHER_START_S = 20.0  # for another start of the same name to get its supervisor on record


def launch(run: Callable[[Launch, RunFiles], int]) -> NoReturn:
    """Read a Launch from standard input and run it in a detached process."""
    try:
        message = Launch.from_json(json.loads(sys.stdin.buffer.read()))
    except (ValueError, TypeError, AttributeError):
        _refuse("no launch came on standard input; whoever started this is gone")
    home = Path(message.home)
    try:
        if not home.is_dir():
            _refuse(f"there is no directory {home}")
        files = RunFiles(home, message.dispatch_id)
        files.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = os.open(files.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
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


def _detach(
    message: Launch, files: RunFiles, log: int, acknowledge: int, run: Callable[[Launch, RunFiles], int]
) -> NoReturn:
    code = 1
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
