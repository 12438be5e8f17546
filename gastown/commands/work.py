"""What people ask for: sling, cancel, retry, hold, release, dispatch now."""

from dataclasses import dataclass, field

from sqlalchemy import select
from sqlalchemy.orm import Session

from gastown.db import gastown_now
from gastown.errors import Refused, UsageError
from gastown.models import FOR_A_MERGE, Bead, Dispatch, MergeRequest, Node, Rig
from gastown.reconcile.actions import StopContainer, bead_named
from gastown.states import (
    LIVE,
    PRIORITIES,
    TERMINAL,
    BeadStatus,
    FailureClass,
    MergeStatus,
    Purpose,
    Resolution,
    StopCode,
)
from gastown.store import agents, attempts, batches, beads, escalations, landings, requests, reviews, rework
from gastown.store.moves import record, set_bead, wake

TITLE_CHARACTERS = 500
BODY_BYTES = 1024 * 1024  # a prompt, not a data set


@dataclass(frozen=True, kw_only=True)
class NewBead:
    title: str
    body: str = ""
    agent: str | None = None
    priority: str = "medium"
    after: list[str] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)


def check_new_bead(new: NewBead) -> None:
    """Raises UsageError for what cannot be stored or shown."""
    if not new.title.strip():
        raise UsageError("a bead needs a title", hint='gastown sling "what is to be done"')
    if len(new.title) > TITLE_CHARACTERS:
        raise UsageError(
            f"the title has {len(new.title)} characters, at most {TITLE_CHARACTERS}", hint="put it into --body"
        )
    if "\x00" in new.title + new.body:
        raise UsageError("title and body cannot hold NUL characters", hint="is the file a text file?")
    try:
        _title, body = new.title.encode(), new.body.encode()
    except UnicodeEncodeError as error:
        raise UsageError("title or body is not valid UTF-8", hint="look at what was typed or piped in") from error
    if len(body) > BODY_BYTES:
        raise UsageError(f"the body is larger than {BODY_BYTES} bytes", hint="put it into the repository and name it")
    if new.priority not in PRIORITIES:
        raise UsageError(f"there is no priority {new.priority}", hint=f"one of {', '.join(PRIORITIES)}")


def sling(session: Session, town_id: int, rig: Rig, new: NewBead, *, actor: str = "user") -> str:
    """A new bead on a rig; its id. The reconciler starts it as soon as nothing holds it."""
    check_new_bead(new)
    [bead_id] = beads.insert_beads(session, town_id, [row_of(rig, new)], actor)
    beads.add_blockers(session, bead_id, new.after, town_id)
    return bead_id


def row_of(rig: Rig, new: NewBead) -> dict[str, object]:
    """A checked bead as `insert_beads` wants it. Raises UsageError when nothing says which agent is to do it."""
    if new.agent is None and rig.agent is None:
        raise UsageError(f"rig {rig.name} has no agent of its own, so the bead has to say", hint="--agent PRESET")
    text = {"title": new.title, "body": new.body, "labels": new.labels, "agent": new.agent}
    return {**text, "rig_id": rig.id, "priority": PRIORITIES.index(new.priority)}


def cancel(session: Session, town_id: int, bead_id: str, *, actor: str = "user") -> list[StopContainer]:
    """The bead is closed, its attempt stopped, its agent freed, all in one transaction; so are beads made for its
    merge. One that failed is called off by that: its convoy lands without it, and who waits for it still waits.

    Raises Refused when it is closed already, or its merge is being pushed.
    """
    return cancel_locked(session, _lock_to_end(session, town_id, bead_id), actor)


def finish(session: Session, town_id: int, bead_id: str, note: str, *, actor: str = "user") -> list[StopContainer]:
    """What the bead was for is done by other means, as `note` says: it is closed as `done`, which releases those that
    wait for it. The rest is as in `cancel`: nothing of its own work is merged.

    Raises Refused also for a bead that was made for a merge, which waits for a head.
    """
    bead = _lock_to_end(session, town_id, bead_id)
    if bead.purpose in FOR_A_MERGE:
        hint = f"gastown bead cancel {bead_id}, then gastown mr list"
        raise Refused(f"{bead_id} was made by Gastown for a merge, which waits for what its agent says", hint=hint)
    said = f"done by other means: {note}"
    return _end_locked(session, bead, Resolution.DONE, said, f"said to be done by {actor}", actor)


def _lock_to_end(session: Session, town_id: int, bead_id: str) -> Bead:
    bead = beads.lock_known_bead(session, bead_id, town_id, dependants=True)
    if bead.status == BeadStatus.CLOSED:
        raise Refused(f"{bead_id} is {bead.resolution} already", hint=f"gastown bead show {bead_id}")
    if bead.purpose == Purpose.LANDING:
        raise Refused(f"{bead_id} lands convoy {bead.convoy_id}", hint=f"gastown convoy close {bead.convoy_id}")
    if bead.status == BeadStatus.FAILED:
        landings.forgive(session, bead)
    return bead


def cancel_locked(session: Session, bead: Bead, actor: str) -> list[StopContainer]:
    """Cancel a bead that is not closed, and that is locked together with those that wait for it."""
    return _end_locked(session, bead, Resolution.CANCELED, "canceled", f"canceled by {actor}", actor)


def _end_locked(
    session: Session, bead: Bead, resolution: Resolution, said: str, stopped: str, actor: str
) -> list[StopContainer]:
    _refuse_pushing(session, bead.id)
    beads.close_bead(session, bead, resolution, actor, said)
    made = rework.cancel_for(session, bead.id, actor, f"canceled with {bead.id}")
    stops = []
    for each in (bead, *made):
        live = attempts.stop_live(session, each, StopCode.CANCELED, stopped)
        agents.unhook(session, each.id)
        stops += [] if live is None else [_stop(session, live)]
    requests.close_request(session, bead)
    return stops


def retry(session: Session, town_id: int, bead_id: str, *, again: bool = False, actor: str = "user") -> str:
    """Go on with a bead that is stuck; what was done is returned in words.

    A held merge is tried again; `again` has the agent work on it once more, from its own head. A failed or canceled
    bead is opened again, and its attempts count from 0. Raises Refused where there is nothing to retry.
    """
    bead = beads.lock_known_bead(session, bead_id, town_id, dependants=True)
    if bead.status == BeadStatus.IN_REVIEW:
        return _retry_merge(session, bead, again, actor)
    if bead.status in (BeadStatus.OPEN, BeadStatus.IN_PROGRESS):
        if bead.not_before is None:
            raise Refused(f"{bead_id} is {bead.status}: there is nothing to retry", hint=f"gastown why {bead_id}")
        set_bead(session, bead_id, forced_at=gastown_now(), wake_at=gastown_now())
        record(session, town_id, "retried", "the backoff is cut short", actor=actor, bead_id=bead_id)
        return "its next attempt starts now"
    if bead.resolution in (Resolution.MERGED, Resolution.NO_CHANGES, Resolution.DONE):
        raise Refused(f"{bead_id} is {bead.resolution}: there is nothing to retry", hint='gastown sling "..." for more')
    if bead.purpose in FOR_A_MERGE:
        return _retry_made(session, bead, actor)
    if bead.purpose == Purpose.LANDING:
        return _retry_landing(session, bead, actor)
    landings.call_back(session, bead, actor)
    request = rework.failed_request(session, bead_id) if bead.failure_code == rework.MERGE_FAILED else None
    if request is not None:
        rework.reopen_from_merge(session, bead, request, actor)
        return "its agent works on it once more, from its own commits"
    beads.reopen(session, bead, actor)
    return "it is open again, and its attempts count from 0"


def _retry_landing(session: Session, bead: Bead, actor: str) -> str:
    if bead.status != BeadStatus.FAILED:
        raise Refused(f"convoy {bead.convoy_id} was closed", hint=f"gastown convoy show {bead.convoy_id}")
    landings.reopen_landing(session, bead, actor)
    return "its convoy is open again, and lands when its members are over"


def _retry_made(session: Session, bead: Bead, actor: str) -> str:
    """A bead that is made for a merge is worth another attempt while that waits for it, from the same commit."""
    request = session.get_one(MergeRequest, bead.mr_id, populate_existing=True)
    if request.status != MergeStatus.OPEN or bead.id not in (request.rework_id, request.review_id):
        raise Refused(f"{request.bead_id} waits for {bead.id} no more", hint=f"gastown why {request.bead_id}")
    beads.reopen(session, bead, actor, base_sha=bead.base_sha, base_ref=bead.base_ref)
    return "it is open again, and its attempts count from 0"


def _refuse_pushing(session: Session, bead_id: str) -> None:
    if batches.is_being_pushed(session, bead_id):
        raise Refused(f"{bead_id} is being pushed to its target right now", hint=f"gastown bead show {bead_id}")


def _retry_merge(session: Session, bead: Bead, again: bool, actor: str) -> str:
    if again:
        if bead.purpose == Purpose.LANDING:
            raise Refused(f"{bead.id} lands a convoy: it has no agent", hint=f"gastown bead retry {bead.id}")
        _refuse_pushing(session, bead.id)
        request = requests.close_request(session, bead)
        rework.cancel_for(session, bead.id, actor, f"{bead.id} is worked on once more instead")
        if request is None:
            beads.reopen(session, bead, actor)
        else:
            rework.reopen_from_merge(session, bead, request, actor)
        return "its agent works on it once more, from its own commits"
    if reviews.ask_again(session, bead, actor):
        wake(session, bead.id)
        record(session, bead.town_id, "retried", "another review is asked for", actor=actor, bead_id=bead.id)
        return "another review of it is asked for"
    if not requests.clear_hold(session, bead):
        raise Refused(f"{bead.id} is being merged: nothing holds it", hint=f"gastown why {bead.id}")
    canceled = rework.cancel_for(session, bead.id, actor, f"the merge of {bead.id} is tried again instead")
    escalations.settle(session, bead.town_id, escalations.REWORK + bead.id)
    wake(session, bead.id)
    record(session, bead.town_id, "retried", "the merge is tried again", actor=actor, bead_id=bead.id)
    return "its merge is tried again" + "".join(f"; {each.id}, which was to mend it, is canceled" for each in canceled)


def hold(session: Session, town_id: int, bead_id: str, reason: str, *, actor: str = "user") -> list[StopContainer]:
    """No attempt until it is released; one that runs is stopped with its work saved, and does not count."""
    bead = beads.lock_known_bead(session, bead_id, town_id)
    if bead.status in TERMINAL:
        raise Refused(f"{bead_id} is {bead.resolution or bead.status} already", hint=f"gastown bead show {bead_id}")
    if bead.status == BeadStatus.IN_REVIEW:
        raise Refused(f"the work on {bead_id} is done and being merged", hint=f"gastown bead cancel {bead_id}")
    live = attempts.stop_live(session, bead, StopCode.HELD, f"held by {actor}: {reason}")
    beads.hold_bead(session, bead, reason, actor)
    return [] if live is None else [_stop(session, live)]


def release(session: Session, town_id: int, bead_id: str, *, actor: str = "user") -> None:
    """It goes on. What it was held for by the rules counts as mended: a login, or a cap."""
    bead = beads.lock_known_bead(session, bead_id, town_id)
    if bead.status in TERMINAL:
        raise Refused(f"{bead_id} is {bead.resolution or bead.status} already", hint=f"gastown bead retry {bead_id}")
    if bead.held_at is None:
        raise Refused(f"{bead_id} is not held", hint=f"gastown why {bead_id}")
    values: dict[str, object] = {"held_at": None, "held_reason": None, "wake_at": gastown_now()}
    if bead.failure_class in (FailureClass.AUTH, FailureClass.BUDGET):
        values |= {"failure_class": None, "failure_code": None, "failure_message": None, "not_before": None}
    set_bead(session, bead_id, **values)
    escalations.settle(session, town_id, *(cause + bead_id for cause in escalations.HELD))
    record(session, town_id, "released", "released", actor=actor, bead_id=bead_id)


def force_dispatch(session: Session, bead_id: str, *, actor: str = "user") -> int:
    """First in order, and no cooldown; nothing else is skipped. Its town.

    Raises NotFound, or Refused when it is over, at work or being merged.
    """
    bead = session.get(Bead, bead_id)
    bead = beads.lock_known_bead(session, bead_id, -1 if bead is None else bead.town_id)
    if bead.status in TERMINAL:
        raise Refused(f"{bead_id} is {bead.resolution or bead.status}", hint=f"gastown bead retry {bead_id}")
    if bead.purpose == Purpose.LANDING:
        raise Refused(f"{bead_id} lands a convoy: it has no agent", hint=f"gastown convoy show {bead.convoy_id}")
    live = select(Dispatch.id).where(Dispatch.bead_id == bead_id, Dispatch.status.in_(LIVE))
    if bead.status == BeadStatus.IN_REVIEW or session.scalar(live) is not None:
        doing = "being merged" if bead.status == BeadStatus.IN_REVIEW else "being worked on"
        raise Refused(f"{bead_id} is {doing} already", hint=f"gastown why {bead_id}")
    set_bead(session, bead_id, forced_at=gastown_now(), wake_at=gastown_now())
    record(session, bead.town_id, "forced", "dispatch was asked for", actor=actor, bead_id=bead_id)
    return bead.town_id


def _stop(session: Session, dispatch: Dispatch) -> StopContainer:
    node, bead = session.get_one(Node, dispatch.node_id), session.get_one(Bead, dispatch.bead_id)
    return StopContainer(dispatch_id=str(dispatch.id), node=node.name, about=bead_named(bead.id, bead.title))


def live_attempts(session: Session, node: str) -> list[str]:
    """The ids of attempts that are live on a node, oldest first."""
    statement = (
        select(Dispatch.id)
        .join(Node, Node.id == Dispatch.node_id)
        .where(Node.name == node, Dispatch.status.in_(LIVE))
        .order_by(Dispatch.queued_at)
    )
    return [str(each) for each in session.scalars(statement)]
