"""The safety net: what no wake-up reached, and what no constraint can forbid. Both ought to be empty.

Whoever changes what a sleeping bead's rules read has to wake it. Each query here names one way to forget that, and
costs the same whatever the history; none of them wakes a bead that sleeps rightly.
"""

import re
from typing import NamedTuple

from sqlalchemy import text
from sqlalchemy.orm import Session

from gastown.models import one_of
from gastown.states import LIVE, MERGING, RELEASING, TERMINAL, BeadStatus, Verdict

# verdicts in which a bead rightly sleeps until somebody wakes it
OF_MERGES = (Verdict.MERGE_HELD, Verdict.AWAITING_MERGE, Verdict.AWAITING_REWORK, Verdict.AWAITING_REVIEW)
OF_CONVOYS = (Verdict.STAGED, Verdict.AWAITING_MEMBERS, Verdict.MEMBER_FAILED)
SLEEPING = (Verdict.BLOCKED, Verdict.BLOCKER_FAILED, Verdict.HELD, *OF_MERGES, *OF_CONVOYS)
BATCH = 2000  # beads that one statement wakes
TOO_LATE_S = 600  # after its lease nobody can still have a reason to look later
LATELY = 20_000  # events: every move writes one, so a broken invariant of history shows among the newest

_UNFINISHED = one_of("status", [each for each in BeadStatus if each not in TERMINAL])
_ASLEEP = f"b.{_UNFINISHED} AND b.status <> 'closed' AND b.wake_at IS NULL AND b.ready_at IS NULL"
_LIVE = one_of("d.status", LIVE)
_RELEASED = one_of("x.resolution", RELEASING)
_BLOCKERS = (
    "SELECT 1 FROM bead_dependencies e JOIN beads x ON x.id = e.blocker_id"
    " WHERE e.bead_id = b.id AND e.kind = 'blocks' AND "
)
_NOT_RELEASED = f"{_BLOCKERS} ({_RELEASED}) IS NOT TRUE"
_FAILED = f"{_BLOCKERS} {one_of('x.status', TERMINAL)} AND ({_RELEASED}) IS NOT TRUE"
_REQUEST = "SELECT 1 FROM merge_requests m WHERE m.bead_id = b.id AND m.status NOT IN ('closed', 'failed')"
_MEMBER = (
    "SELECT 1 FROM beads m WHERE m.convoy_id = b.convoy_id AND m.rig_id = b.rig_id AND m.purpose IS NULL"
    " AND b.purpose = 'landing' AND "
)
_CONVOY = "SELECT 1 FROM convoys c WHERE c.id = b.convoy_id AND "
_AWAITS_REVIEW = (
    "m.status = 'open' AND m.review_id IS NOT NULL AND m.reviewed_sha IS DISTINCT FROM m.head_sha"
    " AND EXISTS (SELECT 1 FROM rigs r WHERE r.id = m.rig_id AND r.review_agent IS NOT NULL)"
)

# Each with the reason why these beads ought to be awake: `b` is the bead. Whom one wakes, the next leaves out.
REASONS = {
    "terminal_not_cleaned_up": f"""
        (SELECT b.id FROM agents a JOIN beads b ON b.id = a.bead_id
         WHERE {one_of("b.status", TERMINAL)} AND b.wake_at IS NULL
         UNION SELECT b.id FROM dispatches d JOIN beads b ON b.id = d.bead_id
         WHERE {_LIVE} AND {one_of("b.status", TERMINAL)} AND b.wake_at IS NULL)""",
    "live_attempt_unwatched": f"""
        SELECT b.id FROM dispatches d JOIN beads b ON b.id = d.bead_id
        WHERE {_LIVE} AND b.{_UNFINISHED} AND (b.wake_at IS NULL OR d.status = 'running'
          AND b.wake_at > greatest(d.lease_expires_at, gastown_now()) + interval '{TOO_LATE_S} s')""",
    "agent_without_attempt": f"""
        SELECT b.id FROM agents a JOIN beads b ON b.id = a.bead_id
        WHERE a.status = 'working' AND b.{_UNFINISHED} AND b.wake_at IS NULL AND NOT EXISTS (
            SELECT 1 FROM dispatches d WHERE d.bead_id = a.bead_id AND {_LIVE})""",
    "never_decided": f"SELECT b.id FROM beads b WHERE {_ASLEEP} AND b.verdict IS NULL",
    "no_next_look": f"""
        SELECT b.id FROM beads b WHERE {_ASLEEP} AND (NOT ({one_of("b.verdict", SLEEPING)})
          OR b.status <> 'in_review' AND {one_of("b.verdict", OF_MERGES)})""",
    "started_unseen": f"""
        SELECT b.id FROM beads b WHERE {_ASLEEP} AND b.verdict = 'staged'
          AND NOT EXISTS ({_CONVOY} c.status = 'staged')""",
    "members_over": f"""
        SELECT b.id FROM beads b WHERE {_ASLEEP} AND b.verdict = 'awaiting_members'
          AND NOT EXISTS ({_MEMBER} NOT m.{one_of("status", TERMINAL)})""",
    "member_failed_unseen": f"""
        SELECT b.id FROM beads b WHERE {_ASLEEP} AND b.verdict = 'awaiting_members'
          AND EXISTS ({_MEMBER} m.status = 'failed') AND EXISTS ({_CONVOY} c.partial_at IS NULL)""",
    "no_member_failed": f"""
        SELECT b.id FROM beads b WHERE {_ASLEEP} AND b.verdict = 'member_failed'
          AND (NOT EXISTS ({_MEMBER} m.status = 'failed') OR EXISTS ({_CONVOY} c.partial_at IS NOT NULL))""",
    "convoy_not_ended": f"""
        SELECT b.id FROM convoys c JOIN beads b ON b.convoy_id = c.id AND b.purpose = 'landing'
        WHERE c.status IN ('open', 'landing') AND b.wake_at IS NULL AND {one_of("b.status", TERMINAL)}
          AND NOT EXISTS (SELECT 1 FROM beads o WHERE o.convoy_id = c.id AND o.purpose = 'landing'
            AND (o.wake_at IS NOT NULL OR NOT o.{one_of("status", TERMINAL)}))""",
    "held_no_more": f"SELECT b.id FROM beads b WHERE {_ASLEEP} AND b.verdict = 'held' AND b.held_at IS NULL",
    "held_unseen": f"""
        SELECT b.id FROM beads b WHERE {_ASLEEP} AND b.status IN ('open', 'in_progress')
          AND b.verdict <> 'held' AND b.held_at IS NOT NULL""",
    "blockers_released": f"""
        SELECT b.id FROM beads b WHERE {_ASLEEP} AND b.verdict = 'blocked' AND NOT EXISTS ({_NOT_RELEASED})""",
    "blocker_failed_unseen": f"""
        SELECT b.id FROM beads b WHERE {_ASLEEP} AND b.verdict = 'blocked' AND EXISTS ({_FAILED})""",
    "no_blocker_failed": f"""
        SELECT b.id FROM beads b WHERE {_ASLEEP} AND b.verdict = 'blocker_failed' AND NOT EXISTS ({_FAILED})""",
    "merge_not_held": f"""
        SELECT b.id FROM beads b WHERE {_ASLEEP} AND b.status = 'in_review' AND b.held_at IS NULL
          AND EXISTS ({_REQUEST} AND NOT (m.status = 'open' AND m.held_reason IS NOT NULL AND m.look_at IS NULL)
          AND NOT (b.verdict = 'awaiting_review' AND {_AWAITS_REVIEW}))""",
    "review_over_unseen": f"""
        SELECT b.id FROM beads b WHERE {_ASLEEP} AND b.verdict = 'awaiting_review' AND EXISTS (
            {_REQUEST} AND EXISTS (SELECT 1 FROM beads x WHERE x.id = m.review_id AND x.closed_at > b.looked_at))""",
    "hold_unseen": f"""
        SELECT b.id FROM beads b
        WHERE {_ASLEEP} AND b.status = 'in_review' AND b.verdict IN ('awaiting_merge', 'awaiting_review')
          AND EXISTS ({_REQUEST} AND m.status = 'open' AND m.held_reason IS NOT NULL)""",
    "rework_over": f"""
        SELECT b.id FROM beads b WHERE {_ASLEEP} AND b.status = 'in_review' AND b.verdict = 'awaiting_rework'
          AND NOT EXISTS ({_REQUEST} AND EXISTS (
            SELECT 1 FROM beads w WHERE w.id = m.rework_id AND w.{_UNFINISHED}))""",
}

# What a constraint cannot hold. `{beads}` stands for all beads, or for those that something happened to of late.
_INVARIANTS = {
    "a live attempt whose agent is not at work on its bead": """
        SELECT d.bead_id FROM dispatches d JOIN beads b ON b.id = d.bead_id JOIN agents a ON a.id = d.agent_id
        WHERE d.status IN ('queued', 'starting', 'running') AND b.status = 'in_progress'
          AND (a.bead_id IS DISTINCT FROM d.bead_id OR a.status <> 'working')""",
    "a working agent with no live attempt behind it": """
        SELECT a.bead_id FROM agents a WHERE a.status = 'working' AND NOT EXISTS (
            SELECT 1 FROM dispatches d WHERE d.agent_id = a.id AND d.bead_id = a.bead_id
              AND d.status IN ('queued', 'starting', 'running'))""",
    "a live attempt that a newer epoch has superseded": """
        SELECT d.bead_id FROM dispatches d JOIN dispatches n ON n.bead_id = d.bead_id AND n.epoch > d.epoch
        WHERE d.status IN ('queued', 'starting', 'running')""",
    "a bead in progress that nobody holds and nothing will wake": """
        SELECT b.id FROM beads b WHERE b.status = 'in_progress' AND b.wake_at IS NULL AND b.ready_at IS NULL
          AND b.held_at IS NULL AND NOT EXISTS (SELECT 1 FROM bead_dependencies e WHERE e.bead_id = b.id)
          AND NOT EXISTS (SELECT 1 FROM convoys c WHERE c.id = b.convoy_id AND c.status = 'staged')
          AND NOT EXISTS (SELECT 1 FROM agents a WHERE a.bead_id = b.id AND a.status = 'working')""",
    "a bead in review with no unfinished merge request": """
        SELECT b.id FROM beads b WHERE b.status = 'in_review' AND NOT EXISTS (
            SELECT 1 FROM merge_requests m WHERE m.bead_id = b.id AND m.status NOT IN ('closed', 'failed'))""",
    "a bead that is merged without a merged request": """
        SELECT b.id FROM {beads} b WHERE b.resolution = 'merged' AND NOT EXISTS (
            SELECT 1 FROM merge_requests m WHERE m.bead_id = b.id AND m.merged_sha IS NOT NULL)""",
    "a request that is merged while its bead is not": """
        SELECT b.id FROM {beads} b JOIN merge_requests m ON m.bead_id = b.id
        WHERE m.merged_sha IS NOT NULL AND b.resolution IS DISTINCT FROM 'merged'""",
    "a merge request that waits for a rework of another one": """
        SELECT m.bead_id FROM merge_requests m JOIN beads b ON b.id = m.rework_id
        WHERE m.status NOT IN ('closed', 'failed')
          AND (b.mr_id IS DISTINCT FROM m.id OR b.purpose NOT IN ('conflict', 'rework'))""",
    "a rework that was done while its merge request waits for it": """
        SELECT m.bead_id FROM merge_requests m JOIN beads b ON b.id = m.rework_id
        WHERE m.status = 'open' AND m.held_code IS NOT NULL AND b.resolution = 'done'""",
    "a merge request in a batch that nobody merges": f"""
        SELECT m.bead_id FROM merge_requests m JOIN merge_requests l ON l.id = m.batch_of
        WHERE NOT l.{one_of("status", MERGING)} OR (l.rig_id, l.target) <> (m.rig_id, m.target)""",
    "an accepted done that another attempt followed before anybody asked": """
        SELECT b.id FROM {beads} b JOIN dispatches d ON d.bead_id = b.id AND d.epoch > b.attempts_from
        JOIN dispatches n ON n.bead_id = d.bead_id AND n.epoch > d.epoch WHERE d.status = 'succeeded'""",
    "a terminal bead with a live attempt or a hooked agent that nothing will wake": f"""
        {REASONS["terminal_not_cleaned_up"]}""",
}
_NEWEST = f"SELECT bead_id FROM events WHERE id > (SELECT coalesce(max(id), 0) - {LATELY} FROM events)"
_RECENT = f"(SELECT * FROM beads WHERE id = ANY (ARRAY({_NEWEST} AND bead_id IS NOT NULL)))"
INVARIANTS = {name: query.replace("{beads}", "beads") for name, query in _INVARIANTS.items()}
LATE_INVARIANTS = {name: query.replace("{beads}", _RECENT) for name, query in _INVARIANTS.items()}


class Violation(NamedTuple):
    name: str
    bead_ids: tuple[str, ...]

    @property
    def cause(self) -> str:
        """Of the escalation: one for each invariant."""
        return "invariant:" + re.sub(r"\W+", "_", self.name)

    def __str__(self) -> str:
        more = f" and {len(self.bead_ids) - 20} more" if len(self.bead_ids) > 20 else ""
        return f"{self.name}: {', '.join(self.bead_ids[:20])}{more}"


def check_invariant(session: Session, name: str, *, lately: bool = False) -> Violation | None:
    """Which beads break it at this moment. `lately`: of what is over, only what happened in the last events counts."""
    query = (LATE_INVARIANTS if lately else INVARIANTS)[name]
    beads = tuple(sorted(map(str, set(session.scalars(text(query))))))
    return Violation(name, beads) if beads else None


def find_violations(session: Session) -> list[str]:
    """Each invariant that is broken at this moment, with the beads that break it."""
    return [str(found) for name in INVARIANTS if (found := check_invariant(session, name)) is not None]


def wake_for(session: Session, reason: str, limit: int = BATCH) -> int:
    """Has beads that were forgotten for this reason looked at; how many. Rows that somebody is at are left to him."""
    statement = text(f"""
        UPDATE beads SET wake_at = gastown_now() WHERE id IN (
            SELECT id FROM beads WHERE id IN ({REASONS[reason]} LIMIT :limit)
            ORDER BY id FOR NO KEY UPDATE SKIP LOCKED
        ) RETURNING id""")
    return len(session.execute(statement, {"limit": limit}).all())


def wake_forgotten(session: Session) -> dict[str, int]:
    """Has all beads looked at that ought to have been due already; how many for each reason: forgotten wake-ups."""
    return {reason: woken for reason in REASONS if (woken := wake_for(session, reason))}
