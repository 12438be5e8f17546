"""Which runtimes there are. The demo and the tests put a faulty one in front of a real one here."""

import os
from collections.abc import Callable
from functools import cache

from gastown.errors import NotFound, StartMisconfigured
from gastown.runtimes import Runtime
from gastown.runtimes.docker import DockerRuntime
from gastown.runtimes.docker_making import NO_NETWORK
from gastown.runtimes.process import ProcessRuntime
from gastown.settings import get_settings

CONTAINERISED = "GASTOWN_CONTAINERISED"  # set in Gastown's own images: /.dockerenv is on some machines as well


def check(name: str) -> None:
    """Raises StartMisconfigured where this worker could start nothing with that runtime, whatever it is given."""
    if name == "process" and os.environ.get(CONTAINERISED):
        raise StartMisconfigured(
            "this worker is in a container itself, and with the runtime process its agents would be in there with it",
            hint="GASTOWN_RUNTIME=docker, and the engine's socket mounted: docs/containers.md",
        )


def _process() -> Runtime:
    check("process")
    return ProcessRuntime(get_settings().home)


def _docker() -> Runtime:
    settings = get_settings()
    return DockerRuntime(
        settings.home,
        node=settings.node,
        url=settings.docker.url,
        user=settings.docker.user,
        network=settings.network_of(NO_NETWORK),
    )


FACTORIES: dict[str, Callable[[], Runtime]] = {"process": _process, "docker": _docker}


@cache
def get(name: str) -> Runtime:
    """The runtime of this name, made once a process. Raises NotFound, StartMisconfigured where it cannot be used."""
    if name not in FACTORIES:
        raise NotFound("runtime", name, hint=f"known runtimes: {', '.join(sorted(FACTORIES))}")
    return FACTORIES[name]()
