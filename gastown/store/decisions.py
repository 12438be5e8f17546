"""The decision log: each verdict when it or its reason changes, with the view it was made from."""

import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from sqlalchemy import text
from sqlalchemy.orm import Session

from gastown.reconcile.decision import Decision
from gastown.reconcile.views import BeadView, dump
from gastown.states import Verdict
from gastown.store.views import Loaded, LoadedBead

# One parameter for all rows: an array for each column costs three times as much to write down.
# An action on another bead of the batch may have woken this one meanwhile: claiming had cleared its wake_at.
_NOTE = text(f"""
WITH decided AS MATERIALIZED (
    SELECT * FROM json_to_recordset(CAST(:decided AS json)) AS decided (
        place int, town_id bigint, bead_id text, verdict text, reason text, rule text, next_look timestamptz,
        view jsonb)
), logged AS (
    INSERT INTO decisions (at, town_id, bead_id, verdict, reason, rule, next_look, view)
    SELECT CAST(:now AS timestamptz), town_id, bead_id, verdict, reason, rule, next_look, view
    FROM decided WHERE view IS NOT NULL ORDER BY place
)
UPDATE beads SET wake_at = least(beads.wake_at, decided.next_look),
    ready_at = CASE WHEN decided.verdict = '{Verdict.READY}' THEN coalesce(beads.ready_at, :now) END,
    verdict = decided.verdict, verdict_reason = decided.reason, verdict_rule = decided.rule, looked_at = :now
FROM decided WHERE beads.id = decided.bead_id""")


def note_decisions(session: Session, decided: Sequence[tuple[LoadedBead, BeadView, Decision]], now: datetime) -> None:
    """Sets when each bead is looked at next, and logs what changed. One statement for all beads of a batch."""
    if not decided:
        return
    rows = [
        {
            "place": place,
            "town_id": bead.town_id,
            "bead_id": bead.id,
            "verdict": decision.verdict,
            "reason": decision.reason,
            "rule": decision.rule,
            "next_look": None if decision.next_look is None else decision.next_look.isoformat(),
            "view": dump(view) if _is_new(bead, decision) else None,  # only what is new is logged
        }
        for place, (bead, view, decision) in enumerate(decided)
    ]
    session.execute(_NOTE, {"now": now, "decided": json.dumps(rows)})


def _is_new(bead: LoadedBead, decision: Decision) -> bool:
    return (bead.verdict, bead.verdict_rule) != (decision.verdict, decision.rule) or _tells_more(bead, decision)


def _tells_more(bead: LoadedBead, decision: Decision) -> bool:
    """The same verdict for another reason. A later time alone is no other reason."""
    return decision.verdict is not Verdict.COOLDOWN and bead.verdict_reason != decision.reason


def found_ready(decided: Sequence[tuple[LoadedBead, BeadView, Decision]], now: datetime) -> dict[str, Loaded]:
    """Of beads whose decisions this transaction has noted: those that only a slot is missing for, as they are now.

    A second look would find the same. Nothing was done about them, and nobody else changes what their rules read, in
    rows beside theirs as well, without locking or waking them.
    """
    found = {}
    for bead, view, decision in decided:
        if decision.verdict is Verdict.READY and not decision.actions:
            verdict, reason, rule = decision.verdict, decision.reason, decision.rule
            noted = replace(bead, verdict=verdict, verdict_reason=reason, verdict_rule=rule, looked_at=now)
            found[bead.id] = noted, view
    return found
