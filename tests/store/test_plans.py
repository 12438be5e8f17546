"""The plans of the hot queries, among a long history: an index each time, so that a slip shows before it is slow.

Each statement that the real functions send is explained as it is sent: with its values, and without (`GENERIC_PLAN`) if
a connection that has sent it often would stop to look at the values.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from sqlalchemy import Connection, event, text
from sqlalchemy.orm import Session

from gastown.agent.protocol import Done, Heartbeat
from gastown.commands import attempt, work
from gastown.db import engine, transaction
from gastown.models import Town
from gastown.states import DispatchStatus
from gastown.store import attempts, claims, load, merges
from gastown.store.moves import lock_bead
from gastown.tasks.reconcile import _batch
from tests.builders import BASE, HEAD, a_bead, a_node, a_rig, a_town, an_agent, an_attempt
from tests.views import after

GROWING = {"beads", "dispatches", "merge_requests", "bead_dependencies", "agents", "events", "decisions", "api_tokens"}
HISTORY = [
    """INSERT INTO beads (id, town_id, rig_id, title, status, resolution, closed_at, created_at)
       SELECT 'old-' || n, :town, :rig, 'done', 'closed', 'merged', at, at
       FROM generate_series(1, 50000) n, LATERAL (SELECT gastown_now() - n * interval '31 s' AS at) t""",
    """INSERT INTO dispatches (town_id, rig_id, bead_id, agent_id, node_id, epoch, preset, status, queued_at,
                               started_at, ended_at, code, failure_class)
       SELECT :town, :rig, 'old-' || n, :agent, :node, epoch, 'shell',
              CASE epoch WHEN 1 THEN 'rolled_back' ELSE 'succeeded' END, at, CASE epoch WHEN 2 THEN at END, at,
              CASE epoch WHEN 1 THEN 'start_error' END, CASE epoch WHEN 1 THEN 'infra' END
       FROM generate_series(1, 50000) n, generate_series(1, 2) epoch,
            LATERAL (SELECT gastown_now() - n * interval '31 s' AS at) t""",
    """INSERT INTO merge_requests (town_id, rig_id, bead_id, dispatch_id, target, head_sha, priority, status,
                                   merged_sha, merged_at)
       SELECT town_id, rig_id, bead_id, id, 'main', 'a', 2, 'closed', 'b', ended_at
       FROM dispatches WHERE status = 'succeeded'""",
    """INSERT INTO events (town_id, bead_id, actor, kind, message)
       SELECT :town, 'old-' || n, 'reconciler', 'merged', 'then' FROM generate_series(1, 50000) n""",
    """INSERT INTO decisions (town_id, bead_id, verdict, reason, rule, view)
       SELECT :town, 'old-' || n, 'dispatch', 'then', 'dispatch', '{}' FROM generate_series(1, 50000) n""",
    """INSERT INTO api_tokens (town_id, dispatch_id, name, token_hash)
       SELECT town_id, id, 'then', sha256(id::text::bytea) FROM dispatches""",
    """INSERT INTO agents (town_id, rig_id, name, status, idle_since)
       SELECT :town, :rig, 'gone-' || n, 'retired', NULL FROM generate_series(1, 5000) n""",
    """INSERT INTO beads (id, town_id, rig_id, title, verdict, looked_at)
       SELECT 'wait-' || n, :town, :rig, 'waits', 'blocked', gastown_now() FROM generate_series(0, 10000) n""",
    """INSERT INTO bead_dependencies (bead_id, blocker_id)
       SELECT 'wait-' || n, 'wait-' || (n - 1) FROM generate_series(1, 10000) n""",
    """INSERT INTO beads (id, town_id, rig_id, title, verdict, ready_at)
       SELECT 'ready-' || n, :town, :rig, 'waits for a slot', 'ready', gastown_now() FROM generate_series(1, 300) n""",
]
STARTING, RUNNING, SUCCEEDED = DispatchStatus.STARTING, DispatchStatus.RUNNING, DispatchStatus.SUCCEEDED


@pytest.fixture
def old_town(town: Town, postgres_url: str) -> Town:
    """Years of work, 10,000 beads that wait for others, and a few of everything that a tick can meet."""
    with transaction() as session:
        money = {"budget_usd_per_day": 10_000, "attempt_cap_usd": 5}
        a_town(session).policy = {"max_running": 120, "rig_max_running": 1000} | money
        node, rig = a_node(session), a_rig(session)
        node.capacity = 1000
        idle = an_agent(session, rig)
        ids = {"town": town.id, "rig": rig.id, "node": node.id, "agent": idle.id}
        session.flush()
        session.execute(text("SET LOCAL session_replication_role = replica"))  # no trigger looks at each row
        session.execute(text("SET LOCAL statement_timeout = '60s'"))
        for statement in HISTORY:
            session.execute(text(statement), ids)
    with transaction() as session:
        elsewhere = a_node(session, "there")  # whose starts fail
        for number in range(20):
            a_bead(session)
            an_attempt(session, RUNNING, token=f"token-{number}")
            if number < 10:
                an_attempt(session, STARTING, node=elsewhere, call_ended_at=after(0), seen="absent", seen_at=after(0))
            an_attempt(session, SUCCEEDED)
    with engine().connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("SET statement_timeout = '60s'"))
        connection.execute(text("VACUUM (ANALYZE)"))
        connection.invalidate()
    return town


@contextmanager
def explained() -> Iterator[list[str]]:
    """Whatever reads a growing table from end to end, of all statements sent within."""
    found: list[str] = []

    def explain(connection: Connection, _cursor: Any, statement: str, values: Any, *_: Any) -> None:
        if statement.startswith(("SAVEPOINT", "RELEASE", "ROLLBACK", "SELECT set_config")):
            return
        raw: psycopg.Connection[Any] = connection.connection.dbapi_connection  # type: ignore[assignment]
        with raw.cursor() as cursor:
            cursor.execute(f"EXPLAIN (FORMAT JSON) {statement}".encode(), values)
            with_values = cursor.fetchone()
        with psycopg.ClientCursor(raw) as cursor:
            cursor.execute(f"EXPLAIN (GENERIC_PLAN, FORMAT JSON) {_numbered(statement)}".encode())
            generic = cursor.fetchone()
        assert with_values is not None
        assert generic is not None
        plans = {"values": with_values[0][0]["Plan"], "generic": generic[0][0]["Plan"]}
        if not _would_be_taken(plans["generic"], plans["values"]):
            del plans["generic"]
        for kind, plan in plans.items():
            found.extend(f"{table} ({kind}): {' '.join(statement.split())}" for table in _read_through(plan))

    event.listen(engine(), "before_cursor_execute", explain)
    try:
        yield found
    finally:
        event.remove(engine(), "before_cursor_execute", explain)


def _numbered(statement: str) -> str:
    """The statement with $1, $2, ... in place of its named values."""
    numbers: dict[str, int] = {}
    found = re.sub(r"%\((\w+)\)s", lambda each: f"${numbers.setdefault(each[1], len(numbers) + 1)}", statement)
    return found.replace("%%", "%")


def _would_be_taken(generic: dict[str, Any], with_values: dict[str, Any]) -> bool:
    """As Postgres decides it (choose_custom_plan): when it looks cheaper than planning anew each time."""
    planning = 1000 * 0.0025 * (1 + sum(1 for _ in _tables(with_values)))
    return bool(generic["Total Cost"] < with_values["Total Cost"] + planning)


def _tables(plan: dict[str, Any]) -> Iterator[str]:
    if "Relation Name" in plan:
        yield plan["Relation Name"]
    for part in plan.get("Plans", ()):
        yield from _tables(part)


def _read_through(plan: dict[str, Any]) -> Iterator[str]:
    """The growing tables that a part of the plan reads from end to end."""
    if plan["Node Type"] == "Seq Scan" and plan["Relation Name"] in GROWING:
        yield plan["Relation Name"]
    for part in plan.get("Plans", ()):
        yield from _read_through(part)


def a_batch(session: Session, town: Town) -> None:
    """Due and ready ones: starts, roll-backs, looks at what runs and at what is to be merged."""
    result = _batch(session, town.id)
    assert result is not None
    assert len(result.effects) > 60


def a_breaker(session: Session, town: Town) -> None:
    session.execute(
        text("UPDATE towns SET breaker_opened_at = gastown_now() - interval '1 hour', breaker_reason = 'x'")
    )
    load.load_room(session, town.id, claims.clock(session))


def a_heartbeat(session: Session, town: Town) -> None:
    said = [(f"token-{number}", Heartbeat(phase="agent", progressed=True)) for number in range(20)]
    assert None not in attempt.usual_heartbeats(session, said)


def a_call(session: Session, town: Town) -> None:
    found = attempt.authenticate(session, "token-4")
    assert found is not None
    attempts.admit(session, found)


def a_done(session: Session, town: Town) -> None:
    found = attempt.authenticate(session, "token-5")
    assert found is not None
    attempt.finish(session, found, Done(outcome="succeeded", base_sha=BASE, head_sha=HEAD))


def a_failure(session: Session, town: Town) -> None:
    found = attempt.authenticate(session, "token-6")
    assert found is not None
    attempt.finish(session, found, Done(outcome="failed", message="x"))


def a_merge_under_way(session: Session, town: Town) -> None:
    first = session.scalar(text("SELECT min(id) FROM merge_requests WHERE status = 'open'"))
    order = merges.claim_merge(session, int(first), "worker@here")  # type: ignore[call-overload]
    assert order is not None
    assert merges.beat_merge(session, order.id, order.merge_epoch)
    assert merges.requeue(session, order, "the target moved")


def a_cancel(session: Session, town: Town) -> None:
    assert lock_bead(session, "wait-0") is not None
    work.cancel(session, town.id, "wait-0")


HOT: dict[str, Callable[[Session, Town], Any]] = {
    "idle tick": lambda session, _town: claims.towns_with_work(session),
    "something due": lambda session, town: claims.something_due(session, town.id),
    "batch": a_batch,
    "room": lambda session, town: load.load_room(session, town.id, claims.clock(session)),
    "room with an open breaker": a_breaker,
    "heartbeat": a_heartbeat,
    "another call": a_call,
    "done": a_done,
    "failed": a_failure,
    "merge": a_merge_under_way,
    "cancel": a_cancel,
}


def test_no_hot_query_reads_a_growing_table_through(old_town: Town) -> None:
    """G7. One database for all of them: it takes a few seconds to make."""
    slips = []
    for name, use in HOT.items():
        with transaction() as session, explained() as found:
            use(session, old_town)
            session.flush()
            session.rollback()
        slips += [f"{name}: {each}" for each in found]
    assert not slips, "\n".join(slips)


def test_a_scan_is_seen(town: Town) -> None:
    with transaction() as session, explained() as found:
        session.execute(text("SELECT count(*) FROM beads WHERE title = :title"), {"title": "x"})
    assert found[0].startswith("beads (values): SELECT count")
