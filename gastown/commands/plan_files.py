"""Plan files, in TOML, YAML or as Beads exports its issues. In TOML:

[[bead]]
id = "parser"             # local to the file
title = "..."             # also: body, agent, priority, after = ["other"], rig, labels
"""

import difflib
import re
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from gastown.commands import beads_export, plan_yaml
from gastown.commands.plan_formats import PlanFormat, format_of
from gastown.commands.plans import Plan, PlannedBead, check_plan
from gastown.errors import UsageError

_HEADER = re.compile(r"^\s*\[\[\s*bead\s*\]\]", re.MULTILINE)
Locate = Callable[[int, str], int | None]  # the line of a key of the bead of this number; of the bead, without a key


@dataclass(frozen=True)
class PlanFile:
    plan: Plan
    notes: tuple[str, ...] = ()  # what was left out, and what could be misunderstood, for whoever reads it in


def read_plan(text: str, source: str, written: PlanFormat | None = None) -> PlanFile:
    """`written` as its suffix says, else as TOML. Raises UsageError, naming the line, the bead and the key."""
    text = text.removeprefix("\N{BYTE ORDER MARK}")
    try:
        match written or format_of(source):
            case PlanFormat.JSONL:
                beads, notes = beads_export.read_issues(text, source)
                return PlanFile(check_plan(Plan(bead=beads), source), tuple(notes))
            case PlanFormat.YAML:
                values, locate = plan_yaml.read(text, source)
            case PlanFormat.TOML:
                values, locate = _read_toml(text, source)
    except RecursionError as error:
        raise UsageError(f"{source} is nested too deeply to be a plan", hint=f"mend {source}") from error
    return PlanFile(check_plan(_validated(values, locate, source), source))


def _read_toml(text: str, source: str) -> tuple[dict[str, Any], Locate]:
    try:
        return tomllib.loads(text), lambda number, key: _line_of(text, number, key)
    except ValueError as error:
        hint = f"mend {source}; for another format give --format yaml or --format jsonl"
        raise UsageError(f"{source} is not TOML: {error}", hint=hint) from error


def _line_of(text: str, number: int, key: str) -> int | None:
    """The line of a key in the bead of this number, or that of the bead; None when it is written some other way."""
    headers = [found.start() for found in _HEADER.finditer(text)] + [len(text)]
    if number + 1 >= len(headers):
        return None
    begin, end = headers[number], headers[number + 1]
    found = re.compile(rf'^\s*"?{re.escape(key)}"?\s*[=.]', re.MULTILINE).search(text, begin, end) if key else None
    position = begin if found is None else found.end()
    return text.count("\n", 0, position) + 1


def _validated(values: dict[str, Any], locate: Locate, source: str) -> Plan:
    try:
        return Plan.model_validate(values)
    except ValidationError as error:
        problems = [_problem(each, locate) for each in error.errors(include_url=False)]
        raise UsageError(f"{source}: {'; '.join(problems[:5])}", hint=f"mend {source}") from error


def _problem(error: Any, locate: Locate) -> str:
    """One finding of pydantic, as a person would say it."""
    place = list(error["loc"])
    if place[:1] != ["bead"]:
        return _said(error, str(place[0]) if place else "", ["bead"])
    if len(place) < 2:
        return "it has no bead" if error["type"] in ("missing", "too_short") else f"bead: {error['msg'].lower()}"
    key = str(place[2]) if len(place) > 2 else ""
    line = locate(int(place[1]), key)
    where = f"line {line}" if line else f"bead {int(place[1]) + 1}"
    return f"{where}: {_said(error, key, list(PlannedBead.model_fields))}"


def _said(error: Any, key: str, known: Sequence[str]) -> str:
    if error["type"] == "extra_forbidden":
        return f"there is no key {key}" + _suggestion(key, known)
    if error["type"] == "missing":
        return f"the bead has no {key}"
    if error["type"] == "model_type":
        return f"a bead has keys: {', '.join(known)}"
    message = str(error["msg"])
    if error["type"] == "string_type" and isinstance(error["input"], int | float | bool):
        message += ": put it into quotes"
    return f"{key}: {message[:1].lower()}{message[1:]}" if key else message


def _suggestion(key: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(key, known, 1)
    return f" (did you mean {near[0]}?)" if near else f" (known: {', '.join(known)})"
