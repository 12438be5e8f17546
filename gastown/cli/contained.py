"""The options that say how a rig's containers are made. A command that takes them all gets them as one layer."""

import functools
import inspect
import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import typer

from gastown.errors import UsageError

_UNITS = {"": 1, "m": 1, "mb": 1, "mib": 1, "g": 1024, "gb": 1024, "gib": 1024, "t": 1024**2, "tb": 1024**2}
_OPTIONS: dict[str, Any] = {
    "image": Annotated[str | None, typer.Option(metavar="IMAGE", help="With git, supervisor and agent; '': unset.")],
    "network": Annotated[
        str | None, typer.Option(metavar="none|bridge|host|NAME", help="Of its containers; '': unset.")
    ],
    "memory": Annotated[str | None, typer.Option(metavar="SIZE", help="Of a container, such as 8g; '': unset.")],
    "cpus": Annotated[str | None, typer.Option(metavar="N", help="Processors' worth of time; '': unset.")],
    "pids": Annotated[str | None, typer.Option(metavar="N", help="Processes and threads at one time; '': unset.")],
    "disk": Annotated[str | None, typer.Option(metavar="SIZE", help="Of a bead's folder, such as 20g; '': unset.")],
    "mount": Annotated[
        list[str] | None,
        typer.Option(metavar="SOURCE:TARGET[:rw]", help="A folder or volume of the node; several are possible."),
    ],
    "env": Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="A variable of its containers; several are possible.")
    ],
}


def with_container(command: Callable[..., None]) -> Callable[..., None]:
    """The command with these options. It gets `container`: by key what was given, None for what is to be unset."""

    @functools.wraps(command)
    def parsed(**given: Any) -> None:
        layer = layer_of({name: given.pop(name) for name in _OPTIONS})
        return command(**given, container=layer)

    own = [each for each in inspect.signature(command).parameters.values() if each.name != "container"]
    kind = inspect.Parameter.KEYWORD_ONLY
    ours = [inspect.Parameter(name, kind, default=None, annotation=each) for name, each in _OPTIONS.items()]
    parameters = [each.replace(kind=kind) for each in own] + ours
    parsed.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    parsed.__annotations__ = {each.name: each.annotation for each in parameters}
    return parsed


def layer_of(given: Mapping[str, Any]) -> dict[str, Any]:
    """Raises UsageError for what is no size, no number, or no NAME=VALUE."""
    readers: dict[str, tuple[str, Callable[[str, Any], Any]]] = {
        "image": ("image", lambda option, text: text),
        "network": ("network", lambda option, text: text),
        "memory": ("memory_mb", _megabytes),
        "cpus": ("cpus", _number),
        "pids": ("pids", _whole),
        "disk": ("disk_mb", _megabytes),
        "mount": ("mounts", lambda option, texts: texts),
        "env": ("environment", _variables),
    }
    layer = {}
    for option, (key, read) in readers.items():
        value = given[option]
        if value is not None and value != []:
            layer[key] = None if value in ("", [""]) else read(option, value)
    return layer


def changed(now: Mapping[str, Any], layer: Mapping[str, Any]) -> dict[str, Any]:
    """What is stored of a rig, with this given to it."""
    known = now if isinstance(now, Mapping) else {}
    return {key: value for key, value in {**known, **layer}.items() if value is not None}


def in_words(layer: Mapping[str, Any]) -> str:
    """One line. `environment` is the names of variables."""
    from gastown.containers import KEYS

    parts = []
    for key in (each for each in KEYS if each in layer):
        value = layer[key]
        if key == "environment":
            parts.append(f"with {', '.join(map(str, value))}")
        elif key == "mounts":
            parts += [f"mount {each}" for each in value]
        else:
            parts.append(f"{key.replace('_mb', '')} {value}{' MB' if key.endswith('_mb') else ''}")
    return ", ".join(parts)


def _megabytes(option: str, text: str) -> int:
    found = re.fullmatch(r"(\d+)\s*([a-z]*)", text.strip().lower())
    if found is None or found[2] not in _UNITS:
        raise UsageError(f"--{option} {text[:40]!r} is no size", hint=f"such as --{option} 512m or --{option} 8g")
    return int(found[1]) * _UNITS[found[2]]


def _number(option: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise UsageError(f"--{option} {text[:40]!r} is no number", hint=f"such as --{option} 1.5") from None


def _whole(option: str, text: str) -> int:
    if not text.isdigit():
        raise UsageError(f"--{option} {text[:40]!r} is no number", hint=f"such as --{option} 512")
    return int(text)


def _variables(option: str, texts: list[str]) -> dict[str, str]:
    found = {}
    for each in texts:
        name, equals, value = each.partition("=")
        if not (equals and re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name)):
            raise UsageError(f"--{option} {each[:40]!r} is not NAME=VALUE", hint=f"such as --{option} NODE_ENV=test")
        found[name] = value
    return found
