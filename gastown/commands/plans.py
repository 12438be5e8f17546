"""Plan files: several beads and what waits for what, checked as a whole before anything of it is written.

[[bead]]
id = "parser"             # local to the file
title = "..."             # also: body, agent, priority, after = ["other"], rig, labels
"""

import difflib
import re
import tomllib
from collections.abc import Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from sqlalchemy.orm import Session

from gastown.commands.work import NewBead, check_new_bead, row_of
from gastown.errors import UsageError
from gastown.models import Rig
from gastown.store import beads

BEADS = 1000  # of one plan; more are several plans
LABELS, LABEL_CHARACTERS = 20, 100
RUN_LABEL = "run:"  # marks the beads of one `gastown run`
_HEADER = re.compile(r"^\s*\[\[\s*bead\s*\]\]", re.MULTILINE)


class PlannedBead(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    id: str = Field(min_length=1, max_length=100)
    title: str
    body: str = ""
    agent: str | None = None
    priority: str = "medium"
    after: list[str] = Field(default_factory=list)
    labels: list[str] = Field(default_factory=list, max_length=LABELS)
    rig: str | None = None


class Plan(BaseModel):
    """Beads of which each comes after those that it waits for."""

    model_config = ConfigDict(extra="forbid", strict=True)

    bead: list[PlannedBead] = Field(min_length=1, max_length=BEADS)


def read_plan(text: str, source: str) -> Plan:
    """Raises UsageError, naming the line, the bead and the key, for all that is wrong with it."""
    try:
        plan = Plan(**tomllib.loads(text.removeprefix("\N{BYTE ORDER MARK}")))
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{source} is not TOML: {error}", hint=f"mend {source}") from error
    except ValidationError as error:
        problems = [_problem(each, text) for each in error.errors(include_url=False)]
        raise UsageError(f"{source}: {'; '.join(problems[:5])}", hint=f"mend {source}") from error
    return check_plan(plan, source)


def check_plan(plan: Plan, source: str) -> Plan:
    """The plan in an order in which it can be written. Raises UsageError."""
    known: dict[str, PlannedBead] = {}
    for number, bead in enumerate(plan.bead, 1):
        where = f"{source}: bead {number} ({bead.id})"
        if bead.id in known:
            raise UsageError(f"{where}: another bead has the id {bead.id} already", hint="ids are unique in a plan")
        known[bead.id] = bead
        _check_bead(bead, where)
    for bead in plan.bead:
        for other in bead.after:
            if other not in known:
                what = f"{source}: bead {bead.id} comes after {other}, which the plan does not have"
                raise UsageError(what, hint=_near(other, known))
    return Plan(bead=_in_order(known, source))


def _check_bead(bead: PlannedBead, where: str) -> None:
    try:
        check_new_bead(NewBead(title=bead.title, body=bead.body, priority=bead.priority))
    except UsageError as error:
        raise UsageError(f"{where}: {error}", hint=error.hint) from error
    for label in bead.labels:
        if not label or len(label) > LABEL_CHARACTERS or not label.isprintable():
            raise UsageError(
                f"{where}: {label[:LABEL_CHARACTERS]!r} cannot be a label", hint="one line, 100 characters"
            )
        if label.startswith(RUN_LABEL):
            raise UsageError(f"{where}: labels that start with {RUN_LABEL} are Gastown's own")


def _in_order(known: Mapping[str, PlannedBead], source: str) -> list[PlannedBead]:
    """Each after what it waits for; else in the order of the file. Raises UsageError with the path of a cycle."""
    sorter = TopologicalSorter({bead.id: bead.after for bead in known.values()})
    try:
        sorter.prepare()
    except CycleError as error:
        cycle = reversed(error.args[1])  # each in this list precedes the next one
        raise UsageError(f"{source} has a cycle: {' waits for '.join(cycle)}", hint="leave one of these out") from error
    ordered: list[PlannedBead] = []
    while sorter.is_active():
        ready = set(sorter.get_ready())
        ordered += [bead for bead in known.values() if bead.id in ready]
        sorter.done(*ready)
    return ordered


def sling_plan(
    session: Session, town_id: int, plan: Plan, rigs: Mapping[str | None, Rig], agents: Mapping[str, str], label: str
) -> list[str]:
    """All beads of a plan, in one transaction; their ids, in the order of the plan.

    `rigs` by the name that a bead gives (None: it gives none), `agents` the preset of each bead by its id in the plan.
    """
    rows = []
    for bead in plan.bead:
        new = NewBead(
            title=bead.title,
            body=bead.body,
            agent=agents[bead.id],
            priority=bead.priority,
            labels=[*bead.labels, label],
        )
        check_new_bead(new)
        rows.append(row_of(rigs[bead.rig], new))
    ids = beads.insert_beads(session, town_id, rows, "user")
    made = {bead.id: bead_id for bead, bead_id in zip(plan.bead, ids, strict=True)}
    beads.add_edges(session, [(made[bead.id], made[each]) for bead in plan.bead for each in set(bead.after)])
    return ids


def _problem(error: Any, text: str) -> str:
    """One finding of pydantic, as a person would say it."""
    place = list(error["loc"])
    if place[:1] != ["bead"]:
        return _said(error, str(place[0]) if place else "", ["bead"])
    if len(place) < 2:
        return "it has no [[bead]]" if error["type"] in ("missing", "too_short") else f"bead: {error['msg'].lower()}"
    key = str(place[2]) if len(place) > 2 else ""
    line = _line_of(text, int(place[1]), key)
    where = f"line {line}" if line else f"bead {int(place[1]) + 1}"
    return f"{where}: {_said(error, key, list(PlannedBead.model_fields))}"


def _said(error: Any, key: str, known: Sequence[str]) -> str:
    if error["type"] == "extra_forbidden":
        return f"there is no key {key}" + _suggestion(key, known)
    if error["type"] == "missing":
        return f"the bead has no {key}"
    message = str(error["msg"])
    return f"{key}: {message[:1].lower()}{message[1:]}" if key else message


def _line_of(text: str, number: int, key: str) -> int | None:
    """The line of a key in the bead of this number, or that of the bead; None when it is written some other way."""
    headers = [found.start() for found in _HEADER.finditer(text)] + [len(text)]
    if number + 1 >= len(headers):
        return None
    begin, end = headers[number], headers[number + 1]
    found = re.compile(rf'^\s*"?{re.escape(key)}"?\s*[=.]', re.MULTILINE).search(text, begin, end) if key else None
    position = begin if found is None else found.end()
    return text.count("\n", 0, position) + 1


def _suggestion(key: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(key, known, 1)
    return f" (did you mean {near[0]}?)" if near else f" (known: {', '.join(known)})"


def _near(name: str, known: Mapping[str, PlannedBead]) -> str:
    near = difflib.get_close_matches(name, known, 1)
    return f"did you mean {near[0]}?" if near else f"its ids are: {', '.join(list(known)[:20])}"
