"""What a tick takes: the town's lock, the due beads, and as many ready ones as there are free slots."""

from datetime import datetime

from sqlalchemy import and_, func, or_, select, text, update
from sqlalchemy.dialects.postgresql import distinct_on
from sqlalchemy.orm import Session

from gastown.db import gastown_now
from gastown.models import Bead, Dispatch, Node, Town
from gastown.reconcile.placement import Candidate, place
from gastown.reconcile.views import Slot
from gastown.states import FailureCode
from gastown.store.load import load_room, read_room

TOWN_LOCKS = 7_271  # the advisory lock class of towns; the second key is the town's id


def try_lock_town(session: Session, town_id: int) -> bool:
    """The right to decide for this town until the transaction ends. False: somebody else has it."""
    return bool(session.scalar(select(func.pg_try_advisory_xact_lock(TOWN_LOCKS, town_id))))


def clock(session: Session) -> datetime:
    """The one clock (L11)."""
    return session.scalars(select(gastown_now())).one()


def claim_due(session: Session, town_id: int, now: datetime, limit: int) -> list[str]:
    """Due beads, locked. Their `wake_at` is cleared here, so that a wake that commits later is not lost."""
    due = (
        select(Bead.id)
        .where(Bead.town_id == town_id, Bead.wake_at <= now)
        .order_by(Bead.wake_at)
        .limit(limit)
        .with_for_update(key_share=True, skip_locked=True)
    )
    statement = update(Bead).where(Bead.id.in_(due)).values(wake_at=None).returning(Bead.id)
    return sorted(session.scalars(statement.execution_options(synchronize_session=False)))


def claim_ready(session: Session, town_id: int, now: datetime, limit: int) -> dict[str, Slot]:
    """Ready beads, locked, with the slot that each is offered. Never more than the town, rigs and nodes have free."""
    _lock_nodes(session)
    room = load_room(session, town_id, now)
    wanted = min(room.slots, limit)
    if wanted == 0 or not room.open_rigs:
        return {}
    ready = (
        select(Bead.id, Bead.rig_id)
        .where(Bead.town_id == town_id, Bead.ready_at.is_not(None), Bead.rig_id.in_(room.open_rigs))
        .order_by(Bead.forced_at.is_(None), Bead.priority, Bead.created_at, Bead.id)
        .limit(wanted)
        .with_for_update(key_share=True, skip_locked=True)
    )
    rows = session.execute(ready).all()
    last = _last_attempts(session, [row.id for row in rows])
    candidates = [
        Candidate(
            bead_id=row.id,
            rig_id=row.rig_id,
            last_node_id=last[row.id].node_id if row.id in last else None,
            failed_node_id=last[row.id].node_id if row.id in last and last[row.id].code in START_FAILURES else None,
        )
        for row in rows
    ]
    return place(candidates, room)


def _lock_nodes(session: Session) -> None:
    """Towns share nodes, so that a town's own lock does not keep another from counting the same free slot."""
    session.execute(select(Node.id).order_by(Node.id).with_for_update(key_share=True))


START_FAILURES = {
    FailureCode.START_REFUSED,
    FailureCode.START_ERROR,
    FailureCode.START_TIMEOUT,
    FailureCode.NO_NODE,
    FailureCode.WORKSPACE_FAILED,
}


def _last_attempts(session: Session, bead_ids: list[str]) -> dict[str, Dispatch]:
    statement = (
        select(Dispatch)
        .where(Dispatch.bead_id.in_(bead_ids))
        .ext(distinct_on(Dispatch.bead_id))
        .order_by(Dispatch.bead_id, Dispatch.epoch.desc())
    )
    return {dispatch.bead_id: dispatch for dispatch in session.scalars(statement)}


def something_due(session: Session, town_id: int) -> bool:
    """Whether another batch would find work: something due, or ready with a slot free for it."""
    now = clock(session)
    due = select(Bead.id).where(Bead.town_id == town_id, Bead.wake_at <= now).limit(1)
    if session.scalar(due) is not None:
        return True
    room = read_room(session, town_id, now)
    if room.slots == 0 or not room.open_rigs:
        return False
    ready = select(Bead.id).where(Bead.town_id == town_id, Bead.ready_at.is_not(None), Bead.rig_id.in_(room.open_rigs))
    return session.scalar(ready.limit(1)) is not None


def towns_with_work(session: Session) -> list[int]:
    """Towns with something due or ready. Two index look-ups a town, whatever the history."""
    due = and_(Bead.town_id == Town.id, Bead.wake_at <= gastown_now())
    ready = and_(Bead.town_id == Town.id, Bead.ready_at.is_not(None))
    statement = select(Town.id).where(
        or_(select(text("1")).where(due).exists(), select(text("1")).where(ready).exists())
    )
    return list(session.scalars(statement.order_by(Town.id)))
