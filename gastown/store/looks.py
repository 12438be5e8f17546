"""When a merge that waits for the outside is looked at again: soon at first, then twice as late each time."""

from datetime import datetime, timedelta

from sqlalchemy import select
from sqlalchemy.orm import Session

from gastown.db import gastown_now
from gastown.models import Event, MergeRequest
from gastown.states import HoldCode

HELD = "merge_held"  # the event that begins a wait
AT_MOST_S = 300.0  # each look at a remote is a fetch or a push
CHECKOUT_AT_MOST_S = 30.0  # a look at a checkout is cheap, and whoever cleaned it up waits for the merge


def is_same(request: MergeRequest, code: HoldCode, reason: str) -> bool:
    """Whether it waits for what it waited for already. The words of one outage vary: `after 131 ms`."""
    return request.held_code == code and (code is HoldCode.UNREACHABLE or request.held_reason == reason)


def next_look(session: Session, request: MergeRequest, code: HoldCode, reason: str, look_s: float) -> datetime:
    """After as long as it has been held by now: 10, 10, 20, 40, ... s with a `look_s` of 10."""
    now = session.scalars(select(gastown_now())).one()
    longest = max(look_s, CHECKOUT_AT_MOST_S if code is HoldCode.DIRTY_CHECKOUT else AT_MOST_S)
    if not is_same(request, code, reason):
        return now + timedelta(seconds=look_s)
    began = select(Event.at).where(Event.bead_id == request.bead_id, Event.kind == HELD).order_by(Event.id.desc())
    since = session.scalar(began.limit(1))
    held_s = longest if since is None else (now - since).total_seconds()
    return now + timedelta(seconds=min(max(held_s, look_s), longest))
