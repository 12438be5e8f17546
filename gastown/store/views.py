"""Rows into views: a fixed number of set-based queries, however many beads a batch has."""

from collections import defaultdict
from datetime import datetime, timedelta

from sqlalchemy import and_, func, or_, select
from sqlalchemy.dialects.postgresql import distinct_on
from sqlalchemy.orm import Session, aliased

from gastown.models import Agent, Bead, BeadDependency, Dispatch, MergeRequest, Node, Service
from gastown.reconcile.policy import Policy
from gastown.reconcile.views import BeadView, BlockerView, DispatchView, FailureView, MergeView, Slot
from gastown.states import (
    LIVE,
    MERGING,
    AgentStatus,
    BeadStatus,
    DispatchStatus,
    FailureClass,
    MergeStatus,
    Resolution,
)
from gastown.store.attempts import FAILED

API = "api"  # the row of `services` that the API beats


def load_views(
    session: Session, bead_ids: list[str], now: datetime, policy: Policy, slots: dict[str, Slot] | None = None
) -> list[tuple[Bead, BeadView]]:
    """The beads, whose rows the caller has locked, each with what the rules may see of it."""
    if not bead_ids:
        return []
    beads = session.scalars(select(Bead).where(Bead.id.in_(bead_ids)).execution_options(populate_existing=True)).all()
    blockers, lives = _blockers(session, bead_ids), _lives(session, bead_ids)
    agents, failures, merges = (
        _agents(session, bead_ids),
        _agent_failures(session, bead_ids),
        _merges(session, bead_ids),
    )
    outage = api_outage(session, now, policy)
    return [
        (
            bead,
            BeadView(
                id=bead.id,
                status=BeadStatus(bead.status),
                held_reason=bead.held_reason,
                forced=bead.forced_at is not None,
                not_before=bead.not_before,
                blockers=tuple(blockers[bead.id]),
                live=lives.get(bead.id),
                agent=agents.get(bead.id),
                agent_failures=failures.get(bead.id, 0),
                failure=_failure(bead),
                merge=merges.get(bead.id),
                outage=outage,
                slot=(slots or {}).get(bead.id),
            ),
        )
        for bead in beads
    ]


def _failure(bead: Bead) -> FailureView | None:
    if bead.failure_class is None or bead.failure_code is None:
        return None
    failure_class = FailureClass(bead.failure_class)
    return FailureView(failure_class=failure_class, code=bead.failure_code, message=bead.failure_message or "")


def _blockers(session: Session, bead_ids: list[str]) -> dict[str, list[BlockerView]]:
    statement = (
        select(BeadDependency.bead_id, Bead.id, Bead.status, Bead.resolution)
        .join(Bead, Bead.id == BeadDependency.blocker_id)
        .where(BeadDependency.bead_id.in_(bead_ids), BeadDependency.kind == "blocks")
        .order_by(Bead.id)
    )
    found: dict[str, list[BlockerView]] = defaultdict(list)
    for row in session.execute(statement):
        resolution = None if row.resolution is None else Resolution(row.resolution)
        found[row.bead_id].append(BlockerView(id=row.id, status=BeadStatus(row.status), resolution=resolution))
    return found


def _lives(session: Session, bead_ids: list[str]) -> dict[str, DispatchView]:
    statement = (
        select(Dispatch, Node.name, Service.back_at)
        .join(Node, Node.id == Dispatch.node_id)
        .outerjoin(Service, Service.name == API)
        .where(Dispatch.bead_id.in_(bead_ids), Dispatch.status.in_(LIVE))
        .execution_options(populate_existing=True)
    )
    return {
        row.bead_id: DispatchView(
            id=str(row.id),
            epoch=row.epoch,
            status=DispatchStatus(row.status),
            node=node,
            queued_at=row.queued_at,
            starting_at=row.starting_at,
            call_ended_at=row.call_ended_at,
            heartbeat_at=row.heartbeat_at,
            lease_expires_at=row.lease_expires_at,
            seen=row.seen,
            seen_at=row.seen_at,
            seen_exit_code=row.seen_exit_code,
            seen_oom=bool(row.seen_oom),
            api_was_away=row.heartbeat_at is not None and back_at is not None and back_at > row.heartbeat_at,
        )
        for row, node, back_at in session.execute(statement)
    }


def _agents(session: Session, bead_ids: list[str]) -> dict[str, AgentStatus]:
    rows = session.execute(select(Agent.bead_id, Agent.status).where(Agent.bead_id.in_(bead_ids)))
    return {row.bead_id: AgentStatus(row.status) for row in rows if row.bead_id is not None}


def _agent_failures(session: Session, bead_ids: list[str]) -> dict[str, int]:
    statement = (
        select(Dispatch.bead_id, func.count())
        .join(Bead, Bead.id == Dispatch.bead_id)
        .where(
            Dispatch.bead_id.in_(bead_ids),
            Dispatch.epoch > Bead.attempts_from,
            Dispatch.status.in_(FAILED),
            Dispatch.failure_class == FailureClass.AGENT,
        )
        .group_by(Dispatch.bead_id)
    )
    return {row[0]: row[1] for row in session.execute(statement)}


def _merges(session: Session, bead_ids: list[str]) -> dict[str, MergeView]:
    """The unfinished merge request of each bead, with the bead that is ahead of it on its target."""
    statement = select(MergeRequest).where(
        MergeRequest.bead_id.in_(bead_ids), MergeRequest.status.not_in((MergeStatus.CLOSED, MergeStatus.FAILED))
    )
    requests = session.scalars(statement.execution_options(populate_existing=True)).all()
    ahead = _ahead(session, [request.id for request in requests])
    return {
        request.bead_id: MergeView(
            id=request.id,
            status=MergeStatus(request.status),
            target=request.target,
            lease_expires_at=request.lease_expires_at,
            held_code=request.held_code,
            held_reason=request.held_reason,
            look_at=request.look_at,
            asked_at=request.asked_at,
            ahead=ahead.get(request.id),
        )
        for request in requests
    }


def _ahead(session: Session, merge_ids: list[int]) -> dict[int, str]:
    """For each queued merge, one that goes first: the one being merged, else a better one that nothing holds."""
    if not merge_ids:
        return {}
    other = aliased(MergeRequest)
    better = and_(
        other.status == MergeStatus.OPEN,
        other.held_code.is_(None),
        or_(
            other.priority < MergeRequest.priority,
            and_(other.priority == MergeRequest.priority, other.id < MergeRequest.id),
        ),
    )
    statement = (
        select(MergeRequest.id, other.bead_id)
        .join(
            other,
            and_(
                other.rig_id == MergeRequest.rig_id,
                other.target == MergeRequest.target,
                other.id != MergeRequest.id,
                or_(other.status.in_(MERGING), better),
            ),
        )
        .where(MergeRequest.id.in_(merge_ids), MergeRequest.status == MergeStatus.OPEN)
        .ext(distinct_on(MergeRequest.id))
        .order_by(MergeRequest.id, other.status.in_(MERGING).desc(), other.priority, other.id)
    )
    return {row[0]: row[1] for row in session.execute(statement)}


def api_outage(session: Session, now: datetime, policy: Policy) -> bool:
    """Whether silence proves nothing: the API is away, or was within the last lease, so nobody could beat."""
    row = session.get(Service, API, populate_existing=True)
    if row is None:
        return True  # it was never there
    silent = row.alive_at < now - timedelta(seconds=policy.api_silence_s)
    return silent or row.back_at > now - timedelta(seconds=policy.heartbeat_lease_s)
