"""Where the demo happens: a home of its own inside the user's, removed and made anew each time."""

import fcntl
import os
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from gastown import settings
from gastown.agent import processes
from gastown.demo import faults, repository
from gastown.embedded import control, leftovers
from gastown.errors import Refused, StackUnavailable, UsageError
from gastown.runtimes.process import ProcessRuntime
from gastown.settings import Settings

APP = "gastown.demo.faulty_app"
MARKER = ".demo"  # a folder without it was not made by a demo, and is left alone
FOREIGN = ("GASTOWN_", "PG")  # the user's own town and databases have no part in this
AGENT_GRACE_S = 5.0
UNBORN_S = 3.0
POLL_S = 0.05


@dataclass(frozen=True)
class Place:
    """The demo's GASTOWN_HOME, with the repository inside it."""

    home: Path

    @property
    def repository(self) -> Path:
        return self.home / repository.RIG

    @property
    def orders(self) -> Path:
        """The faults on order."""
        return self.home / "faults"

    def start(self, settings: Settings) -> None:
        """Have the stack up, with the runtime that fails when it is told to."""
        control.start_detached(settings, app=APP, env={faults.FOLDER: str(self.orders)})

    def stop(self, settings: Settings) -> None:
        """End the stack and every agent of it; returns when nothing of it runs."""
        faults.call_off(self.orders)
        control.stop(settings)
        self._stop_unborn(settings)
        runtime = ProcessRuntime(self.home)
        for name in runtime.list_names():
            runtime.stop(name, grace_s=AGENT_GRACE_S)

    def _stop_unborn(self, settings: Settings) -> None:
        """A stack whose start was interrupted may not have said yet that it is there."""
        deadline = time.monotonic() + UNBORN_S
        while time.monotonic() < deadline and processes.marked("GASTOWN_HOME", str(self.home)):
            if control.stop(settings):
                return
            time.sleep(POLL_S)


@contextmanager
def claimed(own: Path) -> Iterator[Place]:
    """The only demo in the user's home `own`. Raises Refused while another one plays there, UsageError."""
    try:
        own.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(own / "demo.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise _unwritable(own, error) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise Refused(
            f"another demo is under way in {own / 'demo'}",
            hint="wait until it has ended, or play this one elsewhere: GASTOWN_HOME=/path gastown demo",
        ) from None
    try:
        yield Place(own / "demo")
    finally:
        os.close(lock)


def enter(place: Place) -> None:
    """From here on this process, and all that it starts, speaks to the demo's town and to no other."""
    for name in [name for name in os.environ if name.startswith(FOREIGN)]:
        del os.environ[name]
    os.environ["GASTOWN_HOME"] = str(place.home)
    settings.get_settings.cache_clear()


def make_anew(place: Place) -> Settings:
    """Remove what the last demo left, after stopping it, and lay out this one's home. Call `enter` before.

    Raises UsageError, and StackUnavailable when what the last one left running does not end.
    """
    home = place.home
    if home.is_symlink() or (home.exists() and not (home / MARKER).is_file()):
        raise UsageError(
            f"{home} was not made by a demo, so it is left alone",
            hint=f"move it away, or play elsewhere: GASTOWN_HOME=/path gastown demo (not {home.parent})",
        )
    try:
        if home.exists():
            _configure(home)
            _end_last(place)
            shutil.rmtree(home)
        home.mkdir(mode=0o700)
        (home / MARKER).write_text("gastown demo made this folder, and removes it\n")
        _configure(home)
        place.orders.mkdir()
        place.repository.mkdir()
        repository.make(place.repository)
    except OSError as error:
        raise _unwritable(home, error) from error
    return settings.get_settings()


def _end_last(place: Place) -> None:
    place.stop(settings.load())
    lock = leftovers.take_lock(place.home)
    if lock is None:
        raise StackUnavailable(f"the last demo in {place.home} does not end", hint=f"see {place.home}/log")
    os.close(lock)


def _configure(home: Path) -> None:
    """A file, so that `gastown up` in this home does the same with no variable but GASTOWN_HOME."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    (home / "gastown.toml").write_text(f'[api]\nbind = "127.0.0.1:{port}"\n')


def _unwritable(folder: Path, error: OSError) -> UsageError:
    return UsageError(
        f"{folder} cannot be written: {error.strerror or error}",
        hint="check its owner, permissions and free space, or choose another home: GASTOWN_HOME=/path gastown demo",
    )
