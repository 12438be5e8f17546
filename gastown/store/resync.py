"""The safety net: what no wake-up reached, and what no constraint can forbid. Both ought to be empty."""

from sqlalchemy import text, update
from sqlalchemy.orm import Session

from gastown.db import gastown_now
from gastown.models import Bead
from gastown.states import TERMINAL, Verdict

# verdicts in which a bead rightly sleeps until somebody wakes it
SLEEPING = (Verdict.BLOCKED, Verdict.BLOCKER_FAILED, Verdict.HELD, Verdict.MERGE_HELD, Verdict.AWAITING_MERGE)

INVARIANTS = {
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
          AND NOT EXISTS (SELECT 1 FROM agents a WHERE a.bead_id = b.id AND a.status = 'working')""",
    "a bead in review with no unfinished merge request": """
        SELECT b.id FROM beads b WHERE b.status = 'in_review' AND NOT EXISTS (
            SELECT 1 FROM merge_requests m WHERE m.bead_id = b.id AND m.status NOT IN ('closed', 'failed'))""",
    "a bead that is merged without a merged request": """
        SELECT b.id FROM beads b WHERE b.resolution = 'merged' AND NOT EXISTS (
            SELECT 1 FROM merge_requests m WHERE m.bead_id = b.id AND m.merged_sha IS NOT NULL)""",
    "a request that is merged while its bead is not": """
        SELECT m.bead_id FROM merge_requests m JOIN beads b ON b.id = m.bead_id
        WHERE m.merged_sha IS NOT NULL AND b.resolution IS DISTINCT FROM 'merged'""",
    "an accepted done that another attempt followed before anybody asked": """
        SELECT d.bead_id FROM dispatches d JOIN dispatches n ON n.bead_id = d.bead_id AND n.epoch > d.epoch
        JOIN beads b ON b.id = d.bead_id WHERE d.status = 'succeeded' AND d.epoch > b.attempts_from""",
    "a terminal bead with a live attempt or a hooked agent that nothing will wake": """
        SELECT b.id FROM beads b WHERE b.status IN ('closed', 'failed') AND b.wake_at IS NULL AND (
            EXISTS (SELECT 1 FROM agents a WHERE a.bead_id = b.id) OR EXISTS (SELECT 1 FROM dispatches d
              WHERE d.bead_id = b.id AND d.status IN ('queued', 'starting', 'running')))""",
}


def find_violations(session: Session) -> list[str]:
    """Each invariant that is broken at this moment, with the beads that break it."""
    found = []
    for name, query in INVARIANTS.items():
        beads = sorted(set(session.scalars(text(query))))
        if beads:
            found.append(f"{name}: {', '.join(map(str, beads[:20]))}")
    return found


def wake_forgotten(session: Session) -> int:
    """Has all that is not terminal looked at. How many ought to have been due already: a forgotten wake-up each."""
    asleep = (Bead.status.not_in(TERMINAL), Bead.wake_at.is_(None), Bead.ready_at.is_(None))
    statement = update(Bead).where(*asleep).values(wake_at=gastown_now()).returning(Bead.verdict)
    verdicts = list(session.scalars(statement.execution_options(synchronize_session=False)))
    return sum(verdict not in SLEEPING for verdict in verdicts)
