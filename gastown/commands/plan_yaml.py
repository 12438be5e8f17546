"""Plans in YAML: the keys of TOML, and the lines on which they stand."""

from collections.abc import Callable
from typing import Any

import yaml

from gastown.errors import UsageError

DEPTH = 50  # of what is nested: a plan has 4. libyaml dies of too many
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml is many times faster where the wheel has it


def read(text: str, source: str) -> tuple[dict[str, Any], Callable[[int, str], int | None]]:
    """(what it says, how to find the line of a key). Raises UsageError for what is not YAML, or not a plan at all."""
    loader = None
    try:
        _refuse_deep(text, source)
        loader = _Loader(text)
        root = loader.get_single_node()
        _refuse_twice(root, source)
        values = None if root is None else loader.construct_document(root)
    except (yaml.YAMLError, ValueError) as error:  # a date of the 40th month is a ValueError
        raise UsageError(f"{source} is not YAML: {_said(error)}", hint=f"mend {source}") from error
    finally:
        if loader is not None:
            loader.dispose()
    if values is None:
        values = {}
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        what = f"{source}: a plan in YAML begins with bead: and has a list below it"
        raise UsageError(what, hint="docs/convoys.md has an example")
    return values, lambda number, key: _line_of(root, number, key)


def _refuse_deep(text: str, source: str) -> None:
    depth = 0
    event: Any
    for event in yaml.parse(text, Loader=_Loader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEPTH:
            what = f"{source}: line {event.start_mark.line + 1} is nested too deeply for a plan"
            raise UsageError(what, hint="a plan is bead: and a list below it")


def _said(error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or str(error)
    words = " ".join(str(problem).split())
    return words if mark is None else f"line {mark.line + 1}: {words}"


def _refuse_twice(root: Any, source: str) -> None:
    """YAML lets the last of two equal keys win, silently."""
    for node in (root, *_beads(root)):
        if not isinstance(node, yaml.MappingNode):
            continue
        seen: set[str] = set()
        for key, _ in node.value:
            name = str(key.value)
            if name in seen:
                what = f"{source}: line {key.start_mark.line + 1}: the key {name} is there twice"
                raise UsageError(what, hint="leave one of them out")
            seen.add(name)


def _beads(root: Any) -> list[Any]:
    found = _value(root, "bead")
    return list(found.value) if isinstance(found, yaml.SequenceNode) else []


def _value(node: Any, name: str) -> Any:
    if not isinstance(node, yaml.MappingNode):
        return None
    return next((value for key, value in node.value if key.value == name), None)


def _line_of(root: Any, number: int, key: str) -> int | None:
    beads = _beads(root)
    if number >= len(beads):
        return None
    bead = beads[number]
    keys = [each for each, _ in bead.value if each.value == key] if isinstance(bead, yaml.MappingNode) else []
    return int((keys or [bead])[0].start_mark.line) + 1
