"""The command line in this process, against a real database and real repositories."""

import json
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from gastown import cli

IDENTITY = ("-c", "user.name=me", "-c", "user.email=me@localhost")


@dataclass(frozen=True)
class Said:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Gastown = Callable[..., Said]


@pytest.fixture
def gastown(database: str, capsys: pytest.CaptureFixture[str]) -> Gastown:
    """Runs one command line as the console script does."""

    def run(*arguments: str) -> Said:
        capsys.readouterr()
        code = cli.run(arguments)
        said = capsys.readouterr()
        assert "Traceback" not in said.err + said.out
        return Said(code, said.out, said.err)

    return run


def git(path: Path, *arguments: str) -> str:
    return subprocess.run(["git", *IDENTITY, *arguments], cwd=path, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Somebody's own checkout, with one commit on main."""
    path = tmp_path / "project"
    (path / "docs").mkdir(parents=True)
    (path / "docs" / "text").write_text("text\n")
    (path / "check.sh").write_text("#!/bin/sh\ntest ! -e broken\n")
    (path / "check.sh").chmod(0o755)
    git(path, "init", "--quiet", "--initial-branch=main")
    git(path, "add", ".")
    git(path, "commit", "--quiet", "--message=first")
    return path
