"""What a town of the product looks like as a state of the specification: one line for each bead, agent, dispatch.

Where both say the same in other words, the words are made equal here and nowhere else; docs/refinement.md argues each.
"""

from sqlalchemy import select
from sqlalchemy.orm import Session

from gastown.db import transaction
from gastown.models import Agent, Bead, Dispatch, MergeRequest
from gastown.states import LIVE, BeadStatus, DispatchStatus, MergeStatus, Resolution
from gastown.store.attempts import is_fenced
from tests.model.outside import ALIVE, Outside
from tests.model.threads import Stepper
from tests.model.town import ModelTown

State = list[str]
ROWS = {DispatchStatus.ROLLED_BACK: "failed", DispatchStatus.FAILED: "ended"}  # as the specification calls them
PHASES = {MergeStatus.IN_PROGRESS: "merging", MergeStatus.CLOSED: "closed"}
MOVING = ("open", "in_progress", "in_review")


def bead_line(number: int, status: str, awake: bool, floor: int, mr: tuple[int, str] | None, target: int | None) -> str:
    """A merged bead may be looked at once more or not: there is nothing left to do."""
    sleep = "" if status == "merged" else ", awake" if awake else ", asleep"
    merge = "none" if mr is None else f"{mr[1]} of {mr[0]}"
    return f"bead {number}: {status}{sleep}, floor {floor}, merge {merge}, target {'-' if target is None else target}"


def agent_line(number: int, status: str, hook: int | None) -> str:
    return f"agent {number}: {status}, hook {'-' if hook is None else hook}"


def dispatch_line(number: int, bead: int, agent: int, status: str, box: str) -> str:
    return f"dispatch {number}: {status}, bead {bead}, agent {agent}, container {box}"


def rest_lines(messages: list[str], late: list[int], workers: list[str], merge: str | None) -> State:
    return [f"messages {sorted(messages)}, late {sorted(late)}", f"workers {sorted(workers)}, merge {merge}"]


def observe(town: ModelTown, steppers: list[Stepper]) -> State:
    """The town as it is now. New dispatches get their numbers and their containers, which are not there yet."""
    with transaction() as session:
        rows = {str(each.id): each for each in _of(session, town, Dispatch)}
        for name in rows:
            town.outside.number(name)
        known = town.outside.numbers
        town.outside.boxes.extend(["absent"] * (len(known) - len(town.outside.boxes)))
        ordered = sorted(rows.values(), key=lambda row: known[str(row.id)])
        town.outside.messages &= _useful(session, town.outside, ordered, steppers)
        merging = next((each for each in steppers if each.kind == "merge"), None)
        lines = [_bead(session, town, i, merging) for i in range(len(town.beads))]
        agents = {each.id: each for each in _of(session, town, Agent)}
    order = {key: i for i, key in enumerate(sorted(agents))}
    lines += [agent_line(order[key], each.status, _index(town, each.bead_id)) for key, each in sorted(agents.items())]
    for row in ordered:
        number, status = known[str(row.id)], ROWS.get(DispatchStatus(row.status), row.status)
        box = town.outside.boxes[number]
        lines.append(dispatch_line(number, town.beads.index(row.bead_id), order[row.agent_id], status, box))
    messages = [f"{kind}({number})" for kind, number in town.outside.messages]
    workers = [f"{each.kind}({each.number}) {each.at}" for each in steppers if each.kind != "merge"]
    step = None if merging is None else f"of {merging.number} at {merging.at}"
    return lines + rest_lines(messages, list(town.outside.late), workers, step)


def _of(session: Session, town: ModelTown, model: type) -> list:  # type: ignore[type-arg]
    return list(session.scalars(select(model).where(model.town_id == town.id)))  # type: ignore[attr-defined]


def _index(town: ModelTown, bead_id: str | None) -> int | None:
    return None if bead_id is None else town.beads.index(bead_id)


def _bead(session: Session, town: ModelTown, number: int, merging: Stepper | None) -> str:
    bead = session.get_one(Bead, town.beads[number], populate_existing=True)
    status = bead.status
    if status == BeadStatus.CLOSED:
        status = "merged" if bead.resolution == Resolution.MERGED else str(bead.resolution)
    requests = (
        select(MergeRequest, Dispatch.epoch)
        .join(Dispatch, Dispatch.id == MergeRequest.dispatch_id)
        .where(MergeRequest.bead_id == bead.id, Dispatch.epoch > bead.attempts_from)
        .order_by(Dispatch.epoch.desc())
        .limit(1)
    )
    found = session.execute(requests).first()
    request = None if found is None else (town.outside.number(str(found[0].dispatch_id)), _phase(found[0]))
    if request is not None:
        at_it = merging is not None and merging.number == request[0]
        request = phase_of(request, at_it)
    # `ready` is awake: a tick that has a free slot takes it, and needs no wake-up for that
    awake = bead.wake_at is not None or bead.ready_at is not None
    return bead_line(number, status, awake, bead.attempts_from, request, town.outside.targets.get(bead.id))


def _phase(request: MergeRequest) -> str:
    if request.merged_sha is not None:
        return "merged"
    return PHASES.get(MergeStatus(request.status), request.status)


def phase_of(request: tuple[int, str], at_it: bool) -> tuple[int, str]:
    """A claim whose worker is dead is no claim: the product takes it back when its lease is over."""
    return (request[0], "open") if request[1] == "merging" and not at_it else request


def _useful(session: Session, outside: Outside, rows: list[Dispatch], steppers: list[Stepper]) -> set[tuple[str, int]]:
    """Messages that can still have an effect, as the specification keeps them."""
    coming = outside.late | {each.number for each in steppers if each.kind != "merge"}
    useful = set()
    for number, row in enumerate(rows):
        if row.status == DispatchStatus.QUEUED:
            useful.add(("start", number))
        if outside.boxes[number] in ALIVE or number in coming or row.status in LIVE:
            useful.add(("stop", number))
        if not is_fenced(session, row):
            useful.add(("beat", number))
    return useful
