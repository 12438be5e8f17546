"""What a test session makes in the engine, named and labelled as its own, so that all of it goes, however it ends."""

import os
import platform
import uuid
from pathlib import Path

from tests.docker.engine import NoEngine, call

LABEL = "dev.gastown.test"
TIMEOUT_S = 60
KINDS = {  # how each is listed and removed; containers first, since they hold the others
    "container": (("ps", "--all"), ("rm", "--force", "--volumes")),
    "network": (("network", "ls"), ("network", "rm")),
    "volume": (("volume", "ls"), ("volume", "rm", "--force")),
}


def docker(*command: str, timeout_s: float = TIMEOUT_S) -> str:
    """Raises NoEngine, with what docker said."""
    return call("docker", *command, timeout_s=timeout_s).strip()


def mark(pid: int) -> str:
    """A process, told from a later one with the same number. Raises OSError when there is none (on Linux)."""
    told = Path("/proc/self").exists()
    started = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19] if told else "0"
    return f"{platform.node()}-{pid}-{started}"


class Session:
    """The names and the label of what one pytest session makes."""

    def __init__(self) -> None:
        self.mark = mark(os.getpid())
        self.prefix = f"gt-{uuid.uuid4().hex[:6]}"

    def name(self, of: str) -> str:
        return f"{self.prefix}-{of}"

    @property
    def label(self) -> str:
        return f"{LABEL}={self.mark}"

    @property
    def labels(self) -> dict[str, str]:
        return {LABEL: self.mark}

    def remove_all(self) -> None:
        remove(self.label)


def remove(label: str) -> None:
    """Containers, networks and volumes with this label. Images stay."""
    for kind in KINDS:
        listing, removal = KINDS[kind]
        form = "{{.Name}}" if kind != "container" else "{{.Names}}"
        names = docker(*listing, "--filter", f"label={label}", "--format", form).split()
        if names:
            docker(*removal, *names)


def sweep() -> None:
    """Remove what dead sessions of this machine left: those that were killed."""
    for mark_of_session in _marks():
        node, pid, _ = mark_of_session.rsplit("-", 2)
        if node == platform.node() and not _lives(int(pid), mark_of_session):
            try:
                remove(f"{LABEL}={mark_of_session}")
            except NoEngine:
                continue  # another session sweeps the same at this moment


def _marks() -> set[str]:
    form = f'{{{{.Label "{LABEL}"}}}}'
    found = [docker(*listing, "--filter", f"label={LABEL}", "--format", form).split() for listing, _ in KINDS.values()]
    return {each for some in found for each in some}


def _lives(pid: int, expected: str) -> bool:
    try:
        return mark(pid) == expected
    except OSError:
        return False
