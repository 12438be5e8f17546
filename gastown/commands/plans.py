"""Plans: several beads and what waits for what, checked as a whole before anything of it is written."""

import difflib
from collections.abc import Mapping
from graphlib import CycleError, TopologicalSorter

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.orm import Session

from gastown.commands.work import NewBead, check_new_bead, row_of
from gastown.errors import UsageError
from gastown.models import Rig
from gastown.store import beads

BEADS = 1000  # of one plan; more are several plans
LABELS, LABEL_CHARACTERS = 20, 100
RUN_LABEL = "run:"  # marks the beads of one `gastown run`


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


def check_plan(plan: Plan, source: str) -> Plan:
    """The plan in an order in which it can be written. Raises UsageError, naming the bead."""
    known: dict[str, PlannedBead] = {}
    for number, bead in enumerate(plan.bead, 1):
        where = f"{source}: bead {number} ({bead.id})"
        if bead.id in known:
            raise UsageError(f"{where}: another bead has the id {bead.id} already", hint="ids are unique in a plan")
        known[bead.id] = bead
        check_bead(bead, where)
    for bead in plan.bead:
        for other in bead.after:
            if other not in known:
                what = f"{source}: bead {bead.id} comes after {other}, which the plan does not have"
                raise UsageError(what, hint=_near(other, known))
    return Plan(bead=_in_order(known, source))


def check_bead(bead: PlannedBead, where: str) -> None:
    """Raises UsageError for a text that no bead can have."""
    try:
        check_new_bead(NewBead(title=bead.title, body=bead.body, priority=bead.priority))
    except UsageError as error:
        raise UsageError(f"{where}: {error}", hint=error.hint) from error
    for label in bead.labels:
        if label.startswith(RUN_LABEL):
            raise UsageError(f"{where}: labels that start with {RUN_LABEL} are Gastown's own")
        if not is_label(label):
            raise UsageError(
                f"{where}: {label[:LABEL_CHARACTERS]!r} cannot be a label", hint="one line, 100 characters"
            )


def is_label(text: str) -> bool:
    """Whether a plan may say it of a bead."""
    printable = bool(text) and len(text) <= LABEL_CHARACTERS and text.isprintable()
    return printable and not text.startswith(RUN_LABEL)


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
    session: Session,
    town_id: int,
    plan: Plan,
    rigs: Mapping[str | None, Rig],
    agents: Mapping[str, str],
    label: str = "",
    actor: str = "user",
) -> list[str]:
    """All beads of a plan, in one transaction; their ids, in the order of the plan.

    `rigs` by the name that a bead gives (None: it gives none), `agents` the preset of each bead by its id in the plan.
    `label` is added to each.
    """
    rows = []
    for bead in plan.bead:
        new = NewBead(
            title=bead.title,
            body=bead.body,
            agent=agents[bead.id],
            priority=bead.priority,
            labels=[*bead.labels, *filter(None, [label])],
        )
        check_new_bead(new)
        rows.append(row_of(rigs[bead.rig], new))
    ids = beads.insert_beads(session, town_id, rows, actor)
    made = {bead.id: bead_id for bead, bead_id in zip(plan.bead, ids, strict=True)}
    beads.add_edges(session, [(made[bead.id], made[each]) for bead in plan.bead for each in set(bead.after)])
    return ids


def _near(name: str, known: Mapping[str, PlannedBead]) -> str:
    near = difflib.get_close_matches(name, known, 1)
    return f"did you mean {near[0]}?" if near else f"its ids are: {', '.join(list(known)[:20])}"
