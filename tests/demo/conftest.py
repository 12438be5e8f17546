"""Demos as a person plays them: the command line, in a home folder with nothing in it."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest


@dataclass
class Person:
    """Somebody with an empty home folder."""

    home: Path
    temporary: Path

    @property
    def town(self) -> Path:
        return self.home / ".gastown" / "demo"

    @property
    def environment(self) -> dict[str, str]:
        return {
            "HOME": str(self.home),
            "TMPDIR": str(self.temporary),
            "PATH": os.environ["PATH"],
            "PYTHONWARNINGS": "error::ResourceWarning",
        }

    def play(self, *options: str, **variables: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-P", "-m", "gastown.cli", "demo", *options]
        return subprocess.run(
            command, env=self.environment | variables, cwd=self.home, capture_output=True, text=True, check=False
        )

    @contextmanager
    def playing(self, *options: str) -> Iterator[subprocess.Popen[str]]:
        """A demo that goes on meanwhile. It is interrupted at the end, if it has not ended by itself."""
        command = [sys.executable, "-P", "-m", "gastown.cli", "demo", *options]
        process = subprocess.Popen(
            command,
            env=self.environment,
            cwd=self.home,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        try:
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
            process.communicate(timeout=100)

    def left_running(self) -> list[str]:
        """Every process of the demo's town that is still there."""
        found = []
        for process in psutil.process_iter():
            try:
                ours = str(self.town) in " ".join([*process.cmdline(), *process.environ().values()])
                if ours and process.pid != os.getpid() and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(f"{process.pid}: {' '.join(process.cmdline())}")
            except psutil.Error:
                continue
        return found


@pytest.fixture
def person() -> Iterator[Person]:
    """In a folder with a short path: sockets go into the temporary one when the home's path is too long for them."""
    with tempfile.TemporaryDirectory(prefix="gt-", ignore_cleanup_errors=True) as folder:
        home, temporary = Path(folder) / "somebody", Path(folder) / "tmp"
        home.mkdir()
        temporary.mkdir()
        somebody = Person(home, temporary)
        yield somebody
        deadline = time.monotonic() + 60
        while somebody.left_running() and time.monotonic() < deadline:
            time.sleep(0.1)
        assert somebody.left_running() == []
