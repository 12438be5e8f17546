"""What must hold whenever nothing is under way: for the end of any test that has been at the database."""

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from gastown.models import Bead, DecisionRow
from gastown.reconcile import decide
from gastown.reconcile.actions import Escalate
from gastown.reconcile.views import load
from gastown.states import TERMINAL, Verdict
from gastown.store.claims import clock
from gastown.store.policies import load_policies, policy_of
from gastown.store.resync import find_violations
from gastown.store.views import load_views

# a start goes on by itself, and is looked at on time: nothing is to be done because it came one step further
UNDER_WAY: set[str | None] = {Verdict.DISPATCH, Verdict.AWAITING_START, Verdict.AWAITING_AGENT}


def check_invariants(session: Session) -> None:
    """No invariant is broken, no wake-up was forgotten, and every stored decision replays."""
    assert find_violations(session) == []
    assert forgotten(session) == []
    replay_decisions(session)


def replay_decisions(session: Session) -> int:
    """Each decision in the log, made again from its stored view: the same in every part. How many there were."""
    rows = session.scalars(select(DecisionRow).order_by(DecisionRow.id)).all()
    for row in rows:
        again = decide(load(row.view), row.at, policy_of(session, session.get_one(Bead, row.bead_id).rig_id))
        stored = (row.verdict, row.reason, row.rule, row.next_look)
        assert (str(again.verdict), again.reason, again.rule, again.next_look) == stored, f"decision {row.id}"
    return len(rows)


def forgotten(session: Session) -> list[str]:
    """Beads that are not due, of which the rules would now say something else than they last said: nobody woke them."""
    found = []
    now = clock(session)
    later = or_(Bead.wake_at.is_(None), Bead.wake_at > now)
    for bead in session.scalars(select(Bead).where(later, Bead.status.not_in(TERMINAL))).all():
        if bead.verdict is None and bead.wake_at is not None:
            continue  # its first decision raised, and waits out its delay
        numbers = load_policies(session, bead.town_id)
        [(_bead, view)] = load_views(session, [bead.id], now, numbers)
        decision = decide(view, now, policy_of(session, bead.rig_id))
        same = str(decision.verdict) == bead.verdict or {str(decision.verdict), bead.verdict} <= UNDER_WAY
        if bead.wake_at is None:
            repeatable = all(isinstance(action, Escalate) for action in decision.actions)  # asked once, however often
            same &= decision.reason == bead.verdict_reason and repeatable
        if not same:
            found.append(f"{bead.id} sleeps as {bead.verdict} ({bead.verdict_reason}), and is {decision.verdict}")
    return found
