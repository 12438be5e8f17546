"""How the whole installation stands, in numbers that cost the same whatever the history."""

from dataclasses import dataclass

from sqlalchemy import text
from sqlalchemy.orm import Session

from gastown.models import IS_LIVE
from gastown.states import LIVE
from gastown.store.counters import read_counters
from gastown.store.policies import parse
from gastown.store.views import API

COUNTED = 10_000  # ready beads at most: who has more wants to know that, not how many

_NOW = text(f"""
    SELECT (SELECT jsonb_object_agg(status, n) FROM (
                SELECT status, count(*) AS n FROM dispatches WHERE {IS_LIVE} GROUP BY status) AS live) AS live,
        (SELECT count(*) FROM (SELECT 1 FROM beads WHERE ready_at IS NOT NULL LIMIT :counted) AS few) AS ready,
        (SELECT coalesce(extract(epoch FROM max(gastown_now() - due.wake_at)), 0) FROM towns CROSS JOIN LATERAL (
            SELECT wake_at FROM beads WHERE town_id = towns.id AND wake_at <= gastown_now()
            ORDER BY wake_at LIMIT 1) AS due) AS due_lag_s,
        (SELECT count(*) FROM escalations WHERE settled_at IS NULL) AS escalations,
        (SELECT count(*) FROM towns WHERE breaker_opened_at IS NOT NULL) AS breakers,
        (SELECT count(*) FROM towns WHERE paused_at IS NOT NULL) AS paused,
        (SELECT count(*) FROM nodes
         WHERE heartbeat_at >= gastown_now() - cast(:silence_s AS double precision) * interval '1 s') AS nodes,
        (SELECT extract(epoch FROM gastown_now() - alive_at) FROM services WHERE name = :api) AS api_age_s
""")


@dataclass(frozen=True, kw_only=True)
class Gauges:
    live: dict[str, int]  # attempts by status
    ready: int  # beads that only a slot is missing to, COUNTED at most
    due_lag_s: float  # how long the bead that is due for longest has waited for a tick
    escalations: int
    breakers_open: int
    towns_paused: int
    nodes_alive: int
    api_age_s: float | None  # since the API last said that it is alive; None: it never was
    counters: dict[str, int]


def read_gauges(session: Session) -> Gauges:
    bound = {"counted": COUNTED, "silence_s": parse()[0].node_silence_s, "api": API}
    row = session.execute(_NOW, bound).one()
    return Gauges(
        live={str(status): (row.live or {}).get(status, 0) for status in LIVE},
        ready=row.ready,
        due_lag_s=float(row.due_lag_s),
        escalations=row.escalations,
        breakers_open=row.breakers,
        towns_paused=row.paused,
        nodes_alive=row.nodes,
        api_age_s=None if row.api_age_s is None else float(row.api_age_s),
        counters=read_counters(session),
    )
