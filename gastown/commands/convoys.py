"""What people ask of convoys: beads that land as a whole. A convoy is named by its id, or by its name."""

from collections.abc import Mapping, Sequence

from sqlalchemy.orm import Session

from gastown.commands import edges, work
from gastown.commands.plans import Plan, sling_plan
from gastown.db import gastown_now
from gastown.errors import NotFound, Refused, UsageError
from gastown.models import Bead, Convoy, ConvoyBranch, Rig
from gastown.reconcile.actions import StopContainer
from gastown.states import RELEASING, TERMINAL, BeadStatus, ConvoyMode, ConvoyStatus, Purpose, Resolution
from gastown.store import beads, convoys, escalations, landings
from gastown.store.moves import lock_beads, move, wake

NAME_CHARACTERS = 100
UNFINISHED = (ConvoyStatus.STAGED, ConvoyStatus.OPEN, ConvoyStatus.LANDING)


def create(
    session: Session,
    town_id: int,
    name: str,
    *,
    mode: ConvoyMode = ConvoyMode.REVIEW_THEN_LAND,
    plan: Plan | None = None,
    rigs: Mapping[str | None, Rig] | None = None,
    agents: Mapping[str, str] | None = None,
    bead_ids: Sequence[str] = (),
    start: bool = False,
    actor: str = "user",
) -> str:
    """A convoy of the beads of a plan, and of beads that exist; its id. Nothing of it starts unless `start` is given.

    `rigs` and `agents` as `plans.sling_plan` has them. Raises UsageError for a name that cannot be one, NotFound, and
    Refused for a name that another convoy has, for beads that cannot be members, and for cycles.
    """
    check_name(name)
    convoys.reserve_name(session, town_id, name)
    lock_beads(session, {*bead_ids, *convoys.dependants_of(session, bead_ids)})
    convoy = convoys.make_convoy(session, town_id, name, mode, actor)
    made = [] if plan is None else sling_plan(session, town_id, plan, rigs or {}, agents or {}, "", actor)
    _join(session, town_id, convoy, [*bead_ids, *made], actor)
    if start:
        _start(session, convoy, actor)
    return convoy.id


def check_name(name: str) -> None:
    """Raises UsageError."""
    if not name.strip() or name != name.strip() or not name.isprintable() or len(name) > NAME_CHARACTERS:
        hint = f"one line of at most {NAME_CHARACTERS} characters, without blanks around it"
        raise UsageError(f"{name[:NAME_CHARACTERS]!r} cannot be the name of a convoy", hint=hint)


def start(session: Session, town_id: int, key: str, *, actor: str = "user") -> str:
    """staged -> open: its members are dispatched as soon as nothing else holds them. Its id.

    Raises NotFound, and Refused for one that is started or over, or has no members.
    """
    found = convoys.find(session, town_id, key)
    convoy, _rows = convoys.lock(session, found.id, convoys.member_ids(session, found.id))
    _start(session, convoy, actor)
    return convoy.id


def _start(session: Session, convoy: Convoy, actor: str) -> None:
    if not convoys.member_ids(session, convoy.id):
        hint = f"gastown convoy add {convoy.id} BEAD"
        raise Refused(f"convoy {convoy.id} has no members", hint=hint)
    if not convoys.start(session, convoy, actor):
        raise Refused(f"convoy {convoy.id} is {convoy.status}: it was started before", hint=_show(convoy))


def add(session: Session, town_id: int, key: str, bead_ids: Sequence[str], *, actor: str = "user") -> None:
    """Beads that exist become members, also while the convoy runs; a landing under way is withdrawn.

    Raises NotFound, and Refused for beads that are over, being merged, or in a convoy, when the convoy is over or its
    landing is being pushed, and when that closes a cycle.
    """
    found = convoys.find(session, town_id, key)
    convoy, _rows = convoys.lock(session, found.id, {*bead_ids, *convoys.dependants_of(session, bead_ids)})
    _check_unfinished(convoy)
    _join(session, town_id, convoy, bead_ids, actor)


def add_plan(
    session: Session,
    town_id: int,
    key: str,
    plan: Plan,
    rigs: Mapping[str | None, Rig],
    agents: Mapping[str, str],
    *,
    actor: str = "user",
) -> list[str]:
    """The same with new beads, those of a plan; their ids, in the order of the plan."""
    convoy, _rows = convoys.lock(session, convoys.find(session, town_id, key).id)
    _check_unfinished(convoy)
    made = sling_plan(session, town_id, plan, rigs, agents, "", actor)
    _join(session, town_id, convoy, made, actor)
    return made


def remove(session: Session, town_id: int, key: str, bead_id: str, *, actor: str = "user") -> None:
    """The bead goes on by itself, without the convoy.

    Raises NotFound, and Refused when it is merged, or was worked on since others were, into the convoy's branch.
    """
    found = convoys.find(session, town_id, key)
    convoy, rows = convoys.lock(session, found.id, [bead_id])
    member = _member(convoy, rows, bead_id)
    _check_unfinished(convoy)
    if convoys.member_ids(session, convoy.id) == [bead_id]:
        raise Refused(f"{bead_id} is the only member", hint=f"gastown convoy close {convoy.id}")
    _check_leaves(session, convoy, member)
    convoys.leave(session, convoy, member, actor)


def _check_leaves(session: Session, convoy: Convoy, member: Bead) -> None:
    """What is on the convoy's branch, or stands on it, would bring that to the target before it lands."""
    path = session.get(ConvoyBranch, (convoy.id, member.rig_id), populate_existing=True)
    if path is None:
        return
    if member.status == BeadStatus.IN_REVIEW or member.resolution in RELEASING:
        doing = "being merged" if member.status == BeadStatus.IN_REVIEW else str(member.resolution)
        raise Refused(f"{member.id} is {doing}, into {path.branch}", hint=_show(convoy))
    if path.head_sha is not None and beads.last_epoch(session, member.id):
        over = member.status in TERMINAL
        hint = f"gastown convoy land {convoy.id} --partial" if over else f"gastown bead cancel {member.id}"
        raise Refused(f"{member.id} was worked on, from {path.branch}", hint=hint)


def order(session: Session, town_id: int, key: str, bead_id: str, after_id: str, *, actor: str = "user") -> None:
    """A member waits for another one, also while the convoy runs.

    Raises NotFound, and Refused when its work is done, or when that closes a cycle, naming the path.
    """
    _check_members(session, town_id, key, bead_id, after_id)
    edges.block(session, town_id, bead_id, after_id, actor=actor)


def unorder(session: Session, town_id: int, key: str, bead_id: str, after_id: str, *, actor: str = "user") -> None:
    """A member waits for another one no more. Raises NotFound, and Refused when it did not."""
    _check_members(session, town_id, key, bead_id, after_id)
    edges.unblock(session, town_id, bead_id, after_id, actor=actor)


def land(session: Session, town_id: int, key: str, *, partial: bool = False, actor: str = "user") -> str:
    """What is to happen is returned in words. A convoy lands by itself when all members ended well; `partial` leaves
    those out that failed, or wait for failed ones. A landing that failed is tried again.

    Raises NotFound, and Refused where it cannot land: it is not started, it is over, or members failed.
    """
    convoy, rows = convoys.lock(session, convoys.find(session, town_id, key).id)
    if convoy.status in (ConvoyStatus.STAGED, ConvoyStatus.CLOSED):
        hint = f"gastown convoy start {convoy.id}" if convoy.status == ConvoyStatus.STAGED else _show(convoy)
        raise Refused(f"convoy {convoy.id} is {convoy.status}", hint=hint)
    standing = convoys.standing(session, convoy.id)
    if standing.failed and not partial and convoy.partial_at is None:
        hint = f"gastown convoy land {convoy.id} --partial, or gastown bead retry (or cancel) BEAD"
        raise Refused(f"{', '.join(standing.failed)} failed", hint=hint)
    again = [row for row in rows.values() if row.convoy_id == convoy.id and row.status == BeadStatus.FAILED]
    for landing in again:
        landings.reopen_landing(session, landing, actor)
    if partial and convoy.partial_at is None:
        convoys.set_partial(session, convoy)
        message = f"convoy {convoy.id} lands without what fails"
        convoys.note(session, convoy, "convoy_partial", message, actor)
    for row in rows.values():
        escalations.settle(session, town_id, escalations.MEMBER + row.id)
    wake(session, *rows)
    if again:
        return "its landing is tried again"
    if standing.waiting and standing.failed:
        return "it lands when the others are over, without what failed and what waits for that"
    if standing.waiting:
        count = len(standing.waiting)
        return "it lands when 1 more member is over" if count == 1 else f"it lands when {count} more members are over"
    return "it is being landed" if convoy.status == ConvoyStatus.LANDING else "it lands now"


def close(session: Session, town_id: int, key: str, *, actor: str = "user") -> list[StopContainer]:
    """What is unfinished of it is canceled, and it does not land. Its branch, with what was merged there, stays.

    Raises NotFound, and Refused when it is closed already, or something of it is being pushed.
    """
    found = convoys.find(session, town_id, key)
    convoy, rows = convoys.lock(session, found.id, convoys.with_dependants(session, found.id))
    if convoy.status == ConvoyStatus.CLOSED:
        raise Refused(f"convoy {convoy.id} is closed already", hint=_show(convoy))
    rows |= lock_beads(session, convoys.with_dependants(session, convoy.id) - rows.keys())  # joined before our lock
    stops: list[StopContainer] = []
    for bead in rows.values():
        if bead.convoy_id == convoy.id and bead.status not in TERMINAL:
            stops += work.cancel_locked(session, bead, actor)
        elif bead.convoy_id == convoy.id and bead.purpose == Purpose.LANDING:
            escalations.settle_bead(session, bead)
    move(session, Convoy, convoy.id, (*UNFINISHED, ConvoyStatus.FAILED), ConvoyStatus.CLOSED, closed_at=gastown_now())
    landings.ask_no_more(session, convoy)
    convoys.note(session, convoy, "convoy_closed", f"convoy {convoy.id} is closed by {actor}", actor)
    return stops


def _join(session: Session, town_id: int, convoy: Convoy, bead_ids: Sequence[str], actor: str) -> None:
    """All are locked, or new."""
    rows = lock_beads(session, set(bead_ids))
    members = []
    for bead_id in dict.fromkeys(bead_ids):
        bead = rows.get(bead_id)
        if bead is None or bead.town_id != town_id:
            raise NotFound("bead", bead_id, hint="gastown bead list")
        _check_joins(convoy, bead)
        members.append(bead)
    for rig_id in dict.fromkeys(bead.rig_id for bead in members):
        landing = convoys.landing_on(session, convoy.id, rig_id)
        if landing is not None:
            _open_to_members(session, convoy, landing, actor)
    convoys.join(session, convoy, members, actor)


def _check_joins(convoy: Convoy, bead: Bead) -> None:
    if bead.convoy_id is not None:
        raise Refused(f"{bead.id} is in convoy {bead.convoy_id} already", hint=f"gastown convoy show {bead.convoy_id}")
    if bead.purpose is not None:
        raise Refused(f"{bead.id} was made by Gastown for a merge", hint=f"gastown bead show {bead.id}")
    if bead.status in TERMINAL:
        raise Refused(f"{bead.id} is {bead.resolution or bead.status}", hint=f"gastown bead show {bead.id}")
    if bead.status == BeadStatus.IN_REVIEW:
        raise Refused(f"the work on {bead.id} is done and being merged", hint=f"gastown why {bead.id}")


def _open_to_members(session: Session, convoy: Convoy, landing: Bead, actor: str) -> None:
    """A landing that has begun is withdrawn; one that found nothing to land begins again. It is locked."""
    if landing.status == BeadStatus.IN_REVIEW:
        landings.withdraw(session, landing, "a member was added", actor)
    elif landing.status in TERMINAL and landing.resolution in (Resolution.NO_CHANGES, Resolution.DONE):
        beads.reopen(session, landing, actor)
    elif landing.status in TERMINAL:
        ended = landing.resolution or landing.status
        hint = f"gastown convoy land {convoy.id}" if landing.status == BeadStatus.FAILED else "gastown convoy create"
        raise Refused(f"what convoy {convoy.id} made on this rig is {ended} ({landing.id})", hint=hint)


def _check_members(session: Session, town_id: int, key: str, *bead_ids: str) -> None:
    convoy = convoys.find(session, town_id, key)
    _check_unfinished(convoy)
    rows = lock_beads(session, set(bead_ids))
    for bead_id in bead_ids:
        _member(convoy, rows, bead_id)


def _member(convoy: Convoy, rows: Mapping[str, Bead], bead_id: str) -> Bead:
    bead = rows.get(bead_id)
    if bead is None or bead.convoy_id != convoy.id or bead.purpose is not None:
        raise NotFound(f"member of convoy {convoy.id}", bead_id, hint=_show(convoy))
    return bead


def _check_unfinished(convoy: Convoy) -> None:
    if convoy.status not in UNFINISHED:
        hint = f"gastown convoy land {convoy.id}" if convoy.status == ConvoyStatus.FAILED else "gastown convoy create"
        raise Refused(f"convoy {convoy.id} is {convoy.status}", hint=hint)


def _show(convoy: Convoy) -> str:
    return f"gastown convoy show {convoy.id}"
