"""GASTOWN_HOME on disk: its folders, their permissions, its logs."""

import os
import shutil
import stat
from pathlib import Path
from typing import BinaryIO

from gastown.errors import UsageError
from gastown.settings import Settings

FOLDERS = ("run", "log", "backups", "runs")
LOG_BYTES = 10 * 1024 * 1024  # a log that is larger is put aside as .1, so one process keeps at most about twice that
LAST_LINE_BYTES = 4096


def prepare(settings: Settings) -> None:
    """Make the home and its folders, 0700, and the folder of the sockets. Raises UsageError."""
    home = settings.home
    elsewhere = "or choose another home: GASTOWN_HOME=/path"
    try:
        _make_private(home)
        for name in FOLDERS:
            (home / name).mkdir(mode=0o700, exist_ok=True)
        probe = home / "run" / ".writable"
        probe.write_bytes(b"")
        probe.unlink(missing_ok=True)  # of two at once, the other may have removed it
    except FileExistsError as error:
        raise UsageError(f"{error.filename} is not a folder", hint=f"move it away, {elsewhere}") from error
    except OSError as error:
        raise UsageError(
            f"{home} cannot be written: {error.strerror}",
            hint=f"check its owner, permissions and free space, {elsewhere}",
        ) from error
    _claim_run_dir(settings.run_dir)


def _make_private(home: Path) -> None:
    """Close a folder that we make, that is empty, or that was a home before; any other stays as it is."""
    try:
        home.mkdir(mode=0o700, parents=True)
        return
    except FileExistsError:
        if not home.is_dir():
            raise
    others = {entry.name for entry in home.iterdir()} - {"gastown.toml"}
    if home.stat().st_mode & 0o077 and (not others or "lock" in others):
        home.chmod(0o700)


def _claim_run_dir(folder: Path) -> None:
    """The sockets let anybody in who can reach them, so the folder must be ours, and closed. Raises UsageError."""
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
            raise UsageError(
                f"{folder}, the folder for the sockets, belongs to somebody else (uid {found.st_uid})",
                hint=f"remove it (rm -r {folder}), or use a home with a shorter path: GASTOWN_HOME=/path",
            )
        folder.chmod(0o700)
    except OSError as error:
        raise UsageError(
            f"{folder}, the folder for the sockets, cannot be used: {error.strerror}",
            hint=f"remove it (rm -r {folder}), or use a home with a shorter path: GASTOWN_HOME=/path",
        ) from error


def log_file(home: Path, name: str) -> Path:
    return home / "log" / f"{name}.log"


def open_log(log: Path) -> BinaryIO:
    """For appending. Only its owner may read it."""
    return open(log, "ab", opener=lambda name, flags: os.open(name, flags, 0o600))


def bound_log(log: Path) -> None:
    """Put a log over LOG_BYTES aside. Its writer may go on: it appends, so at the start of the emptied file."""
    try:
        if log.stat().st_size <= LOG_BYTES:
            return
    except FileNotFoundError:
        return
    aside = log.with_suffix(".log.1")
    try:
        with open_log(aside) as copy, open(log, "rb") as source:
            copy.truncate(0)
            source.seek(-LOG_BYTES, os.SEEK_END)
            shutil.copyfileobj(source, copy)
    except OSError:  # no room for the copy: all the more reason to make some
        aside.unlink(missing_ok=True)
    os.truncate(log, 0)


def last_line(log: Path) -> str:
    """The last line with text in it, or an empty string: what a process said before it died."""
    try:
        with open(log, "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - LAST_LINE_BYTES))
            lines = file.read().decode(errors="replace").split("\n")
    except OSError:
        return ""
    return next((line.strip()[:300] for line in reversed(lines) if line.strip()), "")
