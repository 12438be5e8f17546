"""Convoys: made, started, joined and left. Their ends are in `landings`, their branches in `branches`.

The lock of a convoy's row comes after those of beads. Whoever changes what its landings wait for holds it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sqlalchemy import delete, func, select, text, update
from sqlalchemy.orm import Session

from gastown.db import gastown_now
from gastown.errors import NotFound, Refused
from gastown.models import Bead, BeadDependency, Convoy, ConvoyBranch, MergeRequest, Rig
from gastown.states import PRIORITIES, RELEASING, TERMINAL, BeadStatus, ConvoyMode, ConvoyStatus, Purpose
from gastown.store import beads, branches, draws
from gastown.store.moves import lock_beads, move, record, set_beads, wake

NAME_LOCKS = 7_272  # the advisory lock class of names; the second key is made of the town and the name
CONVOY_TYPE = "convoy"  # of landing beads
MAKING = (ConvoyStatus.STAGED, ConvoyStatus.OPEN, ConvoyStatus.LANDING)  # what it makes is not complete yet


def find(session: Session, town_id: int, key: str) -> Convoy:
    """By its id, or by its name. Raises NotFound; Refused where several have that name."""
    of_town = select(Convoy).where(Convoy.town_id == town_id)
    found = session.scalar(of_town.where(Convoy.id == key))
    if found is not None:
        return found
    named = session.scalars(of_town.where(Convoy.name == key).order_by(Convoy.created_at.desc())).all()
    unfinished = [each for each in named if each.status != ConvoyStatus.CLOSED]
    candidates = unfinished or named
    if not candidates:
        raise NotFound("convoy", key, hint="gastown convoy list")
    if len(candidates) > 1:
        ids = ", ".join(each.id for each in candidates)
        raise Refused(f"{len(candidates)} convoys are named {key}: {ids}", hint="name it by its id")
    return candidates[0]


def reserve_name(session: Session, town_id: int, name: str) -> None:
    """Until the transaction ends nobody else makes a convoy of this name. Comes before any row is locked.

    Raises Refused when an unfinished one has it.
    """
    session.execute(select(func.pg_advisory_xact_lock(NAME_LOCKS, func.hashtext(f"{town_id} {name}"))))
    taken = select(Convoy.id).where(
        Convoy.town_id == town_id, Convoy.name == name, Convoy.status != ConvoyStatus.CLOSED
    )
    other = session.scalar(taken.limit(1))
    if other is not None:
        raise Refused(f"convoy {other} has the name {name}, and is not closed", hint=f"gastown convoy show {other}")


def make_convoy(session: Session, town_id: int, name: str, mode: ConvoyMode, actor: str) -> Convoy:
    """Staged, and empty. Its name is reserved."""
    statement = text("""
        INSERT INTO convoys (id, town_id, name, mode) VALUES (:id, :town_id, :name, :mode)
        ON CONFLICT (id) DO NOTHING RETURNING id""")
    for _ in range(100):
        drawn = "cv-" + draws.letters(beads.ID_LETTERS, beads.ID_LENGTH)
        if session.scalar(statement, {"id": drawn, "town_id": town_id, "name": name, "mode": mode}) is not None:
            record(session, town_id, "convoy_created", f"convoy {drawn} ({name})", actor=actor, convoy=drawn)
            return session.get_one(Convoy, drawn)
    raise Refused("no free convoy id was found in 100 draws", hint="try again")


def lock(session: Session, convoy_id: str, bead_ids: Iterable[str] = ()) -> tuple[Convoy, dict[str, Bead]]:
    """The convoy, with its landing beads and these beads, all locked."""
    rows = lock_beads(session, {*bead_ids, *landing_ids(session, convoy_id)})
    convoy = lock_row(session, convoy_id)
    late = set(landing_ids(session, convoy_id)) - rows.keys()  # made before we had the lock: at worst a deadlock
    return convoy, rows | lock_beads(session, late)


def lock_row(session: Session, convoy_id: str) -> Convoy:
    """For whoever has locked the beads that it is about."""
    statement = select(Convoy).where(Convoy.id == convoy_id).with_for_update(key_share=True)
    return session.scalars(statement.execution_options(populate_existing=True)).one()


def landing_ids(session: Session, convoy_id: str) -> list[str]:
    query = select(Bead.id).where(Bead.convoy_id == convoy_id, Bead.purpose == Purpose.LANDING)
    return list(session.scalars(query.order_by(Bead.id)))


def member_ids(session: Session, convoy_id: str) -> list[str]:
    query = select(Bead.id).where(Bead.convoy_id == convoy_id, Bead.purpose.is_(None))
    return list(session.scalars(query.order_by(Bead.created_at, Bead.id)))


def landing_on(session: Session, convoy_id: str | None, rig_id: int) -> Bead | None:
    """The bead that lands what the convoy makes on this rig."""
    query = select(Bead).where(Bead.convoy_id == convoy_id, Bead.purpose == Purpose.LANDING, Bead.rig_id == rig_id)
    return session.scalar(query.execution_options(populate_existing=True))


def join(session: Session, convoy: Convoy, members: Sequence[Bead], actor: str) -> None:
    """Beads that are in no convoy become its members, and its landings wait for them. All are locked, or new, with
    whoever waits for them.

    Raises Refused where that closes a cycle.
    """
    if not members:
        return
    joined = [bead.id for bead in members]
    set_beads(session, joined, {}, convoy_id=convoy.id)
    after = select(BeadDependency.bead_id).join(Bead, Bead.id == BeadDependency.blocker_id)
    after = after.where(BeadDependency.bead_id.in_(joined), BeadDependency.kind == "blocks")
    after = after.where(Bead.convoy_id == convoy.id, Bead.purpose.is_(None))
    # what `beads.wait_for_landings` had them wait for
    _delete_edges(session, session.scalars(after).all(), landing_ids(session, convoy.id), "blocks")
    by_rig: dict[int, list[str]] = {}
    for bead in members:
        by_rig.setdefault(bead.rig_id, []).append(bead.id)
    for rig_id, bead_ids in by_rig.items():
        landing = landing_on(session, convoy.id, rig_id)
        landing_id = make_landing(session, convoy, rig_id, actor) if landing is None else landing.id
        beads.add_edges(session, [(landing_id, each) for each in bead_ids], kind="tracks")
        wake(session, landing_id)
    beads.have_others_wait(session, convoy.id, joined)
    wake(session, *sorted({*joined, *dependants_of(session, joined)}))
    for bead in members:
        record(session, bead.town_id, "joined", f"member of convoy {convoy.id}", actor=actor, bead_id=bead.id)


def dependants_of(session: Session, bead_ids: Iterable[str]) -> set[str]:
    """Who waits for one of these. When they join or leave, it waits for a landing as well, or no more."""
    query = select(BeadDependency.bead_id).where(BeadDependency.blocker_id.in_(list(bead_ids)))
    return set(session.scalars(query.where(BeadDependency.kind == "blocks")))


def make_landing(session: Session, convoy: Convoy, rig_id: int, actor: str) -> str:
    """The bead that lands what the convoy makes on a rig, and the branch that collects it, if the mode has one."""
    rig = session.get_one(Rig, rig_id)
    row = {"rig_id": rig_id, "title": f"Land {convoy.name} on {rig.name}", "body": "", "labels": [], "agent": None}
    [bead_id] = beads.insert_beads(session, convoy.town_id, [{**row, "priority": PRIORITIES.index("medium")}], actor)
    set_beads(session, [bead_id], {}, type=CONVOY_TYPE, purpose=Purpose.LANDING, convoy_id=convoy.id)
    if convoy.mode == ConvoyMode.REVIEW_THEN_LAND and session.get(ConvoyBranch, (convoy.id, rig_id)) is None:
        branches.add_branch(session, convoy, rig)
    return bead_id


def leave(session: Session, convoy: Convoy, member: Bead, actor: str) -> None:
    """A locked member is none any more; the landing that waited for it looks again."""
    set_beads(session, [member.id], {}, convoy_id=None)
    landings = landing_ids(session, convoy.id)
    _delete_edges(session, landings, [member.id], "tracks")
    wake(session, member.id, *landings)
    record(session, member.town_id, "left", f"no member of convoy {convoy.id} any more", actor=actor, bead_id=member.id)


def _delete_edges(session: Session, waiting: Sequence[str], blockers: Sequence[str], kind: str) -> None:
    statement = delete(BeadDependency).where(
        BeadDependency.bead_id.in_(waiting), BeadDependency.blocker_id.in_(blockers), BeadDependency.kind == kind
    )
    session.execute(statement.execution_options(synchronize_session=False))


def start(session: Session, convoy: Convoy, actor: str) -> bool:
    """staged -> open; its beads, which are locked, are looked at. False: it was started before."""
    if not move(session, Convoy, convoy.id, ConvoyStatus.STAGED, ConvoyStatus.OPEN, started_at=gastown_now()):
        return False
    wake(session, *member_ids(session, convoy.id), *landing_ids(session, convoy.id))
    note(session, convoy, "convoy_started", f"convoy {convoy.id} is started", actor)
    return True


def set_partial(session: Session, convoy: Convoy) -> None:
    """It lands without the members that fail."""
    statement = update(Convoy).where(Convoy.id == convoy.id, Convoy.partial_at.is_(None))
    session.execute(statement.values(partial_at=gastown_now()).execution_options(synchronize_session=False))


def note(session: Session, convoy: Convoy, kind: str, message: str, actor: str) -> None:
    """A line in the journal of each of its landing beads, or of the town while it has none."""
    landings: list[str] = landing_ids(session, convoy.id)
    for bead_id in landings or [None]:  # type: ignore[list-item]
        record(session, convoy.town_id, kind, message, actor=actor, bead_id=bead_id, convoy=convoy.id)


def unfinished(session: Session, convoy_id: str) -> list[str]:
    """Its members and landings that are not over, ascending."""
    query = select(Bead.id).where(Bead.convoy_id == convoy_id, Bead.status.not_in(TERMINAL))
    return list(session.scalars(query.order_by(Bead.id)))


def with_dependants(session: Session, convoy_id: str) -> set[str]:
    """What is locked before its unfinished beads are ended: they, all that wait for them, and what mends or reviews."""
    own = unfinished(session, convoy_id)
    waiting = select(BeadDependency.bead_id).where(BeadDependency.blocker_id.in_(own))
    made = select(Bead.id).join(MergeRequest, MergeRequest.id == Bead.mr_id).where(MergeRequest.bead_id.in_(own))
    unclosed = made.where(Bead.status != BeadStatus.CLOSED)
    return {*own, *session.scalars(waiting), *session.scalars(unclosed)}


@dataclass(frozen=True, kw_only=True)
class Standing:
    """How the members of a convoy are, by their ids."""

    released: list[str]  # merged, or done without changes
    failed: list[str]
    canceled: list[str]
    waiting: list[str]  # not over


def standing(session: Session, convoy_id: str) -> Standing:
    query = select(Bead.id, Bead.status, Bead.resolution).where(Bead.convoy_id == convoy_id, Bead.purpose.is_(None))
    found = Standing(released=[], failed=[], canceled=[], waiting=[])
    for row in session.execute(query.order_by(Bead.created_at, Bead.id)):
        if row.status not in TERMINAL:
            found.waiting.append(row.id)
        elif row.status == BeadStatus.FAILED:
            found.failed.append(row.id)
        else:
            (found.released if row.resolution in RELEASING else found.canceled).append(row.id)
    return found
