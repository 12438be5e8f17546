"""The decision log: each verdict when it or its reason changes, with the view it was made from."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import text
from sqlalchemy.orm import Session

from gastown.reconcile.decision import Decision
from gastown.reconcile.views import BeadView, dumps
from gastown.states import Verdict
from gastown.store.views import LoadedBead

_LOG = text("""
INSERT INTO decisions (at, town_id, bead_id, verdict, reason, rule, next_look, view)
SELECT CAST(:now AS timestamptz), town_id, bead_id, verdict, reason, rule, next_look, CAST(view AS jsonb)
FROM unnest(CAST(:town_ids AS bigint[]), CAST(:bead_ids AS text[]), CAST(:verdicts AS text[]), CAST(:reasons AS text[]),
            CAST(:rules AS text[]), CAST(:next_looks AS timestamptz[]), CAST(:views AS text[])) WITH ORDINALITY
     AS new (town_id, bead_id, verdict, reason, rule, next_look, view, place) ORDER BY place""")

# An action on another bead of this batch may have woken this one meanwhile: claiming had cleared its wake_at.
_SCHEDULE = text(f"""
UPDATE beads SET wake_at = least(beads.wake_at, new.next_look),
    ready_at = CASE WHEN new.verdict = '{Verdict.READY}' THEN coalesce(beads.ready_at, CAST(:now AS timestamptz)) END,
    verdict = new.verdict, verdict_reason = new.reason, verdict_rule = new.rule, looked_at = CAST(:now AS timestamptz)
FROM unnest(CAST(:bead_ids AS text[]), CAST(:verdicts AS text[]), CAST(:reasons AS text[]), CAST(:rules AS text[]),
            CAST(:next_looks AS timestamptz[])) AS new (bead_id, verdict, reason, rule, next_look)
WHERE beads.id = new.bead_id""")


def note_decisions(session: Session, decided: Sequence[tuple[LoadedBead, BeadView, Decision]], now: datetime) -> None:
    """Sets when each bead is looked at next, and logs what changed: two statements for all beads of a batch."""
    news = [each for each in decided if _is_new(each[0], each[2])]
    if news:
        added: dict[str, list[object]] = {"town_ids": [each[0].town_id for each in news]}
        added["views"] = [dumps(view) for _bead, view, _decision in news]
        session.execute(_LOG, {"now": now, **_columns(news), **added})
    if decided:
        session.execute(_SCHEDULE, {"now": now, **_columns(decided)})


def _columns(decided: Sequence[tuple[LoadedBead, BeadView, Decision]]) -> dict[str, list[object]]:
    made = [decision for _bead, _view, decision in decided]
    return {
        "bead_ids": [bead.id for bead, _view, _decision in decided],
        "verdicts": [str(decision.verdict) for decision in made],
        "reasons": [decision.reason for decision in made],
        "rules": [decision.rule for decision in made],
        "next_looks": [decision.next_look for decision in made],
    }


def _is_new(bead: LoadedBead, decision: Decision) -> bool:
    return (bead.verdict, bead.verdict_rule) != (decision.verdict, decision.rule) or _tells_more(bead, decision)


def _tells_more(bead: LoadedBead, decision: Decision) -> bool:
    """The same verdict for another reason. A later time alone is no other reason."""
    return decision.verdict is not Verdict.COOLDOWN and bead.verdict_reason != decision.reason
