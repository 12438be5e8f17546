"""The usual heartbeat: those that come at the same time in one statement. What is unusual goes through `admit`."""

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import Connection, text
from sqlalchemy.orm import Session

from gastown.agent.protocol import Heartbeat
from gastown.states import BeadStatus, DispatchStatus

# Why one statement is as safe as `admit`, which looks again after it has locked the bead. The statement sees the rows
# as they were when it began. What others commit until it gets to a row reaches it in two ways (READ COMMITTED):
# - It locks the bead's row. If that was changed (canceled, closed, failed, opened again), Postgres puts the condition
#   on beads.status to its new version. A bead that is no longer in progress gives no row. One that is locked by others
#   gives none either: `admit` waits for it, so that nobody's heartbeat waits for somebody else's bead.
# - It then updates the dispatch's row. If that was changed since the statement began (lost, stopped, ended), Postgres
#   puts dispatches.status = 'running' to the new version, and the update hits nothing. `stop_code`, `cost_usd` and
#   what is returned are of the new version too.
# The agent's row is not locked, so a hook that was taken meanwhile is not seen. Whoever takes a hook from a running
# attempt ends the attempt or its bead in the same transaction and under the bead's lock, and both are looked at again.
# A new epoch needs the old one to have ended, so it shows as that. What the statement does not see yet (a first call,
# an adoption) makes it hit nothing; no row is no answer, and `admit` decides.
_BEAT = text(f"""
WITH said AS (
    SELECT * FROM unnest(
        CAST(:token_hashes AS bytea[]), CAST(:phases AS text[]), CAST(:progressed AS boolean[]),
        CAST(:tools AS boolean[]), CAST(:costs AS double precision[])
    ) AS said (token_hash, phase, progressed, tool_running, cost_usd)
), admitted AS MATERIALIZED (
    SELECT dispatches.id, dispatches.agent_id, dispatches.bead_id, said.*
    FROM said
    JOIN api_tokens ON api_tokens.token_hash = said.token_hash
    JOIN dispatches ON dispatches.id = api_tokens.dispatch_id
    JOIN beads ON beads.id = dispatches.bead_id
    WHERE dispatches.status = '{DispatchStatus.RUNNING}'
      AND (dispatches.cap_usd IS NULL OR dispatches.stop_code IS NOT NULL OR said.cost_usd <= dispatches.cap_usd)
      AND beads.status = '{BeadStatus.IN_PROGRESS}'
    ORDER BY beads.id
    FOR NO KEY UPDATE OF beads SKIP LOCKED
)
UPDATE dispatches
SET heartbeat_at = gastown_now(),
    lease_expires_at = gastown_now() + dispatches.lease_s * interval '1 second',
    progress_at = CASE WHEN admitted.progressed THEN gastown_now() ELSE dispatches.progress_at END,
    phase = admitted.phase,
    tool_running = admitted.tool_running,
    cost_usd = greatest(dispatches.cost_usd, admitted.cost_usd)
FROM admitted JOIN agents ON agents.id = admitted.agent_id AND agents.bead_id = admitted.bead_id
WHERE dispatches.id = admitted.id AND dispatches.status = '{DispatchStatus.RUNNING}'
RETURNING admitted.token_hash, dispatches.stop_code, dispatches.stop_reason
""")


class Beaten(NamedTuple):
    """A heartbeat that was taken. With a `stop_code`, the attempt is asked to wind down."""

    stop_code: str | None = None
    stop_reason: str | None = None
    over_cap: bool = False  # and nobody has asked it to stop so far: the reconciler has to look


def beat(connection: Connection | Session, said: Sequence[tuple[bytes, Heartbeat]]) -> dict[bytes, Beaten]:
    """Heartbeats by the hash of their token: those of attempts that run, are wanted and below their cap.

    Who is missing in the answer is none of these, or is being changed: `admit` has to say what it is.
    """
    beats = [each for _, each in said]
    values = {
        "token_hashes": [token_hash for token_hash, _ in said],
        "phases": [each.phase for each in beats],
        "progressed": [each.progressed for each in beats],
        "tools": [each.tool_running for each in beats],
        "costs": [each.cost_usd for each in beats],
    }
    return {row.token_hash: Beaten(row.stop_code, row.stop_reason) for row in connection.execute(_BEAT, values)}
