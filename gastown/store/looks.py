"""When a merge that waits for the outside is looked at again: soon at first, then twice as late each time."""

from datetime import datetime, timedelta

from sqlalchemy import select
from sqlalchemy.orm import Session

from gastown.db import gastown_now
from gastown.models import Event, MergeRequest
from gastown.states import HoldCode, MergeStatus
from gastown.store.moves import lock_bead, record, wake
from gastown.store.policies import policy_of

HELD = "merge_held"  # the event that begins a wait
AT_MOST_S = 300.0  # each look at a remote is a fetch or a push
APPROVAL_AT_MOST_S = 60.0  # a look at what a person has to merge lists two branches, mostly
CHECKOUT_AT_MOST_S = 30.0  # a look at a checkout is cheap, and whoever cleaned it up waits for the merge

_AT_MOST_S = {
    HoldCode.DIRTY_CHECKOUT: CHECKOUT_AT_MOST_S,
    HoldCode.AWAITING_APPROVAL: APPROVAL_AT_MOST_S,
    HoldCode.BRANCH_GONE: APPROVAL_AT_MOST_S,
}


def is_same(request: MergeRequest, code: HoldCode, reason: str) -> bool:
    """Whether it waits for what it waited for already. The words of one outage vary: `after 131 ms`."""
    return request.held_code == code and (code is HoldCode.UNREACHABLE or request.held_reason == reason)


def hold_back(session: Session, merge_id: int, reason: str) -> None:
    """What a merge needs to know is stored wrong, so that nobody could claim it: it is held until that is put right."""
    request = session.scalar(select(MergeRequest).where(MergeRequest.id == merge_id))
    bead = None if request is None else lock_bead(session, request.bead_id)
    if request is None or bead is None:
        return
    session.refresh(request)
    if request.status != MergeStatus.OPEN:
        return
    code, known = HoldCode.MERGE_ERROR, is_same(request, HoldCode.MERGE_ERROR, reason)
    request.look_at = next_look(session, request, code, reason, policy_of(session, request.rig_id).merge_look_s)
    request.held_code, request.held_reason, request.asked_at = code, reason, None
    wake(session, bead.id)
    if not known:
        record(session, bead.town_id, HELD, reason, actor="refinery", bead_id=bead.id, code=code)


def next_look(session: Session, request: MergeRequest, code: HoldCode, reason: str, look_s: float) -> datetime:
    """After as long as it has been held by now: 10, 10, 20, 40, ... s with a `look_s` of 10."""
    now = session.scalars(select(gastown_now())).one()
    longest = max(look_s, _AT_MOST_S.get(code, AT_MOST_S))
    if not is_same(request, code, reason):
        return now + timedelta(seconds=look_s)
    began = select(Event.at).where(Event.bead_id == request.bead_id, Event.kind == HELD).order_by(Event.id.desc())
    since = session.scalar(began.limit(1))
    held_s = longest if since is None else (now - since).total_seconds()
    return now + timedelta(seconds=min(max(held_s, look_s), longest))
