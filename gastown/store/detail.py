"""One bead with everything about it."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from gastown.models import Bead, MergeRequest
from gastown.store import listing
from gastown.store.beads import get_bead
from gastown.store.explain import with_live_holds
from gastown.store.listing import AttemptRow, BeadRow, EventRow, NeighbourRow

EVENTS = 10


@dataclass(frozen=True, kw_only=True)
class MergeRow:
    """The newest merge request of a bead."""

    id: int
    target: str
    status: str
    step: str | None
    merge_epoch: int
    head_sha: str
    held_code: str | None
    held_reason: str | None
    held_output: str | None
    staged_sha: str | None
    published_sha: str | None  # the head that a person is to merge
    published_ref: str | None  # as this branch
    gate_runs: list[Any] | None  # how each gate passed: name, command, tries, allowed, duration_s, output
    look_at: datetime | None
    rounds: int  # of rework that were begun
    rework_agent: str | None  # the preset that may mend what holds it
    merged_sha: str | None
    merged_at: datetime | None
    created_at: datetime


@dataclass(frozen=True, kw_only=True)
class BeadDetail:
    bead: BeadRow
    body: str
    held_reason: str | None
    failure_class: str | None
    failure_code: str | None
    not_before: datetime | None
    attempts: list[AttemptRow]
    merge: MergeRow | None
    purpose: str | None  # of a bead that Gastown made
    made_for: str | None  # the bead whose merge this one mends or reviews
    made: list[NeighbourRow]  # that mend or review its merge, or did, the first one first
    blockers: list[NeighbourRow]
    dependants: list[NeighbourRow]
    events: list[EventRow]


def bead_detail(session: Session, town_id: int, bead_id: str) -> BeadDetail:
    """Raises NotFound."""
    bead = get_bead(session, bead_id, town_id)
    rows = with_live_holds(session, town_id, listing.beads_by_id(session, town_id, [bead_id]))
    newest = select(MergeRequest).where(MergeRequest.bead_id == bead_id).order_by(MergeRequest.id.desc()).limit(1)
    merge = session.scalar(newest)
    return BeadDetail(
        bead=rows[0],
        body=bead.body,
        held_reason=bead.held_reason,
        failure_class=bead.failure_class,
        failure_code=bead.failure_code,
        not_before=bead.not_before,
        attempts=listing.list_attempts(session, bead_id),
        merge=None if merge is None else _merge_row(merge),
        purpose=bead.purpose,
        made_for=None if bead.mr_id is None else session.get_one(MergeRequest, bead.mr_id).bead_id,
        made=[] if merge is None else _made_for(session, merge),
        blockers=listing.blockers_of(session, bead_id),
        dependants=listing.dependants_of(session, bead_id),
        events=listing.list_events(session, town_id, bead_id=bead_id, limit=EVENTS),
    )


def _made_for(session: Session, merge: MergeRequest) -> list[NeighbourRow]:
    query = select(Bead.id, Bead.title, Bead.status, Bead.resolution).where(Bead.mr_id == merge.id)
    return [NeighbourRow(**row._mapping) for row in session.execute(query.order_by(Bead.created_at, Bead.id))]


def _merge_row(merge: MergeRequest) -> MergeRow:
    return MergeRow(**{name: getattr(merge, name) for name in MergeRow.__dataclass_fields__})
