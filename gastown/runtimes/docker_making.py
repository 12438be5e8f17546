"""How a container is made, as data: of an attempt, or of a command. Nothing here talks to an engine."""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gastown.agent import processes, runs
from gastown.containers import MOUNT, Container
from gastown.runtimes import RunSpec
from gastown.settings import HOST_ALIAS

LABEL = "dev.gastown."
DISPATCH, BEAD, EPOCH, NODE, HOME, ROLE, STARTER, UNTIL = (
    f"{LABEL}{name}" for name in ("dispatch", "bead", "epoch", "node", "home", "role", "starter", "until")
)
SUPERVISOR = f"{LABEL}supervisor"  # of an image: the protocol that its supervisor speaks
ATTEMPT, GATE = "attempt", "gate"
COMMAND = ("python3", "-P", "-m", "gastown.agent", "--foreground")
SHELL = ("/bin/sh", "-c", 'exec /bin/sh -c "$1" 2>&1', "sh")  # one stream, so that its lines stay in order
NO_NETWORK = "none"
UNPRIVILEGED = (1000, 1000)  # instead of root
_LOGGED = {"Type": "json-file", "Config": {"max-size": "1m", "max-file": "1"}}
_UNLOGGED: dict[str, Any] = {"Type": "none", "Config": {}}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")


def container_name(name: str) -> str | None:
    """Of the attempt of this name. None: no attempt can have it."""
    return f"gastown-{name}" if _NAME.fullmatch(name) else None


def me() -> str:
    """Who makes a container: this process, told from any other on any machine as long as that can be looked at."""
    return f"{_namespace()}/{os.getpid()}/{processes.birth(os.getpid())}"


def is_dead(maker: str) -> bool:
    """Whether who made a container is gone for certain. Not if it lives where this process cannot look."""
    parts = maker.split("/")
    if len(parts) != 3 or not parts[1].isdigit() or parts[0] != _namespace():
        return False
    return not processes.alive(int(parts[1]), parts[2])


def _namespace() -> str:
    try:
        return str(os.stat("/proc/self/ns/pid").st_ino)
    except OSError:
        return "0"


@dataclass(frozen=True, kw_only=True)
class Place:
    """The node, as its containers see it: paths are the same in the host, the worker and the container."""

    home: Path
    node: str
    user: str | None  # UID:GID
    network: str = "bridge"  # of a supervisor whose agent is to have none

    @property
    def mark(self) -> str:
        return runs.node_mark(self.home)

    @property
    def ids(self) -> tuple[int, int]:
        """Whose processes they are: never root's, unless a setting says so."""
        if self.user is not None:
            uid, _, gid = self.user.partition(":")
            return int(uid), int(gid or uid)
        return (os.getuid(), os.getgid()) if os.getuid() != 0 else UNPRIVILEGED


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything but the image that the engine is told of one container."""

    command: Sequence[str]
    environment: Mapping[str, str] = field(repr=False)
    labels: Mapping[str, str]
    container: Container
    folder: Path  # where the command starts
    writable: Sequence[Path]
    readable: Sequence[Path]
    network: str
    reads_stdin: bool = False
    logged: bool = True


def attempt(place: Place, spec: RunSpec, bead_home: Path, mirror: Path, command: Sequence[str]) -> Plan:
    marks = {
        runs.DISPATCH: spec.name,
        runs.BEAD: spec.bead_id,
        runs.EPOCH: str(spec.epoch),
        runs.NODE: runs.node_mark(bead_home),
        runs.ROLE: runs.SUPERVISOR,
    }
    labels = {DISPATCH: spec.name, BEAD: spec.bead_id, EPOCH: str(spec.epoch), ROLE: ATTEMPT}
    network = spec.container.network
    return Plan(
        command=command,
        environment={
            **spec.container.environment,
            **marks,
            "HOME": "/",
        },  # nothing there for its git that an agent wrote
        labels={**_whose(place), **labels},
        container=spec.container,
        folder=Path("/"),
        writable=(bead_home,),
        readable=[each for each in (mirror, *spec.reads) if each.is_dir()],
        network=place.network if network == NO_NETWORK else network,  # it is the agent that gets none: see `supervise`
        reads_stdin=True,
    )


def gate(
    place: Place,
    container: Container,
    command: str,
    *,
    folder: Path,
    environment: Mapping[str, str],
    writable: Sequence[Path],
    readable: Sequence[Path],
    until: float,
) -> Plan:
    """`until`: the time after which nobody waits for it any more."""
    own = [] if any(folder.is_relative_to(each) for each in writable) else [folder]
    return Plan(
        command=(*SHELL, command),
        environment={**container.environment, **environment},
        labels={**_whose(place), ROLE: GATE, UNTIL: str(int(until))},
        container=container,
        folder=folder,
        writable=(*writable, *own),
        readable=readable,
        network=container.network,
        logged=False,
    )


def _whose(place: Place) -> dict[str, str]:
    return {NODE: place.node, HOME: place.mark, STARTER: me()}


def configuration(client: Any, place: Place, plan: Plan, *, image: str, cpus: int) -> dict[str, Any]:
    """The arguments of the SDK's `create_container`. `cpus`: how many the engine has, which is all it can give."""
    wanted = plan.container
    uid, gid = place.ids
    memory = wanted.memory_mb * 1024 * 1024
    host = client.create_host_config(
        network_mode=plan.network,
        extra_hosts=None if plan.network in ("host", NO_NETWORK) else {HOST_ALIAS: "host-gateway"},
        restart_policy={"Name": "no"},
        read_only=True,
        tmpfs={"/tmp": f"rw,exec,nosuid,nodev,mode=1777,size={wanted.tmp_mb}m"},
        cap_drop=["ALL"],
        security_opt=["no-new-privileges"],
        mem_limit=memory,
        memswap_limit=memory,
        nano_cpus=int(min(wanted.cpus, cpus) * 1e9),
        pids_limit=wanted.pids,
        log_config=_LOGGED if plan.logged else _UNLOGGED,
        mounts=mounts(plan),
    )
    hidden = [] if plan.reads_stdin or "PYTHONPATH" in plan.environment else ["PYTHONPATH"]  # is the supervisor's
    return {
        "image": image,
        "entrypoint": list(plan.command),
        "command": [],
        "environment": [f"{key}={value}" for key, value in plan.environment.items()] + hidden,
        "labels": dict(plan.labels),
        "user": f"{uid}:{gid}",
        "working_dir": str(plan.folder),
        "stdin_open": plan.reads_stdin,
        "stop_signal": "SIGTERM",  # whatever its image says
        "healthcheck": {"test": ["NONE"]},
        "host_config": host,
    }


def mounts(plan: Plan) -> list[dict[str, Any]]:
    """A source that is not there is an error of the engine's, and never made by it."""
    own = [_mount("bind", str(path), str(path), read_only=False) for path in _outermost(plan.writable)]
    own += [
        _mount("bind", str(path), str(path), read_only=True)
        for path in _outermost(plan.readable)
        if not any(path.is_relative_to(each) for each in plan.writable)
    ]
    more = []
    for each in plan.container.mounts:
        found = MOUNT.fullmatch(each)
        assert found is not None  # Container checks it
        kind = "bind" if found["source"].startswith("/") else "volume"
        more.append(_mount(kind, found["source"], found["target"], read_only=found["mode"] != "rw"))
    return own + more


def _mount(kind: str, source: str, target: str, *, read_only: bool) -> dict[str, Any]:
    return {"Type": kind, "Source": source, "Target": target, "ReadOnly": read_only}


def _outermost(paths: Sequence[Path]) -> list[Path]:
    """Without those that are inside of another one, each once."""
    found = sorted(set(paths))
    return [path for path in found if not any(path != other and path.is_relative_to(other) for other in found)]
