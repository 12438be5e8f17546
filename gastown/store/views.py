"""Rows into views: one query for a batch, however many beads it has. What cannot be read costs its own bead only."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import structlog
from sqlalchemy import Row, text
from sqlalchemy.orm import Session

from gastown.models import IS_LIVE, IS_TERMINAL, Service, one_of
from gastown.reconcile.policy import Policy
from gastown.reconcile.views import BeadView, BlockerView, DispatchView, FailureView, LandingView, MergeView, Slot
from gastown.states import (
    MERGING,
    RELEASING,
    AgentStatus,
    BeadStatus,
    ConvoyStatus,
    DispatchStatus,
    FailureClass,
    MergeStatus,
    Purpose,
    Resolution,
    stop_code_of,
)
from gastown.store.policies import Policies

log = structlog.get_logger()

API = "api"  # the row of `services` that the API beats

_UNFINISHED = one_of("status", (BeadStatus.OPEN, BeadStatus.IN_PROGRESS))
# `m` has no attempt at work, so what it waits for decides
_WAITS = f"""m.{_UNFINISHED} AND NOT EXISTS (SELECT 1 FROM dispatches d WHERE d.bead_id = m.id AND d.{IS_LIVE})"""

# Each part is found by an index on the bead, so that the cost is that of the batch, whatever the history.
# In `past`, an attempt that the provider put off neither counts nor ends a row of infra failures.
_VIEWS = text(f"""
SELECT b.id, b.town_id, b.rig_id, b.title, b.status, b.resolution, b.held_reason, b.forced_at, b.not_before,
       b.failure_class, b.failure_code, b.failure_message, b.verdict, b.verdict_reason, b.verdict_rule, b.looked_at,
       api.alive_at, api.back_at,
       live.id AS live_id, live.epoch, live.status AS live_status, node.name AS node, live.queued_at,
       live.starting_at, live.call_ended_at, live.started_at, live.heartbeat_at, live.lease_expires_at,
       live.seen, live.seen_at, live.seen_exit_code, live.seen_oom, live.progress_at, live.tool_running,
       live.stall_tier, live.stop_code, live.stop_reason, live.stop_asked_at, live.cost_usd, live.cap_usd,
       hooked.status AS agent_status, past.agent_failures, past.infra_failures, waits.blockers,
       merge.id AS merge_id, merge.status AS merge_status, merge.target, merge.lease_expires_at AS merge_lease,
       merge.held_code, merge.held_reason AS merge_held_reason, merge.look_at, merge.asked_at, merge.rounds,
       merge.rework_agent, merge.rework_id, merge.review_id, rig.review_agent,
       merge.reviewed_sha IS NOT DISTINCT FROM merge.head_sha AS reviewed,
       rework.status AS rework_status, rework.resolution AS rework_resolution,
       review.status AS review_status, review.resolution AS review_resolution, batch.bead_id AS batch,
       coalesce(first.merging, first.better) AS ahead, b.purpose, b.convoy_id,
       b.purpose = '{Purpose.REVIEW}'
           AND (reads.review_id IS DISTINCT FROM b.id OR reads.status IN ('closed', 'failed')) AS unasked,
       convoy.status AS convoy_status, convoy.partial_at, path.branch, path.head_sha IS NOT NULL AS has_head,
       track.members, track.attempts, track.others_over
FROM beads b
LEFT JOIN services api ON api.name = '{API}'
LEFT JOIN dispatches live ON live.bead_id = b.id AND live.{IS_LIVE}
LEFT JOIN nodes node ON node.id = live.node_id
LEFT JOIN agents hooked ON hooked.bead_id = b.id
LEFT JOIN merge_requests merge ON merge.bead_id = b.id AND merge.status NOT IN ('closed', 'failed')
LEFT JOIN rigs rig ON rig.id = merge.rig_id
LEFT JOIN beads rework ON rework.id = merge.rework_id
LEFT JOIN beads review ON review.id = merge.review_id
LEFT JOIN merge_requests batch ON batch.id = merge.batch_of AND batch.{one_of("status", MERGING)}
LEFT JOIN merge_requests reads ON reads.id = b.mr_id
LEFT JOIN convoys convoy ON convoy.id = b.convoy_id
LEFT JOIN convoy_branches path ON path.convoy_id = b.convoy_id AND path.rig_id = b.rig_id AND b.purpose = 'landing'
LEFT JOIN LATERAL (
    WITH RECURSIVE ahead AS (  -- its members, and all that they wait for
        SELECT m.id FROM beads m WHERE m.convoy_id = b.convoy_id AND m.rig_id = b.rig_id AND m.purpose IS NULL
        UNION
        SELECT e.blocker_id FROM ahead JOIN beads m ON m.id = ahead.id AND {_WAITS}
            JOIN bead_dependencies e ON e.bead_id = ahead.id AND e.kind = 'blocks'
    ), stuck AS (  -- what failed of these, and who waits for that
        SELECT m.id FROM ahead JOIN beads m ON m.id = ahead.id
        WHERE m.status = '{BeadStatus.FAILED}' OR m.resolution = '{Resolution.CANCELED}'
        UNION
        SELECT m.id FROM stuck JOIN bead_dependencies e ON e.blocker_id = stuck.id AND e.kind = 'blocks'
            JOIN beads m ON m.id = e.bead_id AND {_WAITS}
    )
    SELECT (SELECT jsonb_build_object(
                'members', count(*),
                'released', count(*) FILTER (WHERE m.{one_of("resolution", RELEASING)}),
                'canceled', count(*) FILTER (WHERE m.resolution = '{Resolution.CANCELED}'),
                'failed', count(*) FILTER (WHERE m.status = '{BeadStatus.FAILED}'),
                'stuck', count(*) FILTER (WHERE m.id IN (SELECT id FROM stuck) AND m.{_UNFINISHED}),
                'failures', (array_agg(m.id ORDER BY m.id) FILTER (WHERE m.status = '{BeadStatus.FAILED}'))[1:20])
            FROM beads m WHERE m.convoy_id = b.convoy_id AND m.rig_id = b.rig_id AND m.purpose IS NULL) AS members,
           (SELECT count(*) - b.attempts_from FROM merge_requests r
            WHERE r.bead_id = b.id AND r.status = 'failed') AS attempts,
           (SELECT bool_and(o.{IS_TERMINAL}) FROM beads o
            WHERE o.convoy_id = b.convoy_id AND o.purpose = 'landing' AND o.id <> b.id) AS others_over
    WHERE b.purpose = 'landing'  -- as a condition of the join, it would be looked at when all this was added up
) track ON true
LEFT JOIN LATERAL (
    SELECT (SELECT o.bead_id FROM merge_requests o
             WHERE o.rig_id = merge.rig_id AND o.target = merge.target AND o.{one_of("status", MERGING)}) AS merging,
           (SELECT o.bead_id FROM merge_requests o
             WHERE o.rig_id = merge.rig_id AND o.target = merge.target AND o.status NOT IN ('closed', 'failed')
               AND o.status = 'open' AND o.held_code IS NULL AND (o.priority, o.id) < (merge.priority, merge.id)
               AND (rig.review_agent IS NULL OR o.reviewed_sha = o.head_sha)
             ORDER BY o.priority, o.id LIMIT 1) AS better
) first ON merge.status = 'open'
LEFT JOIN LATERAL (
    SELECT count(*) FILTER (WHERE each.failure_class = 'agent') AS agent_failures,
           count(*) FILTER (WHERE each.failure_class = 'infra' AND each.epoch > each.other) AS infra_failures
    FROM (SELECT d.failure_class, d.epoch, coalesce(max(d.epoch) FILTER (
                 WHERE d.failure_class IS NULL OR d.failure_class NOT IN ('infra', 'rate_limit')) OVER (), 0) AS other
          FROM dispatches d WHERE d.bead_id = b.id AND d.epoch > b.attempts_from AND d.ended_at IS NOT NULL) each
) past ON true
LEFT JOIN LATERAL (
    SELECT jsonb_agg(jsonb_build_array(o.id, o.status, o.resolution) ORDER BY o.id) AS blockers
    FROM bead_dependencies e JOIN beads o ON o.id = e.blocker_id WHERE e.bead_id = b.id AND e.kind = 'blocks'
) waits ON true
WHERE b.id = ANY(:bead_ids) ORDER BY b.id""")


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadedBead:
    """What applying and explaining need of a bead's row, as it was when its view was made."""

    id: str
    town_id: int
    rig_id: int
    title: str
    status: BeadStatus
    resolution: Resolution | None
    failure_code: str | None
    failure_message: str | None
    verdict: str | None  # of the last decision
    verdict_reason: str | None
    verdict_rule: str | None
    looked_at: datetime | None


Loaded = tuple[LoadedBead, BeadView]


def load_views(
    session: Session,
    bead_ids: Sequence[str],
    now: datetime,
    numbers: Policies,
    slots: dict[str, Slot] | None = None,
    faults: dict[str, str] | None = None,
    known: Mapping[str, Loaded] | None = None,
) -> list[Loaded]:
    """The beads, ascending, each with what the rules may see of it. To decide, the caller has locked their rows before:
    what a query sees that locks them itself may be older than the lock.

    A row that this version cannot read (a newer one wrote it) is reported and left out; `faults` gets why, by bead.
    What is `known` is not read again.
    """
    slots, known = slots or {}, known or {}
    seen = [known[each] for each in bead_ids if each in known]
    read = [(bead, replace(view, slot=slots.get(bead.id))) for bead, view in seen]
    unread = [each for each in bead_ids if each not in known]
    for row in session.execute(_VIEWS, {"bead_ids": unread}) if unread else ():
        try:
            policy = numbers.rigs.get(row.rig_id, numbers.town)
            read.append((_bead(row), _view(row, now, policy, slots.get(row.id))))
        except (ValueError, TypeError) as error:
            log.error("row_unreadable", bead=row.id, error=str(error))
            if faults is not None:
                faults[row.id] = f"one of its rows cannot be read by this version ({error})"
    return sorted(read, key=lambda each: each[0].id) if seen else read


def _bead(row: Row[Any]) -> LoadedBead:
    return LoadedBead(
        id=row.id,
        town_id=row.town_id,
        rig_id=row.rig_id,
        title=row.title,
        status=BeadStatus(row.status),
        resolution=None if row.resolution is None else Resolution(row.resolution),
        failure_code=row.failure_code,
        failure_message=row.failure_message,
        verdict=row.verdict,
        verdict_reason=row.verdict_reason,
        verdict_rule=row.verdict_rule,
        looked_at=row.looked_at,
    )


def _view(row: Row[Any], now: datetime, policy: Policy, slot: Slot | None) -> BeadView:
    return BeadView(
        id=row.id,
        status=BeadStatus(row.status),
        held_reason=row.held_reason,
        forced=row.forced_at is not None,
        not_before=row.not_before,
        blockers=() if row.blockers is None else tuple(_blocker(*each) for each in row.blockers),
        live=None if row.live_id is None else _live(row),
        agent=None if row.agent_status is None else AgentStatus(row.agent_status),
        agent_failures=row.agent_failures,
        infra_failures=row.infra_failures,
        failure=_failure(row),
        merge=None if row.merge_id is None else _merge(row),
        unasked=row.unasked is True,
        staged=row.convoy_id if row.convoy_status == ConvoyStatus.STAGED else None,
        landing=_landing(row) if row.purpose == Purpose.LANDING else None,
        outage=_is_outage(row.alive_at, row.back_at, now, policy),
        slot=slot,
    )


def _blocker(bead_id: str, status: str, resolution: str | None) -> BlockerView:
    ended = None if resolution is None else Resolution(resolution)
    return BlockerView(id=bead_id, status=BeadStatus(status), resolution=ended)


def _landing(row: Row[Any]) -> LandingView:
    return LandingView(
        convoy=row.convoy_id,
        convoy_status=ConvoyStatus(row.convoy_status),
        **(row.members | {"failures": tuple(row.members["failures"] or ())}),
        branch=row.branch,
        has_head=bool(row.has_head),
        partial=row.partial_at is not None,
        attempts=row.attempts,
        others_over=row.others_over is not False,
    )


def _failure(row: Row[Any]) -> FailureView | None:
    if row.failure_class is None or row.failure_code is None:
        return None
    failure_class = FailureClass(row.failure_class)
    return FailureView(failure_class=failure_class, code=row.failure_code, message=row.failure_message or "")


def _live(row: Row[Any]) -> DispatchView:
    beat_at = row.heartbeat_at
    return DispatchView(
        id=str(row.live_id),
        epoch=row.epoch,
        status=DispatchStatus(row.live_status),
        node=row.node,
        queued_at=row.queued_at,
        starting_at=row.starting_at,
        call_ended_at=row.call_ended_at,
        heartbeat_at=beat_at,
        lease_expires_at=row.lease_expires_at,
        seen=row.seen,
        seen_at=row.seen_at,
        seen_exit_code=row.seen_exit_code,
        seen_oom=bool(row.seen_oom),
        api_was_away=beat_at is not None and row.back_at is not None and row.back_at > beat_at,
        api_back_at=row.back_at,
        started_at=row.started_at,
        progress_at=row.progress_at,
        tool_running=row.tool_running,
        stall_tier=row.stall_tier,
        stop_code=None if row.stop_code is None else stop_code_of(row.stop_code),
        stop_reason=row.stop_reason or "",
        stop_asked_at=row.stop_asked_at,
        cost_usd=row.cost_usd,
        cap_usd=row.cap_usd,
    )


def _merge(row: Row[Any]) -> MergeView:
    return MergeView(
        id=row.merge_id,
        status=MergeStatus(row.merge_status),
        target=row.target,
        lease_expires_at=row.merge_lease,
        held_code=row.held_code,
        held_reason=row.merge_held_reason,
        look_at=row.look_at,
        asked_at=row.asked_at,
        ahead=row.ahead,
        batch=row.batch,
        rounds=row.rounds,
        rework_agent=row.rework_agent,
        rework=None if row.rework_id is None else _blocker(row.rework_id, row.rework_status, row.rework_resolution),
        review_agent=row.review_agent,
        reviewed=row.reviewed,
        review=None if row.review_id is None else _blocker(row.review_id, row.review_status, row.review_resolution),
    )


def api_outage(session: Session, now: datetime, policy: Policy) -> bool:
    """Whether silence proves nothing: the API is away, or was within the last lease, so nobody could beat."""
    row = session.get(Service, API, populate_existing=True)
    return _is_outage(None, None, now, policy) if row is None else _is_outage(row.alive_at, row.back_at, now, policy)


def _is_outage(alive_at: datetime | None, back_at: datetime | None, now: datetime, policy: Policy) -> bool:
    if alive_at is None or back_at is None:
        return True  # it was never there
    silent = alive_at < now - timedelta(seconds=policy.api_silence_s)
    return silent or back_at > now - timedelta(seconds=policy.heartbeat_lease_s)
