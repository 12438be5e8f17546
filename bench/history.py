"""Years of rows: closed beads with their attempts, merges, events and decisions; and beads that wait for others."""

import time

from bench.server import execute

# of each closed bead: one attempt, one merge, three events, two decisions
CLOSED = (
    """INSERT INTO beads (id, town_id, rig_id, title, status, resolution, closed_at, started_at, created_at, verdict)
       SELECT 'old-' || n, {town}, {rig}, 'done long ago', 'closed', 'merged', at, at, at, 'terminal'
       FROM generate_series({first}, {last}) n,
            LATERAL (SELECT gastown_now() - n * interval '31 seconds' AS at) t""",
    """INSERT INTO dispatches (town_id, rig_id, bead_id, agent_id, node_id, epoch, preset, status, queued_at,
                               starting_at, started_at, heartbeat_at, ended_at, exit_code)
       SELECT {town}, {rig}, 'old-' || n, {agent}, {node}, 1, 'shell', 'succeeded', at, at, at, at, at, 0
       FROM generate_series({first}, {last}) n,
            LATERAL (SELECT gastown_now() - n * interval '31 seconds' AS at) t""",
    """INSERT INTO merge_requests (town_id, rig_id, bead_id, dispatch_id, target, head_sha, priority, status,
                                   merged_sha, merged_at)
       SELECT town_id, rig_id, bead_id, id, 'main', repeat('a', 40), 2, 'closed', repeat('b', 40), ended_at
       FROM dispatches WHERE bead_id IN (SELECT 'old-' || n FROM generate_series({first}, {last}) n)""",
    """INSERT INTO events (town_id, bead_id, actor, kind, message)
       SELECT {town}, 'old-' || n, 'reconciler', kind, 'as it happened then'
       FROM generate_series({first}, {last}) n, unnest(ARRAY['created', 'dispatched', 'merged']) kind""",
    """INSERT INTO decisions (town_id, bead_id, verdict, reason, rule, view)
       SELECT {town}, 'old-' || n, verdict, 'as it was then', verdict, '{{}}'
       FROM generate_series({first}, {last}) n, unnest(ARRAY['dispatch', 'awaiting_agent']) verdict""",
)
BLOCKED = (
    """INSERT INTO beads (id, town_id, rig_id, title, status, verdict, verdict_reason, verdict_rule, looked_at)
       SELECT 'wait-' || n, {town}, {rig}, 'waits', 'open', 'blocked', 'waits for wait-0', 'wait_for_blockers',
              gastown_now() FROM generate_series({first}, {last}) n""",
    """INSERT INTO bead_dependencies (bead_id, blocker_id)
       SELECT 'wait-' || n, 'wait-' || (CASE WHEN n % 10 = 0 THEN 0 ELSE n - 1 END)
       FROM generate_series({first}, {last}) n""",
)
HEAD_OF_ALL = """INSERT INTO beads (id, town_id, rig_id, title, status, held_at, held_reason, verdict, verdict_reason)
    VALUES ('wait-0', {town}, {rig}, 'holds others', 'open', gastown_now(), 'on purpose', 'held', 'held: on purpose')
    ON CONFLICT DO NOTHING"""
SLICE = 100_000


class History:
    """How much of it there is, in one town. It only grows."""

    def __init__(self, town: int, rig: int, agent: int, node: int) -> None:
        self._ids = {"town": town, "rig": rig, "agent": agent, "node": node}
        self.closed = self.blocked = 0

    def grow(self, *, closed: int = 0, blocked: int = 0) -> float:
        """At least so many of each; how long that took, in seconds."""
        began = time.perf_counter()
        self.closed = self._add(CLOSED, self.closed, closed)
        if blocked:
            execute(HEAD_OF_ALL.format(**self._ids))
        self.blocked = self._add(BLOCKED, self.blocked, blocked)
        execute("ANALYZE")
        return time.perf_counter() - began

    def _add(self, statements: tuple[str, ...], there: int, wanted: int) -> int:
        for first in range(there + 1, wanted + 1, SLICE):
            last = min(first + SLICE - 1, wanted)
            execute(*(each.format(first=first, last=last, **self._ids) for each in statements))
        return max(there, wanted)
