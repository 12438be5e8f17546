"""Attempts as the docker runtime starts them: in the foreground, in a home of their bead's own."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gastown.agent.protocol import Launch
from gastown.agent.runs import RunFiles
from tests.agent.town import Attempt, Town

COMMAND = (sys.executable, "-P", "-m", "gastown.agent", "--foreground")
ENVIRONMENT = {"PATH": os.environ["PATH"], "HOME": "/nonexistent"}


def home_of(town: Town, attempt: Attempt) -> Path:
    """The bead's own, made if missing."""
    home = town.home / "beads" / attempt.assignment.bead_id
    home.mkdir(parents=True, exist_ok=True)
    return home


def launch_of(town: Town, attempt: Attempt, **changes: Any) -> Launch:
    given = attempt.assignment
    wanted: dict[str, Any] = {
        "dispatch_id": given.dispatch_id,
        "bead_id": given.bead_id,
        "epoch": given.epoch,
        "api_url": town.url,
        "home": str(home_of(town, attempt)),
        "token": attempt.token,
        "shared_home": str(town.home),
    }
    return Launch(**{**wanted, **changes})


class Foreground:
    """A supervisor whose exit code is the attempt's. Ended when the block ends."""

    def __init__(
        self,
        town: Town,
        attempt: Attempt,
        *,
        before: Sequence[str] = (),
        command: Sequence[str] = COMMAND,
        **changes: Any,
    ) -> None:
        launch = launch_of(town, attempt, **changes)
        self.home = Path(launch.home)
        self.files = RunFiles(self.home, launch.dispatch_id)
        self.process = subprocess.Popen(
            [*before, *command], env=ENVIRONMENT, stdin=subprocess.PIPE, stderr=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(launch.to_json()).encode())
        self.process.stdin.close()
        self.process.stdin = None

    def __enter__(self) -> "Foreground":
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate(timeout=120)

    def wait(self, within_s: float = 30.0) -> tuple[int, str]:
        """Its exit code, and what it said."""
        said = self.process.communicate(timeout=within_s)[1].decode()
        return self.process.returncode, said


def run_here(town: Town, script: str, *, launch: dict[str, Any] | None = None, **changes: Any) -> tuple[Attempt, int]:
    """An attempt from start to end, and its supervisor's exit code."""
    attempt = town.sling(script, **changes)
    with Foreground(town, attempt, **(launch or {})) as supervisor:
        return attempt, supervisor.wait()[0]
