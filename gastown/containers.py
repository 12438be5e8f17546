"""How a container of an attempt, or of a gate, is made: the node's numbers, then its preset's, then its rig's.

`{"image": "acme/claude:3", "memory_mb": 8192}` is such a layer: what it does not name, the layer below it does.
"""

import re
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from gastown.errors import UsageError

NETWORK = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
MOUNT = re.compile(r"(?P<source>/[^:]*|[A-Za-z0-9][A-Za-z0-9_.-]*):(?P<target>/[^:]*?)(?::(?P<mode>ro|rw))?")


class Container(BaseModel):
    """What a runtime with containers needs to know of one, besides what runs in it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    image: str | None = Field(None, min_length=1, description="has git, the supervisor and the agent's program")
    network: str = Field("bridge", description="none, bridge, host, or the name of a network of the engine")
    memory_mb: int = Field(4096, ge=64, le=4_194_304, description="of all its processes; above it the kernel kills")
    cpus: float = Field(2.0, gt=0, le=1024, description="processors' worth of time")
    pids: int = Field(1024, ge=16, le=1_000_000, description="processes and threads at one time")
    disk_mb: int = Field(10_240, ge=16, description="in the bead's own folder; above it the attempt is ended")
    tmp_mb: int = Field(1024, ge=1, description="of /tmp, which is in memory and counts as such")
    mounts: tuple[str, ...] = Field((), description="SOURCE:TARGET[:ro|rw], a path or a volume; ro unless it says rw")
    environment: dict[str, str] = Field(default_factory=dict, description="more variables of the container")

    @field_validator("network")
    @classmethod
    def _network(cls, value: str) -> str:
        if not NETWORK.fullmatch(value):
            raise ValueError(f"{value!r} is none of none, bridge, host, and cannot be a network's name")
        return value

    @field_validator("mounts")
    @classmethod
    def _mounts(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for each in value:
            if not MOUNT.fullmatch(each):
                raise ValueError(f"{each!r} is not SOURCE:TARGET or SOURCE:TARGET:rw, with an absolute TARGET")
        return value


def layered(*layers: Mapping[str, Any]) -> Container:
    """The lowest first. Mounts and environments add up; else the higher one counts.

    Raises UsageError, naming each key that is unknown or makes no sense.
    """
    merged: dict[str, Any] = {}
    for layer in layers:
        if not isinstance(layer, Mapping):  # a hand in the database
            raise UsageError(
                "the container is described by something that is no table", hint=f"keys: {', '.join(KEYS)}"
            )
        added = {key: value for key, value in layer.items() if value is not None}
        if "mounts" in added:
            added["mounts"] = [*merged.get("mounts", ()), *added["mounts"]]
        if "environment" in added:
            added["environment"] = {**merged.get("environment", {}), **added["environment"]}
        merged |= added
    try:
        return Container(**merged)
    except ValidationError as error:
        lines = "; ".join(f"{'.'.join(map(str, each['loc']))}: {_said(each['msg'])}" for each in error.errors())
        raise UsageError(
            f"the container is described wrongly: {lines}", hint=f"it may name {', '.join(KEYS)}"
        ) from error


KEYS = tuple(Container.model_fields)


def _said(message: str) -> str:
    return message.removeprefix("Value error, ")
