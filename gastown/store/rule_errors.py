"""A bead about which a rule raises, or whose rows cannot be read: that costs it a delay, and nothing else (S37)."""

from datetime import datetime, timedelta

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from gastown.models import Bead, Dispatch, Event
from gastown.reconcile.policy import Policy
from gastown.states import LIVE
from gastown.store import counters, escalations
from gastown.store.moves import record, set_bead
from gastown.store.resync import TOO_LATE_S

KIND = "rule_raised"  # of the event
ASKED_AFTER = 3  # times in a row; the first ones may go by themselves
LONGEST = timedelta(hours=1)  # between two looks
LONGEST_LIVE = timedelta(seconds=TOO_LATE_S)  # with a live attempt: later, resync takes the look for a forgotten one
MESSAGE_CHARACTERS = 300


def put_off(session: Session, bead_id: str, now: datetime, policy: Policy, fault: BaseException | str) -> timedelta:
    """The locked bead is looked at again after a while: each time in a row twice as long. How long that is.

    A decision that works ends the row, since it sets `looked_at`.
    """
    bead = session.execute(select(Bead.town_id, Bead.looked_at).where(Bead.id == bead_id)).one()
    before = select(func.count()).where(Event.bead_id == bead_id, Event.kind == KIND)
    if bead.looked_at is not None:
        before = before.where(Event.at > bead.looked_at)
    times = 1 + session.scalars(before).one()
    live = session.scalar(select(Dispatch.id).where(Dispatch.bead_id == bead_id, Dispatch.status.in_(LIVE)))
    longest = max(LONGEST, policy.rule_error_delay) if live is None else LONGEST_LIVE
    delay: timedelta = min(policy.rule_error_delay * int(2 ** min(times - 1, 20)), longest)
    set_bead(session, bead_id, wake_at=now + delay, ready_at=None)
    words = fault if isinstance(fault, str) else f"{type(fault).__name__}: {fault}"
    message = f"no decision about {bead_id}, {times} times in a row: {words[:MESSAGE_CHARACTERS]}"
    record(session, bead.town_id, KIND, message, actor="reconciler", bead_id=bead_id)
    counters.count(session, counters.RULE_ERRORS)
    if times >= ASKED_AFTER:
        told = f"{message}. A fault of Gastown's own, please report it; the reconciler's log has more"
        escalations.raise_once(session, bead.town_id, escalations.RULE + bead_id, told, bead_id=bead_id)
    return delay
