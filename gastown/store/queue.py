"""The merge queue, as people look at it: what is merged, what waits for whom, and what was said of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Select, and_, case, or_, select
from sqlalchemy.orm import Session, aliased

from gastown.errors import NotFound
from gastown.models import Bead, Dispatch, Event, MergeRequest, Rig
from gastown.states import MERGING, PRIORITIES, MergeStatus, Purpose
from gastown.store import reviews
from gastown.store.beads import get_bead
from gastown.store.listing import NeighbourRow
from gastown.store.orders import head_ref_of

OVER = (MergeStatus.CLOSED, MergeStatus.FAILED)
QUEUED, IN_REVIEW, HELD, BATCHED = "queued", "in review", "held", "in a batch"  # instead of `open`


@dataclass(frozen=True, kw_only=True)
class QueueRow:
    """A merge request on one line."""

    id: int
    bead_id: str
    title: str
    rig: str
    target: str
    place: int | None  # in the queue of its target, from 1; None: it waits for something else, or is over
    state: str  # pushing, in_progress, in a batch, queued, in review, held, closed or failed
    step: str | None
    priority: str
    held_code: str | None
    held_reason: str | None
    rework_id: str | None  # the bead that mends what holds it
    rounds: int  # of rework that were begun
    review_agent: str | None  # who has to approve it; None: nobody
    review_id: str | None  # the bead whose agent reads it
    reviewed: bool  # its head is approved
    batch: str | None  # the bead whose worker merges it along
    head_sha: str
    merged_sha: str | None
    created_at: datetime
    merged_at: datetime | None


@dataclass(frozen=True, kw_only=True)
class SaidRow:
    """What somebody said of a head."""

    at: datetime
    actor: str
    message: str
    comment: str


@dataclass(frozen=True, kw_only=True)
class MergeDetail:
    """All about one merge request."""

    merge: QueueRow
    head_ref: str | None  # where the repository has its head
    made_by: str | None  # the preset of the attempt that made it
    rework_agent: str | None  # the preset that may mend what holds it
    held_output: str | None
    look_at: datetime | None
    merge_epoch: int
    merge_sha: str | None
    expected_sha: str | None
    staged_sha: str | None
    published_ref: str | None
    gate_runs: list[Any] | None
    review_notes: str | None
    said: list[SaidRow]  # reviews, the first one first
    reviews: list[NeighbourRow]  # beads whose agents read it, or did
    reworks: list[NeighbourRow]


def list_queue(
    session: Session, town_id: int, *, rig: str | None = None, everything: bool = False, limit: int = 100
) -> list[QueueRow]:
    """In the order in which they are merged, target by target; `everything`: then those that are over, newest first."""
    query = _select().where(MergeRequest.town_id == town_id)
    if rig is not None:
        query = query.where(Rig.name == rig)
    if not everything:
        query = query.where(MergeRequest.status.not_in(OVER))
    awaits = and_(Rig.review_agent.is_not(None), MergeRequest.reviewed_sha.is_distinct_from(MergeRequest.head_sha))
    rank = case(
        (MergeRequest.status.in_(OVER), 4),
        (or_(MergeRequest.status.in_(MERGING), MergeRequest.batch_of.is_not(None)), 0),
        (MergeRequest.held_code.is_not(None), 3),
        (awaits, 2),
        else_=1,
    )
    over = case((MergeRequest.status.in_(OVER), MergeRequest.id), else_=0)
    query = query.order_by(
        rank == 4, over.desc(), Rig.name, MergeRequest.target, rank, MergeRequest.batch_of.nulls_first()
    )
    return _rows(session.execute(query.order_by(MergeRequest.priority, MergeRequest.id).limit(limit)).all())


def merge_detail(session: Session, town_id: int, bead_id: str) -> MergeDetail:
    """Of the newest merge request of a bead. Raises NotFound."""
    get_bead(session, bead_id, town_id)
    newest = select(MergeRequest).where(MergeRequest.bead_id == bead_id).order_by(MergeRequest.id.desc()).limit(1)
    merge = session.scalar(newest)
    if merge is None:
        raise NotFound("merge request of bead", bead_id, hint=f"gastown why {bead_id}")
    [row] = [each for each in _queue_of(session, merge) if each.id == merge.id]
    same = {name: getattr(merge, name) for name in _SAME}
    made = None if merge.dispatch_id is None else session.get_one(Dispatch, merge.dispatch_id).preset
    ref = None if merge.dispatch_id is None and merge.head_ref is None else head_ref_of(session, merge)
    said = select(Event).where(Event.bead_id == bead_id, Event.kind == reviews.REVIEWED, Event.at >= merge.created_at)
    return MergeDetail(
        merge=row,
        head_ref=ref,
        made_by=made,
        said=[
            SaidRow(at=event.at, actor=event.actor, message=event.message, comment=event.data.get("comment", ""))
            for event in session.scalars(said.order_by(Event.id))
        ],
        reviews=_made_for(session, merge, (Purpose.REVIEW,)),
        reworks=_made_for(session, merge, (Purpose.REWORK, Purpose.CONFLICT)),
        **same,
    )


_SAME = (
    "rework_agent",
    "held_output",
    "look_at",
    "merge_epoch",
    "merge_sha",
    "expected_sha",
    "staged_sha",
    "published_ref",
    "gate_runs",
    "review_notes",
)


def _queue_of(session: Session, merge: MergeRequest) -> list[QueueRow]:
    """The request with all that wait for the same target, so that its place among them is known."""
    same = and_(MergeRequest.rig_id == merge.rig_id, MergeRequest.target == merge.target)
    waiting = and_(same, MergeRequest.status.not_in(OVER))
    query = _select().where(or_(MergeRequest.id == merge.id, waiting))
    return _rows(session.execute(query.order_by(MergeRequest.priority, MergeRequest.id)).all())


def _made_for(session: Session, merge: MergeRequest, purposes: tuple[Purpose, ...]) -> list[NeighbourRow]:
    query = select(Bead.id, Bead.title, Bead.status, Bead.resolution)
    query = query.where(Bead.mr_id == merge.id, Bead.purpose.in_(purposes)).order_by(Bead.created_at, Bead.id)
    return [NeighbourRow(**row._mapping) for row in session.execute(query)]


def _select() -> Select[*tuple[Any, ...]]:
    batch, rework = aliased(MergeRequest), aliased(Bead)
    return (
        select(
            MergeRequest,
            Bead.title,
            Rig.name.label("rig"),
            Rig.review_agent,
            batch.bead_id.label("batch"),
            rework.closed_at.label("rework_over_at"),
        )
        .join(Bead, Bead.id == MergeRequest.bead_id)
        .join(Rig, Rig.id == MergeRequest.rig_id)
        .outerjoin(batch, batch.id == MergeRequest.batch_of)
        .outerjoin(rework, rework.id == MergeRequest.rework_id)
    )


def _rows(found: Sequence[Any]) -> list[QueueRow]:
    """With the place of each that waits for nothing but its turn."""
    rows, places = [], dict.fromkeys(((each.rig, each.MergeRequest.target) for each in found), 0)
    for each in found:
        merge: MergeRequest = each.MergeRequest
        reviewed = merge.reviewed_sha == merge.head_sha
        state = _state(merge, reviewed or each.review_agent is None)
        place = None
        if state in (*MERGING, BATCHED, QUEUED):
            place = places[each.rig, merge.target] = places[each.rig, merge.target] + 1
        over = merge.status in OVER
        rows.append(
            QueueRow(
                id=merge.id,
                bead_id=merge.bead_id,
                title=each.title,
                rig=each.rig,
                target=merge.target,
                place=place,
                state=state,
                step=merge.step,
                priority=PRIORITIES[merge.priority],
                held_code=merge.held_code,
                held_reason=merge.held_reason,
                rework_id=None if over or each.rework_over_at is not None else merge.rework_id,
                rounds=merge.rounds,
                review_agent=each.review_agent,
                review_id=None if over else merge.review_id,
                reviewed=reviewed,
                batch=each.batch,
                head_sha=merge.head_sha,
                merged_sha=merge.merged_sha,
                created_at=merge.created_at,
                merged_at=merge.merged_at,
            )
        )
    return rows


def _state(merge: MergeRequest, may_be_merged: bool) -> str:
    if merge.status != MergeStatus.OPEN:
        return merge.status
    if merge.batch_of is not None:
        return BATCHED
    if merge.held_code is not None:
        return HELD
    return QUEUED if may_be_merged else IN_REVIEW
