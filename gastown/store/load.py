"""A town's gates out of its rows: what may be started now, what holds a ready bead, and how its breaker stands.

Two queries, flat in history: of what is over, each looks at a fixed number of rows by an index. With a budget a third
one adds up what was spent in a day.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import func, select, text, update
from sqlalchemy.orm import Session

from gastown.agent.protocol import COST_USD
from gastown.models import IS_LIVE, Dispatch, Town
from gastown.reconcile import town
from gastown.reconcile.placement import Room
from gastown.reconcile.policy import Policy
from gastown.reconcile.views import SPEND_WINDOW, NodeView, Rest, RigView, TownView
from gastown.store import escalations
from gastown.store.members import refusals, words
from gastown.store.moves import record
from gastown.store.policies import Policies, load_policies
from gastown.store.services import SILENCE_S

BREAKER = "breaker"  # the cause of its escalation

_TOWN = text(f"""
    WITH failures AS MATERIALIZED (
        SELECT ended_at, code, message, rig_id FROM dispatches
        WHERE town_id = :town_id AND failure_class = 'infra' AND ended_at > :infra_from
        ORDER BY ended_at DESC LIMIT :infra_most
    ), town AS MATERIALIZED (
        SELECT towns.paused_at, towns.breaker_opened_at, towns.breaker_reason,
            (SELECT alive_at FROM services WHERE name = 'api') AS api_alive_at,
            (SELECT count(*) FROM failures) AS infra_failures,
            (SELECT min(ended_at) FROM failures) AS infra_since,
            (SELECT concat(code, ': ', message) FROM failures ORDER BY ended_at DESC LIMIT 1) AS infra_failure,
            (SELECT array_agg(rig_id ORDER BY ended_at) FROM failures) AS infra_rigs,
            (SELECT started_at FROM dispatches WHERE town_id = :town_id AND started_at IS NOT NULL
             ORDER BY started_at DESC LIMIT 1) AS last_started_at,
            (SELECT ended_at FROM dispatches
             WHERE town_id = :town_id AND ended_at > towns.breaker_opened_at AND queued_at > towns.breaker_opened_at
             ORDER BY ended_at DESC LIMIT 1) AS probe_ended_at,
            (SELECT jsonb_agg(jsonb_build_array(preset, least(until, '9999-01-01'), reason) ORDER BY preset)
             FROM rate_limits WHERE town_id = :town_id AND until > :now) AS rests
        FROM towns WHERE towns.id = :town_id
    ), live AS MATERIALIZED (
        SELECT rig_id, count(*) AS used, count(*) FILTER (WHERE status <> 'running') AS starting,
            sum(greatest(CASE WHEN cost_usd BETWEEN 0 AND {COST_USD} THEN cost_usd END, cap_usd)) AS reserved_usd
        FROM dispatches WHERE town_id = :town_id AND {IS_LIVE} GROUP BY rig_id
    )
    SELECT town.*, rigs.id AS rig_id, rigs.name AS rig_name, rigs.agent AS preset, rigs.paused_at AS rig_paused_at,
        rigs.node_labels, rigs.container,
        coalesce(live.used, 0) AS used, coalesce(live.starting, 0) AS starting, live.reserved_usd
    FROM town LEFT JOIN rigs ON rigs.town_id = :town_id LEFT JOIN live ON live.rig_id = rigs.id
    ORDER BY rigs.id
""")
_NODES = text(f"""
    WITH live AS MATERIALIZED (
        SELECT node_id, count(*) AS used, count(*) FILTER (WHERE status <> 'running') AS starting
        FROM dispatches WHERE {IS_LIVE} GROUP BY node_id
    )
    SELECT nodes.id, nodes.name, nodes.capacity, nodes.heartbeat_at, nodes.closed_at,
        nodes.runtime, nodes.labels, nodes.images, nodes.workers,
        coalesce(nodes.draining_at, nodes.closed_at) IS NOT NULL AS draining,
        coalesce(live.used, 0) AS used, coalesce(live.starting, 0) AS starting,
        failed.failures, failed.failed_at, failed.failure, failed.failed_rigs
    FROM nodes LEFT JOIN live ON live.node_id = nodes.id
    LEFT JOIN LATERAL (
        SELECT started_at FROM dispatches WHERE node_id = nodes.id AND started_at IS NOT NULL
        ORDER BY started_at DESC LIMIT 1
    ) AS started ON true
    CROSS JOIN LATERAL (
        SELECT count(*) AS failures, max(ended_at) AS failed_at,
            (array_agg(concat(code, ': ', message) ORDER BY ended_at DESC))[1] AS failure,
            array_agg(rig_id ORDER BY ended_at) AS failed_rigs
        FROM (
            SELECT ended_at, code, message, rig_id FROM dispatches
            WHERE node_id = nodes.id AND status = 'rolled_back' AND failure_class = 'infra'
            AND ended_at > coalesce(started.started_at, '-infinity')
            ORDER BY ended_at DESC LIMIT :most
        ) AS latest
    ) AS failed
    WHERE nodes.removed_at IS NULL
    ORDER BY nodes.id
""")


def load_room(session: Session, town_id: int, now: datetime, policies: Policies | None = None) -> Room:
    """What may be started now. Opens and closes the breaker, so it is for the holder of the town's lock."""
    policies = policies or load_policies(session, town_id)
    view = load_town(session, town_id, now, policies)
    move = town.breaker_move(view, now, policies.town)
    if move is not None:
        move_breaker(session, town_id, move, now, policies.town)
    return town.room(view, now, policies.town)


def read_room(session: Session, town_id: int, now: datetime) -> Room:
    """The same without the lock: it changes nothing, and may be out of date a moment later."""
    policies = load_policies(session, town_id)
    return town.room(load_town(session, town_id, now, policies), now, policies.town)


def load_town(session: Session, town_id: int, now: datetime, policies: Policies | None = None) -> TownView:
    """The facts that the town's gates read."""
    policies = policies or load_policies(session, town_id)
    policy = policies.town
    bound = {
        "town_id": town_id,
        "now": now,
        "infra_from": now - timedelta(seconds=policy.town_breaker_window_s),
        "infra_most": policy.town_breaker_failures,
    }
    rows = session.execute(_TOWN, bound).all()
    # a rig that was added since the policies were read has no numbers yet: nothing is started on it before they are
    facts, rigs = rows[0], [row for row in rows if row.rig_id in policies.rigs]
    spent_usd, spent_since = _spent(session, town_id, now) if policy.budget_usd_per_day else (0.0, None)
    silent_from = now - timedelta(seconds=SILENCE_S)
    return TownView(
        used=sum(row.used for row in rigs),
        starting=sum(row.starting for row in rigs),
        paused_at=facts.paused_at,
        wrong=policies.wrong.get(None),
        api_silent=facts.api_alive_at is None or facts.api_alive_at < silent_from,
        breaker_opened_at=facts.breaker_opened_at,
        breaker_reason=facts.breaker_reason or "",
        infra_failures=facts.infra_failures,
        infra_since=facts.infra_since,
        infra_failure=facts.infra_failure or "",
        infra_rigs=tuple(facts.infra_rigs or ()),
        last_started_at=facts.last_started_at,
        probe_ended_at=facts.probe_ended_at,
        spent_usd=spent_usd,
        spent_since=spent_since,
        reserved_usd=sum(row.reserved_usd or 0.0 for row in rigs),
        rigs={row.rig_id: _rig_view(row, policies) for row in rigs},
        nodes=_nodes(session, now, policy),
        rests={preset: Rest(datetime.fromisoformat(until), why) for preset, until, why in facts.rests or ()},
    )


def _rig_view(row: Any, policies: Policies) -> RigView:
    policy = policies.rigs[row.rig_id]
    return RigView(
        id=row.rig_id,
        name=row.rig_name,
        used=row.used,
        limit=policy.rig_max_running,
        preset=row.preset or "",
        cap_usd=policy.attempt_cap_usd,
        paused_at=row.rig_paused_at,
        wrong=policies.wrong.get(row.rig_id),
        no_environment=row.rig_id in policies.environments,
        node_labels=words(row.node_labels),
        contained=bool(row.container),
        image=isinstance(row.container, dict) and bool(row.container.get("image")),
    )


def _nodes(session: Session, now: datetime, policy: Policy) -> tuple[NodeView, ...]:
    silent_from = now - timedelta(seconds=policy.node_silence_s)
    most = policy.node_breaker_failures + len(policy.node_breaker_s) - 1  # more make no difference
    rows: Sequence[Any] = session.execute(_NODES, {"most": most}).all()
    return tuple(
        NodeView(
            id=row.id,
            name=row.name,
            used=row.used,
            capacity=row.capacity,
            heartbeat_at=row.heartbeat_at,
            alive=row.heartbeat_at >= silent_from,
            draining=row.draining,
            closed_at=row.closed_at,
            starting=row.starting,
            failures=row.failures,
            failed_at=row.failed_at,
            failure=row.failure or "",
            failed_rigs=tuple(row.failed_rigs or ()),
            runtime=row.runtime,
            labels=words(row.labels),
            images=words(row.images),
            refused="; ".join(refusals(row.workers, silent_from)),
        )
        for row in rows
    )


def _spent(session: Session, town_id: int, now: datetime) -> tuple[float, datetime | None]:
    """By attempts that ended within the budget's window, and the first of those ends.

    What a hand wrote into a row and is no cost, such as NaN, which Postgres takes for more than 0, is none.
    """
    query = select(func.coalesce(func.sum(Dispatch.cost_usd), 0.0), func.min(Dispatch.ended_at))
    query = query.where(Dispatch.town_id == town_id, Dispatch.ended_at > now - SPEND_WINDOW, Dispatch.cost_usd > 0)
    query = query.where(Dispatch.cost_usd <= COST_USD)
    spent, since = session.execute(query).one()
    return spent, since


def move_breaker(session: Session, town_id: int, move: town.BreakerMove, now: datetime, policy: Policy) -> None:
    """Open: a person is asked, once. Closed: that is settled. The caller holds the town's lock."""
    values = {"breaker_opened_at": now, "breaker_reason": move.reason} if move.opens else _CLOSED
    session.execute(update(Town).where(Town.id == town_id).values(**values))
    if move.opens:
        message = (
            f"nothing more is started: {move.reason}. One attempt may try every {policy.town_breaker_probe_s:g} s, "
            "and all go on by themselves when one works. `gastown why --all` shows what waits"
        )
        escalations.raise_once(session, town_id, BREAKER, message)
        return
    escalations.settle(session, town_id, BREAKER)
    record(session, town_id, "breaker_closed", f"attempts are started again: {move.reason}", actor="reconciler")


_CLOSED: dict[str, Any] = {"breaker_opened_at": None, "breaker_reason": None}
