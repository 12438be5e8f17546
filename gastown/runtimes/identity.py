"""Who a node is: of two workers that call themselves the same, whether they can see each other's attempts."""

import hashlib
import socket
from pathlib import Path
from typing import Any

from gastown.agent.runs import node_mark
from gastown.containers import Container
from gastown.runtimes.docker_engine import Engine, EngineSaid, unexpected

MACHINE_ID = (Path("/etc/machine-id"), Path("/var/lib/dbus/machine-id"))
TIMEOUT_S = 5.0
OVERCOMMIT = 2


def of_processes(home: Path) -> str:
    """This machine and home: supervisors are found by both."""
    return f"machine {_short(_machine())}, home {node_mark(home)[:8]}"


def of_engine(facts: dict[str, Any], home: Path) -> str | None:
    """The engine and home: containers are found by both. None: the engine does not say who it is."""
    known = str(facts.get("ID") or facts.get("Name") or "")
    return f"engine {_short(known)}, home {node_mark(home)[:8]}" if known else None


def ask_engine(url: str | None) -> dict[str, Any]:
    """What `docker info` says. Raises RuntimeUnavailable."""
    engine = Engine(url, timeout_s=TIMEOUT_S)
    try:
        return engine.facts()
    except EngineSaid as said:
        raise unexpected(said, "say what it is") from said
    finally:
        engine.close()


def room_for(facts: dict[str, Any], container: Container) -> int:
    """How many such containers at one time, one at least: few ever use as much memory as they may."""
    return max(1, OVERCOMMIT * int(facts.get("MemTotal") or 0) // (container.memory_mb * 1024 * 1024))


def _machine() -> str:
    for file in MACHINE_ID:
        try:
            if found := file.read_text().strip():
                return found
        except OSError:
            continue
    return socket.gethostname()


def _short(known: str) -> str:
    return hashlib.sha256(known.encode()).hexdigest()[:12]
