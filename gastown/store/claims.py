"""What a tick takes: the town's lock, the due beads, and as many ready ones as there are free slots."""

import json
from dataclasses import replace
from datetime import datetime
from typing import Any

from sqlalchemy import ARRAY, Row, Text, TextClause, and_, any_, literal, or_, select, text
from sqlalchemy.orm import Session

from gastown.db import gastown_now
from gastown.models import Bead, Node, Town
from gastown.reconcile.placement import Candidate, Room, place
from gastown.reconcile.views import Slot
from gastown.states import FailureCode
from gastown.store.load import load_room, read_room
from gastown.store.policies import Policies

TOWN_LOCKS = 7_271  # the advisory lock class of towns; the second key is the town's id


_LOCK = text(f"""
WITH asked AS MATERIALIZED (SELECT pg_try_advisory_xact_lock({TOWN_LOCKS}, CAST(:town_id AS int)) AS ours)
SELECT ours, gastown_now() AS now FROM asked""")


def try_lock_town(session: Session, town_id: int) -> datetime | None:
    """The right to decide for this town until the transaction ends, and the time then. None: somebody else has it."""
    asked = session.execute(_LOCK, {"town_id": town_id}).one()
    return asked.now if asked.ours else None


def clock(session: Session) -> datetime:
    """The one clock (L11)."""
    return session.scalars(select(gastown_now())).one()


# As an array, so that the rows are always found by their key, also by a plan that does not know the limit.
_CLAIM = text("""
UPDATE beads SET wake_at = NULL WHERE id = ANY(ARRAY(
    SELECT id FROM beads WHERE town_id = :town_id AND wake_at <= :now ORDER BY wake_at LIMIT :limit
    FOR NO KEY UPDATE SKIP LOCKED
)) RETURNING id""")


def claim_due(session: Session, town_id: int, now: datetime, limit: int) -> list[str]:
    """Due beads, locked. Their `wake_at` is cleared here, so that a wake that commits later is not lost."""
    return sorted(session.scalars(_CLAIM, {"town_id": town_id, "now": now, "limit": limit}))


START_FAILURES = {
    FailureCode.START_REFUSED,
    FailureCode.START_ERROR,
    FailureCode.START_TIMEOUT,
    FailureCode.NO_NODE,
    FailureCode.WORKSPACE_FAILED,
}
_FAILED = f"coalesce(b.failure_code IN ({', '.join(sorted(repr(str(code)) for code in START_FAILURES))}), false)"
_RANK = "(b.forced_at IS NULL), b.priority, b.created_at, b.id"
# Those whose last start did not fail before the others, and these in turn: the longer ready, the longer not tried.
_PROBE_RANK = f"(b.forced_at IS NULL), {_FAILED}, CASE WHEN {_FAILED} THEN b.ready_at END, {_RANK}"


def _candidates(rank: str) -> TextClause:
    """As many of each rig as there are slots in all, so that placing can be fair. Not locked: most stay."""
    return text(f"""
SELECT ready.*, last.node_id AS last_node_id, last.code AS last_code, last.queued_at AS tried_at
FROM unnest(CAST(:rig_ids AS bigint[])) AS rig (id) JOIN rigs ON rigs.id = rig.id
CROSS JOIN LATERAL (
    SELECT b.id, b.rig_id, b.forced_at, b.priority, b.created_at, coalesce(b.agent, rigs.agent, '') AS preset
    FROM beads b
    WHERE b.town_id = :town_id AND b.rig_id = rigs.id AND b.ready_at IS NOT NULL AND b.id <> ALL(:skipped)
      AND coalesce(b.agent, rigs.agent, '') <> ALL(CAST(:resting AS text[]))
      AND (NOT jsonb_exists(CAST(:only AS jsonb), rigs.id::text)
           OR jsonb_exists(CAST(:only AS jsonb) -> rigs.id::text, coalesce(b.agent, rigs.agent, '')))
    ORDER BY {rank} LIMIT :wanted
) ready
LEFT JOIN LATERAL (
    SELECT d.node_id, d.code, d.queued_at FROM dispatches d WHERE d.bead_id = ready.id ORDER BY d.epoch DESC LIMIT 1
) last ON true
ORDER BY ready.id""")


_CANDIDATES = _candidates(_RANK)
_PROBES = _candidates(_PROBE_RANK)  # sorts what is ready of a rig, which is seldom: a probe comes each minute at most


def claim_ready(
    session: Session, town_id: int, now: datetime, limit: int, policies: Policies | None = None
) -> dict[str, Slot]:
    """Ready beads, locked, with the slot that each is offered. Never more than the town, rigs and nodes have free."""
    if not _is_in_want(session, town_id):
        return {}
    locked = _lock_nodes(session)
    room = load_room(session, town_id, now, policies)
    room = replace(
        room, nodes=tuple(node for node in room.nodes if node.node_id in locked)
    )  # one may have joined since
    wanted = min(room.slots, limit)
    skipped: list[str] = []
    while wanted > 0 and room.open_rigs:
        values = {"town_id": town_id, "rig_ids": room.open_rigs, "wanted": wanted, "skipped": skipped}
        placed = dict(list(place(_found(session, room, values), room).items())[:limit])
        missed = placed.keys() - _lock_ready(session, sorted(placed))
        if not missed:
            return placed
        skipped += sorted(missed)  # somebody is at them: their slots are for others
    return {}


def _found(session: Session, room: Room, values: dict[str, Any]) -> list[Candidate]:
    """Enough of each rig for all slots, and for those that are probes also whoever is likeliest to start."""
    values = values | _of_presets(room)
    rows = [] if room.probing else session.execute(_CANDIDATES, values).all()
    if room.probes:
        rows = [*rows, *session.execute(_PROBES, values).all()]
    return list({row.id: _candidate(row) for row in rows}.values())


def _candidate(row: Row[Any]) -> Candidate:
    return Candidate(
        bead_id=row.id,
        rig_id=row.rig_id,
        forced=row.forced_at is not None,
        priority=row.priority,
        created_at=row.created_at,
        preset=row.preset,
        last_node_id=row.last_node_id,
        failed_node_id=row.last_node_id if row.last_code in START_FAILURES else None,
        **({} if row.tried_at is None else {"tried_at": row.tried_at}),
    )


def _lock_ready(session: Session, bead_ids: list[str]) -> set[str]:
    """Those that are still ready and that nobody else has locked."""
    statement = select(Bead.id).where(Bead.id == any_(literal(bead_ids, ARRAY(Text))), Bead.ready_at.is_not(None))
    locked = statement.order_by(Bead.id).with_for_update(key_share=True, skip_locked=True)
    return set(session.scalars(locked))


def _lock_nodes(session: Session) -> set[int]:
    """Towns share nodes, so that a town's own lock does not keep another from counting the same free slot."""
    return set(session.scalars(select(Node.id).order_by(Node.id).with_for_update(key_share=True)))


# The first that will be due, or is: one row of an index, whatever waits.
_LOOK = text("""
WITH clock AS MATERIALIZED (SELECT gastown_now() AS now)
SELECT clock.now,
       coalesce((SELECT wake_at FROM beads WHERE town_id = :town_id AND wake_at IS NOT NULL
                 ORDER BY wake_at LIMIT 1) <= clock.now, false) AS due,
       breaker_opened_at IS NOT NULL
           OR EXISTS (SELECT FROM beads WHERE town_id = :town_id AND ready_at IS NOT NULL) AS in_want
FROM towns CROSS JOIN clock WHERE towns.id = :town_id""")


def something_due(session: Session, town_id: int) -> bool:
    """Whether another batch would find work: something due, or ready with a slot free for it."""
    seen = session.execute(_LOOK, {"town_id": town_id}).one_or_none()
    if seen is None or seen.due or not seen.in_want:
        return seen is not None and seen.due
    room = read_room(session, town_id, seen.now)
    if room.slots == 0 or not room.open_rigs:
        return False
    values = {"town_id": town_id, "rig_ids": room.open_rigs, "wanted": 1, "skipped": []}
    return bool(session.execute(_CANDIDATES, values | _of_presets(room)).all())


def _of_presets(room: Room) -> dict[str, Any]:
    """Which presets start nothing, and of which rigs only some fit on a node that has a place."""
    only = {rig_id: sorted(only) for rig_id in room.open_rigs if (only := room.presets_of(rig_id)) is not None}
    return {"resting": sorted(room.resting), "only": json.dumps(only)}


def _is_in_want(session: Session, town_id: int) -> bool:
    """Whether it matters what may be started: a bead is ready, or the breaker waits for a start to close it."""
    seen = session.execute(_LOOK, {"town_id": town_id}).one_or_none()
    return seen is not None and seen.in_want


def towns_with_work(session: Session) -> list[int]:
    """Towns with something due or ready. Two index look-ups a town, whatever the history."""
    due = and_(Bead.town_id == Town.id, Bead.wake_at <= gastown_now())
    ready = and_(Bead.town_id == Town.id, Bead.ready_at.is_not(None))
    statement = select(Town.id).where(
        or_(select(text("1")).where(due).exists(), select(text("1")).where(ready).exists())
    )
    return list(session.scalars(statement.order_by(Town.id)))
