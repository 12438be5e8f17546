"""The files of one attempt under GASTOWN_HOME, as the runtime, the supervisor and its successor find them."""

import hashlib
import json
import os
import re
from pathlib import Path
from typing import NamedTuple

from gastown.agent import processes

DISPATCH, BEAD, EPOCH, NODE, ROLE, AGENT, SELF = (
    "GASTOWN_DISPATCH",  # the attempt a process belongs to
    "GASTOWN_BEAD",
    "GASTOWN_EPOCH",
    "GASTOWN_PLACE",  # which home, so that two installations on one machine never touch each other's processes
    "GASTOWN_ROLE",  # "supervisor": it, or a git it runs; the agent's processes do not have it
    "GASTOWN_AGENT",
    "GASTOWN_SELF",  # the socket on which the agent may say something: see `relay`
)
SUPERVISOR = "supervisor"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


class Supervisor(NamedTuple):
    """Who runs an attempt: a pid, and what tells it from later processes with that pid."""

    pid: int
    born: str

    @property
    def alive(self) -> bool:
        return processes.alive(self.pid, self.born)


def node_mark(home: Path) -> str:
    return hashlib.sha256(os.fsencode(home.resolve())).hexdigest()[:16]


class RunFiles:
    """home/runs/<dispatch>/. Raises ValueError for a name that could lead out of it."""

    def __init__(self, home: Path, name: str) -> None:
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} is no name for an attempt")
        self.folder = home / "runs" / name
        self.lock = self.folder / "lock"
        self.pid = self.folder / "pid"
        self.exit = self.folder / "exit"
        self.log = self.folder / "supervisor.log"
        self.prompt = self.folder / "prompt.md"
        self.script = self.folder / "script"
        self.tmp = self.folder / "tmp"
        self.spool = self.folder / "output"
        self.socket = self.folder / "self"
        self.login = self.folder / "login"  # on which the supervisor's own git is told its token

    def supervisor(self) -> Supervisor | None:
        """Who took this attempt, whether alive or not. None: nobody did."""
        try:
            data = json.loads(self.pid.read_text())
            return Supervisor(int(data["pid"]), str(data["born"]))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (ValueError, KeyError, TypeError):
            return None  # half a file after a power cut: whoever wrote it is gone with the power

    def record_supervisor(self, pid: int) -> None:
        """Raises OSError when the disk does not take it."""
        _write_safely(self.pid, json.dumps({"pid": pid, "born": processes.birth(pid)}))

    def exit_code(self) -> int | None:
        try:
            return int(self.exit.read_text())
        except (OSError, ValueError):
            return None

    def record_exit(self, code: int) -> None:
        _write_safely(self.exit, str(code))


def _write_safely(path: Path, text: str) -> None:
    """All of it or nothing, and on the disk."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
