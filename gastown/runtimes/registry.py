"""Which runtimes there are. The demo and the tests put a faulty one in front of a real one here."""

from collections.abc import Callable
from functools import cache

from gastown.errors import NotFound
from gastown.runtimes import Runtime
from gastown.runtimes.process import ProcessRuntime
from gastown.settings import get_settings

FACTORIES: dict[str, Callable[[], Runtime]] = {"process": lambda: ProcessRuntime(get_settings().home)}


@cache
def get(name: str) -> Runtime:
    """The runtime of this name, made once a process. Raises NotFound."""
    if name not in FACTORIES:
        raise NotFound("runtime", name, hint=f"known runtimes: {', '.join(sorted(FACTORIES))}")
    return FACTORIES[name]()
