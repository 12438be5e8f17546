"""The decision log: each verdict when it or its reason changes, with the view it was made from."""

from collections.abc import Sequence
from datetime import datetime
from typing import cast

from sqlalchemy import Boolean, DateTime, Table, bindparam, case, func, update
from sqlalchemy.orm import Session

from gastown.models import Bead, DecisionRow
from gastown.reconcile.decision import Decision
from gastown.reconcile.views import BeadView, dump
from gastown.states import Verdict
from gastown.store.views import LoadedBead


def note_decisions(session: Session, decided: Sequence[tuple[LoadedBead, BeadView, Decision]], now: datetime) -> None:
    """Sets when each bead is looked at next, and logs what changed. One statement for all beads of a batch."""
    if not decided:
        return
    for bead, view, decision in decided:
        if (bead.verdict, bead.verdict_rule) != (decision.verdict, decision.rule) or _tells_more(bead, decision):
            session.add(
                DecisionRow(
                    at=now,
                    town_id=bead.town_id,
                    bead_id=bead.id,
                    verdict=decision.verdict,
                    reason=decision.reason,
                    rule=decision.rule,
                    next_look=decision.next_look,
                    view=dump(view),
                )
            )
    session.flush()
    table = cast(Table, Bead.__table__)
    statement = (
        update(table)
        .where(table.c.id == bindparam("key"))
        .values(
            # an action on another bead of this batch may have woken this one meanwhile
            wake_at=func.least(table.c.wake_at, bindparam("next_look", type_=DateTime(timezone=True))),
            ready_at=case((bindparam("is_ready", type_=Boolean), func.coalesce(table.c.ready_at, now)), else_=None),
            verdict=bindparam("new_verdict"),
            verdict_reason=bindparam("new_reason"),
            verdict_rule=bindparam("new_rule"),
            looked_at=now,
        )
    )
    session.connection().execute(
        statement,
        [
            {
                "key": bead.id,
                "next_look": decision.next_look,
                "is_ready": decision.verdict is Verdict.READY,
                "new_verdict": decision.verdict,
                "new_reason": decision.reason,
                "new_rule": decision.rule,
            }
            for bead, _view, decision in decided
        ],
    )


def _tells_more(bead: LoadedBead, decision: Decision) -> bool:
    """The same verdict for another reason. A later time alone is no other reason."""
    return decision.verdict is not Verdict.COOLDOWN and bead.verdict_reason != decision.reason
