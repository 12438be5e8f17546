"""Rework: beads whose agents mend what holds a merge request, and what becomes of it then.

A merge request waits for such a bead as long as it is held and `rework_id` names it. The bead's end moves the request's
head and lifts the hold; it opens no request of its own.
"""

from uuid import UUID

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from gastown.db import gastown_now
from gastown.models import Bead, MergeRequest, Rig
from gastown.states import REWORKED, BeadStatus, MergeStatus, Purpose, Resolution
from gastown.store import agents, beads, briefing, escalations
from gastown.store.moves import lock_bead, move, record, set_bead
from gastown.store.orders import head_ref_of
from gastown.store.requests import LIFTED

REWORK = (Purpose.CONFLICT, Purpose.REWORK)
MERGE_FAILED = "merge_failed"  # the failure code of the source bead
INHERITED = ("run:", "family:")  # labels by which somebody waits for a bead, or bounds what follows from it


def create(session: Session, merge_id: int, purpose: Purpose, agent: str) -> bool:
    """One more round: a bead that starts from the request's head. False: the request is not what it was any more.

    The source bead is locked.
    """
    request = _lock(session, merge_id)
    if not _is_held(request) or request.rework_id is not None or request.rework_agent != agent:
        return False
    source, rig = session.get_one(Bead, request.bead_id), session.get_one(Rig, request.rig_id)
    row = {
        "rig_id": rig.id,
        "title": briefing.title_of(source, request),
        "body": briefing.body_of(source, request, rig, _earlier(session, request)),
        "labels": [label for label in source.labels if label.startswith(INHERITED)],
        "agent": agent,
        "priority": max(source.priority - 1, 0),
    }
    [rework_id] = beads.insert_beads(session, source.town_id, [row], "reconciler")
    base = {"base_sha": request.head_sha, "base_ref": head_ref_of(session, request)}
    set_bead(session, rework_id, purpose=purpose, mr_id=request.id, **base)
    _update(session, request, rework_id=rework_id, rounds=request.rounds + 1)
    message = f"{rework_id} is to mend what holds its merge (round {request.rounds + 1}): {request.held_reason}"
    record(session, source.town_id, "rework_asked", message, actor="reconciler", bead_id=source.id, rework=rework_id)
    return True


def finish(session: Session, bead: Bead, dispatch_id: UUID, head_sha: str | None, actor: str) -> None:
    """An attempt on a rework bead is done: its head takes the place of the request's, and the merge is tried again.

    An unchanged head is fine. `head_sha` None: nothing is left of the work, so the merge stays held, and a person is
    asked. Of a request that waits for it no more, the head is kept, and that is all. Both beads are locked.
    """
    assert bead.mr_id is not None
    request = _lock(session, bead.mr_id)
    source_id, waits = request.bead_id, is_awaited(request, bead)
    if not waits:
        message = f"done, but {source_id} waits for it no more; what it made is kept: gastown attempts {bead.id}"
        beads.close_bead(session, bead, Resolution.DONE if head_sha else Resolution.NO_CHANGES, actor, message)
    elif head_sha is None:
        message = f"nothing of the work on {source_id} was left over {request.target}: it stays as it was"
        beads.close_bead(session, bead, Resolution.NO_CHANGES, actor, message)
        told = f"{source_id} is not merged: {bead.id} was to mend that, and left nothing of the work. Its head stays"
        escalations.raise_once(session, bead.town_id, escalations.REWORK + source_id, told, bead_id=source_id)
    else:
        same = head_sha == request.head_sha
        _update(session, request, **LIFTED, head_sha=head_sha, head_ref=None, dispatch_id=dispatch_id, review_id=None)
        what = f"left its head {head_sha[:12]} as it is" if same else f"made its head {head_sha[:12]}"
        message = f"{bead.id} {what}; its merge goes on"
        record(session, bead.town_id, "reworked", message, actor=actor, bead_id=source_id, dispatch_id=dispatch_id)
        beads.close_bead(session, bead, Resolution.DONE, actor, f"done: the merge of {source_id} goes on")


def is_awaited(request: MergeRequest, bead: Bead) -> bool:
    """Whether the request still waits for this bead to mend it."""
    return _is_held(request) and request.rework_id == bead.id


def fail_merge(session: Session, bead: Bead, merge_id: int, message: str) -> bool:
    """The request and its locked bead fail; who waits for the bead is woken, and a person is asked."""
    request = _lock(session, merge_id)
    if not _is_held(request) or request.rework_id is not None:
        return False
    values: dict[str, object] = {"closed_at": gastown_now(), "ready_at": None}
    values |= {"failure_code": MERGE_FAILED, "failure_message": message}
    if bead.purpose == Purpose.LANDING:
        values["wake_at"] = gastown_now()  # its convoy may end with it
    if not (
        move(session, MergeRequest, merge_id, MergeStatus.OPEN, MergeStatus.FAILED, look_at=None)
        and move(session, Bead, bead.id, BeadStatus.IN_REVIEW, BeadStatus.FAILED, **values)
    ):
        return False
    agents.unhook(session, bead.id)
    beads.wake_dependants(session, bead.id)
    record(session, bead.town_id, "failed", message, actor="reconciler", bead_id=bead.id, code=MERGE_FAILED)
    told = f"{bead.id} is {message}. Its commits are kept: see what holds it, then gastown bead retry {bead.id}"
    escalations.raise_once(session, bead.town_id, escalations.MERGE_FAILED + bead.id, told, bead_id=bead.id)
    return True


def cancel_for(session: Session, bead_id: str, actor: str, message: str) -> list[Bead]:
    """The beads that are made for this one's merges are canceled, also those that failed: nobody is asked about them
    any more. They are locked with it, ascending.

    Their agents and attempts are the caller's to release; a tick does it otherwise, as it looks at them now.
    """
    made = [lock_bead(session, each) for each in beads.made_for(session, bead_id)]
    canceled = [bead for bead in made if bead is not None and bead.status != BeadStatus.CLOSED]
    for bead in canceled:
        beads.close_bead(session, bead, Resolution.CANCELED, actor, message)
    return canceled


def reopen_from_merge(session: Session, bead: Bead, request: MergeRequest, actor: str) -> None:
    """A locked bead is worked on again, from the head of its request, and told what held that."""
    beads.reopen(session, bead, actor, base_sha=request.head_sha, base_ref=head_ref_of(session, request))
    if request.held_reason is not None:
        set_bead(session, bead.id, failure_message=f"{request.held_reason}\n\n{request.held_output or ''}".strip())


def failed_request(session: Session, bead_id: str) -> MergeRequest | None:
    """The last request of a bead, if that was given up."""
    newest = select(MergeRequest).where(MergeRequest.bead_id == bead_id).order_by(MergeRequest.id.desc()).limit(1)
    request = session.scalar(newest)
    return request if request is not None and request.status == MergeStatus.FAILED else None


def _earlier(session: Session, request: MergeRequest) -> list[str]:
    """The rounds before, the first one first."""
    rounds = select(Bead.id).where(Bead.mr_id == request.id, Bead.purpose.in_(REWORK)).order_by(Bead.created_at)
    return list(session.scalars(rounds))


def _is_held(request: MergeRequest) -> bool:
    return request.status == MergeStatus.OPEN and request.held_code in REWORKED


def _lock(session: Session, merge_id: int) -> MergeRequest:
    statement = select(MergeRequest).where(MergeRequest.id == merge_id).with_for_update(key_share=True)
    return session.scalars(statement.execution_options(populate_existing=True)).one()


def _update(session: Session, request: MergeRequest, **values: object) -> None:
    statement = update(MergeRequest).where(MergeRequest.id == request.id).values(**values)
    session.execute(statement.execution_options(synchronize_session=False))
