"""What must hold whenever nothing is under way: for the end of any test that has been at the database."""

from sqlalchemy import select
from sqlalchemy.orm import Session

from gastown.models import Bead, DecisionRow
from gastown.reconcile import decide
from gastown.reconcile.views import load
from gastown.states import TERMINAL
from gastown.store.claims import clock
from gastown.store.policies import town_policy
from gastown.store.resync import find_violations
from gastown.store.views import load_views


def check_invariants(session: Session) -> None:
    """No invariant is broken, no wake-up was forgotten, and every stored decision replays."""
    assert find_violations(session) == []
    assert forgotten(session) == []
    replay_decisions(session)


def replay_decisions(session: Session) -> int:
    """Each decision in the log, made again from its stored view: the same in every part. How many there were."""
    rows = session.scalars(select(DecisionRow).order_by(DecisionRow.id)).all()
    for row in rows:
        again = decide(load(row.view), row.at, town_policy(session, row.town_id))
        stored = (row.verdict, row.reason, row.rule, row.next_look)
        assert (str(again.verdict), again.reason, again.rule, again.next_look) == stored, f"decision {row.id}"
    return len(rows)


def forgotten(session: Session) -> list[str]:
    """Sleeping beads of which the rules would now say something else than they last said: a wake-up is missing."""
    found = []
    asleep = select(Bead).where(Bead.wake_at.is_(None), Bead.status.not_in(TERMINAL))
    for bead in session.scalars(asleep).all():
        policy = town_policy(session, bead.town_id)
        [(_bead, view)] = load_views(session, [bead.id], clock(session), policy)
        decision = decide(view, clock(session), policy)
        if (str(decision.verdict), decision.reason) != (bead.verdict, bead.verdict_reason) or decision.actions:
            found.append(f"{bead.id} sleeps as {bead.verdict} ({bead.verdict_reason}), and is {decision.verdict}")
    return found
