"""What people look at: beads, attempts, events. Reads only, as plain values; no query walks through history."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Select, and_, or_, select, true
from sqlalchemy.orm import Session, aliased

from gastown.models import Agent, Bead, BeadDependency, Dispatch, Event, MergeRequest, Node, Rig
from gastown.states import LIVE, PRIORITIES, TERMINAL, BeadStatus, MergeStatus, Verdict


@dataclass(frozen=True, kw_only=True)
class BeadRow:
    """A bead on one line: where it stands, and what the reconciler said of it last."""

    id: str
    title: str
    rig: str
    status: str
    resolution: str | None
    priority: str
    purpose: str | None  # of a bead that Gastown made
    convoy: str | None  # whose member, or landing, it is
    labels: list[str]
    preset: str | None
    agent: str | None  # who makes, or made, the last attempt
    attempts: int
    attempt_status: str | None
    phase: str | None  # of the live attempt
    says: str | None  # what the agent says it is doing
    verdict: str | None
    reason: str | None
    held_code: str | None  # why its merge waits
    held_reason: str | None
    held_by_hand: bool
    review_over: bool  # the review that its merge waits for ended without an answer
    merge_step: str | None  # what a merge that is under way does
    merged_sha: str | None
    failure: str | None
    created_at: datetime
    started_at: datetime | None
    closed_at: datetime | None

    @property
    def terminal(self) -> bool:
        return self.status in TERMINAL

    @property
    def live(self) -> bool:
        return self.attempt_status in LIVE


@dataclass(frozen=True, kw_only=True)
class AttemptRow:
    epoch: int
    id: UUID
    agent: str
    preset: str
    node: str
    status: str
    code: str | None
    failure_class: str | None
    message: str | None
    exit_code: int | None
    phase: str | None
    says: str | None
    queued_at: datetime
    started_at: datetime | None
    heartbeat_at: datetime | None
    ended_at: datetime | None
    adopted_at: datetime | None
    base_sha: str | None
    head_sha: str | None
    wip_sha: str | None
    log_bytes: int

    @property
    def live(self) -> bool:
        return self.status in LIVE


@dataclass(frozen=True, kw_only=True)
class EventRow:
    id: int
    at: datetime
    bead_id: str | None
    dispatch_id: UUID | None
    actor: str
    kind: str
    message: str
    data: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class NeighbourRow:
    """A bead at the other end of a dependency."""

    id: str
    title: str
    status: str
    resolution: str | None


def list_beads(
    session: Session,
    town_id: int,
    *,
    rig: str | None = None,
    states: Collection[str] = (),
    everything: bool = False,
    limit: int = 100,
) -> list[BeadRow]:
    """Beads, newest first. `states` are statuses or resolutions; without them, those that are not closed."""
    query = _select_beads().where(Bead.town_id == town_id).order_by(Bead.created_at.desc(), Bead.id).limit(limit)
    if rig is not None:
        query = query.where(Rig.name == rig)
    if states:
        query = query.where(or_(Bead.status.in_(states), Bead.resolution.in_(states)))
    elif not everything:
        query = query.where(Bead.status != BeadStatus.CLOSED)
    return _bead_rows(session, query)


def beads_by_id(session: Session, town_id: int, bead_ids: Sequence[str]) -> list[BeadRow]:
    """These beads, in this order; those that do not exist are left out."""
    rows = _bead_rows(session, _select_beads().where(Bead.town_id == town_id, Bead.id.in_(bead_ids)))
    return sorted(rows, key=lambda row: bead_ids.index(row.id))


def beads_with_label(session: Session, town_id: int, label: str) -> list[str]:
    """The ids, in the order in which they were made."""
    labelled = and_(Bead.labels != [], Bead.labels.contains([label]))
    return list(session.scalars(select(Bead.id).where(Bead.town_id == town_id, labelled).order_by(Bead.created_at)))


def labels_of(session: Session, town_id: int, label: str) -> dict[str, list[str]]:
    """The beads with this label, and all labels of each."""
    labelled = and_(Bead.labels != [], Bead.labels.contains([label]))
    query = select(Bead.id, Bead.labels).where(Bead.town_id == town_id, labelled)
    return {row.id: list(row.labels) for row in session.execute(query)}


def unfinished_beads(session: Session, town_id: int, rig: str | None, limit: int) -> list[str]:
    """The ids of what is not closed, oldest first."""
    query = select(Bead.id).join(Rig, Rig.id == Bead.rig_id)
    query = query.where(Bead.town_id == town_id, Bead.status != BeadStatus.CLOSED)
    if rig is not None:
        query = query.where(Rig.name == rig)
    return list(session.scalars(query.order_by(Bead.created_at, Bead.id).limit(limit)))


def list_attempts(session: Session, bead_id: str) -> list[AttemptRow]:
    """Every attempt on a bead, the first one first."""
    query = (
        select(Dispatch, Agent.name.label("agent_name"), Node.name.label("node_name"))
        .join(Agent, Agent.id == Dispatch.agent_id)
        .join(Node, Node.id == Dispatch.node_id)
        .where(Dispatch.bead_id == bead_id)
        .order_by(Dispatch.epoch)
    )
    return [_attempt_row(row.Dispatch, row.agent_name, row.node_name) for row in session.execute(query)]


def _attempt_row(dispatch: Dispatch, agent: str, node: str) -> AttemptRow:
    named: dict[str, Any] = {"agent": agent, "node": node, "says": dispatch.status_text}
    same = {name: getattr(dispatch, name) for name in AttemptRow.__dataclass_fields__ if name not in named}
    return AttemptRow(**same, **named)


def list_events(
    session: Session, town_id: int, *, bead_id: str | None = None, after: int = 0, limit: int = 50
) -> list[EventRow]:
    """The newest `limit` events with an id above `after`, in the order in which they happened."""
    query = select(Event).where(Event.town_id == town_id, Event.id > after).order_by(Event.id.desc()).limit(limit)
    if bead_id is not None:
        query = query.where(Event.bead_id == bead_id)
    rows = [
        EventRow(**{name: getattr(event, name) for name in EventRow.__dataclass_fields__})
        for event in session.scalars(query)
    ]
    return rows[::-1]


def blockers_of(session: Session, bead_id: str) -> list[NeighbourRow]:
    return _neighbours(session, BeadDependency.blocker_id, BeadDependency.bead_id == bead_id)


def dependants_of(session: Session, bead_id: str) -> list[NeighbourRow]:
    return _neighbours(session, BeadDependency.bead_id, BeadDependency.blocker_id == bead_id)


def _neighbours(session: Session, wanted: Any, edges: ColumnElement[bool]) -> list[NeighbourRow]:
    query = select(Bead.id, Bead.title, Bead.status, Bead.resolution)
    query = query.join(BeadDependency, wanted == Bead.id).where(edges).order_by(Bead.created_at, Bead.id)
    return [NeighbourRow(**row._mapping) for row in session.execute(query)]


def _select_beads() -> Select[*tuple[Any, ...]]:
    """Each bead with its rig, its last attempt and its last merge request."""
    newest = select(Dispatch).where(Dispatch.bead_id == Bead.id).order_by(Dispatch.epoch.desc()).limit(1).lateral()
    attempt = aliased(Dispatch, newest)
    requests = select(MergeRequest).where(MergeRequest.bead_id == Bead.id)
    merge = aliased(MergeRequest, requests.order_by(MergeRequest.id.desc()).limit(1).lateral())
    review = aliased(Bead)
    return (
        select(
            Bead,
            Rig.name.label("rig_name"),
            Agent.name.label("agent_name"),
            attempt.epoch.label("epoch"),
            attempt.status.label("attempt_status"),
            attempt.phase.label("phase"),
            attempt.status_text.label("says"),
            merge.status.label("merge_status"),
            merge.held_code.label("held_code"),
            merge.held_reason.label("merge_held_reason"),
            merge.merged_sha.label("merged_sha"),
            merge.step.label("merge_step"),
            review.status.label("review_status"),
        )
        .join(Rig, Rig.id == Bead.rig_id)
        .outerjoin(attempt, true())
        .outerjoin(Agent, Agent.id == attempt.agent_id)
        .outerjoin(merge, true())
        .outerjoin(review, review.id == merge.review_id)
    )


def _bead_rows(session: Session, query: Select[*tuple[Any, ...]]) -> list[BeadRow]:
    return [_bead_row(row) for row in session.execute(query)]


def _bead_row(row: Any) -> BeadRow:
    bead: Bead = row.Bead
    live = row.attempt_status in LIVE
    merging = row.merge_status not in (None, MergeStatus.CLOSED, MergeStatus.FAILED)
    return BeadRow(
        id=bead.id,
        title=bead.title,
        rig=row.rig_name,
        status=bead.status,
        resolution=bead.resolution,
        priority=PRIORITIES[bead.priority],
        purpose=bead.purpose,
        convoy=bead.convoy_id,
        labels=list(bead.labels),
        preset=bead.agent,
        agent=row.agent_name,
        attempts=row.epoch or 0,
        attempt_status=row.attempt_status,
        phase=row.phase if live else None,
        says=row.says if live else None,
        verdict=bead.verdict,
        reason=bead.verdict_reason,
        held_code=row.held_code if merging else None,
        held_reason=bead.held_reason or (row.merge_held_reason if merging else None),
        merge_step=row.merge_step if merging else None,
        merged_sha=row.merged_sha,
        review_over=merging and row.review_status in TERMINAL,
        held_by_hand=bead.held_at is not None,
        failure=bead.failure_message,
        created_at=bead.created_at,
        started_at=bead.started_at,
        closed_at=bead.closed_at,
    )


def waits_for_a_slot(row: BeadRow) -> bool:
    """Whether the recorded reason says nothing: what holds a ready bead is the town, and that is looked up live."""
    return row.verdict == Verdict.READY and not row.terminal and not row.live
