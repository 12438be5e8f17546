"""Reviews: beads whose agents read a merge request's head, and what was said of it, by them or by a person.

A request's `review_id` is the review that it waits for. Any answer takes that away, and so does what moves the head:
a review that is none's `review_id` any more is not waited for, and changes nothing whatever it says.
"""

from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, and_, select, update
from sqlalchemy.orm import Session

from gastown.models import Bead, ConvoyBranch, Dispatch, Event, MergeRequest, Rig
from gastown.states import TERMINAL, BeadStatus, HoldCode, MergeStatus, Purpose, Resolution, StopCode
from gastown.store import agents, attempts, beads, looks, review_prompt, staging
from gastown.store.moves import lock_beads, move, record, set_bead, wake
from gastown.store.orders import head_ref_of
from gastown.store.requests import wake_next

ANSWERED = "review_answered"  # the event on a review's bead, with the verdict and the comment
REVIEWED = "reviewed"  # the event on the bead whose work was reviewed
COPIED_LABELS = ("run:", "family:")  # whoever follows the source sees its reviews as well
TITLE_CHARACTERS = 500


def create_review(session: Session, merge_id: int, agent: str) -> bool:
    """A bead whose agent reads the head as it is now. The row of the request's bead is locked.

    False: the request is held, being merged, approved or under review by now.
    """
    request = session.get(MergeRequest, merge_id, populate_existing=True)
    if request is None or request.status != MergeStatus.OPEN or request.held_code is not None:
        return False
    if request.review_id is not None or request.batch_of is not None or request.reviewed_sha == request.head_sha:
        return False
    source = session.get_one(Bead, request.bead_id)
    row = {
        "rig_id": request.rig_id,
        "title": f"Review {source.id}: {source.title}"[:TITLE_CHARACTERS],
        "body": review_prompt.body_of(source, request, session.get_one(Rig, request.rig_id), _base(session, request)),
        "labels": [label for label in source.labels if label.startswith(COPIED_LABELS)],
        "agent": agent,
        "priority": max(0, request.priority - 1),
    }
    [review_id] = beads.insert_beads(session, request.town_id, [row], "refinery")
    start = {"base_sha": request.head_sha, "base_ref": head_ref_of(session, request)}
    set_bead(session, review_id, purpose=Purpose.REVIEW, mr_id=merge_id, **start)
    still = (
        MergeRequest.status == MergeStatus.OPEN,
        MergeRequest.head_sha == request.head_sha,
        MergeRequest.held_code.is_(None),
        MergeRequest.review_id.is_(None),
    )
    if not _update(session, merge_id, *still, review_id=review_id):
        return False
    message = f"{agent} is to review {request.head_sha[:12]}: {review_id}"
    record(session, request.town_id, "review_asked", message, actor="refinery", bead_id=source.id)
    return True


def _base(session: Session, request: MergeRequest) -> str:
    """The branch that the head is compared with: its target, or what that will be made from."""
    begins = and_(ConvoyBranch.rig_id == request.rig_id, ConvoyBranch.branch == request.target)
    unmade = select(ConvoyBranch.target).where(begins, ConvoyBranch.head_sha.is_(None))
    return session.scalar(unmade) or request.target


def ask_again(session: Session, bead: Bead, actor: str) -> bool:
    """The review that it waits for is over without an answer: the next look asks for another one. False: it is not,
    or something else holds the merge.

    The bead's row is locked.
    """
    ended = select(Bead.id).where(Bead.id == MergeRequest.review_id, Bead.status.in_(TERMINAL)).exists()
    waits = select(MergeRequest.id).where(MergeRequest.bead_id == bead.id, MergeRequest.status == MergeStatus.OPEN)
    merge_id = session.scalar(waits.where(ended, MergeRequest.held_code.is_(None)))
    if merge_id is None:
        return False
    end_reviews(session, merge_id, f"{bead.id} is to be reviewed anew", actor)
    return True


def awaits_review(session: Session, request: MergeRequest) -> bool:
    """Whether its rig wants its head approved before it is merged, and nobody has."""
    asked = session.scalar(select(Rig.review_agent).where(Rig.id == request.rig_id)) is not None
    return asked and request.reviewed_sha != request.head_sha


def hold_for_review(session: Session, request: MergeRequest) -> bool:
    """Whether a claim of it has to be refused until somebody approved its head. Its bead's row is locked.

    One that waited for the outside while its rig began to ask for reviews waits no more: it is reviewed first. A head
    that was handed to a person is in that person's hands, until a retry asks for it back.
    """
    handed_over = request.held_code is not None and request.published_sha == request.head_sha
    if request.status != MergeStatus.OPEN or handed_over or not awaits_review(session, request):
        return False
    if request.held_code is not None and request.look_at is not None:
        lifted = {"held_code": None, "held_reason": None, "held_output": None, "look_at": None}
        _update(session, request.id, MergeRequest.status == MergeStatus.OPEN, asked_at=None, **lifted)
    wake(session, request.bead_id)
    return True


def wake_waiting(session: Session, rig_id: int) -> None:
    """The rig asks for reviews from now on, or for none any more: those that wait for one are looked at."""
    waiting = select(Bead.id).join(MergeRequest, MergeRequest.bead_id == Bead.id)
    waiting = waiting.where(MergeRequest.rig_id == rig_id, MergeRequest.status == MergeStatus.OPEN)
    locked = lock_beads(session, set(session.scalars(waiting.where(MergeRequest.held_code.is_(None)))))
    wake(session, *sorted(locked))


def request_of(session: Session, review: Bead) -> MergeRequest | None:
    """The merge request that waits for this review, as it is now. None: none does (any more)."""
    if review.purpose != Purpose.REVIEW or review.mr_id is None:
        return None
    request = session.get_one(MergeRequest, review.mr_id, populate_existing=True)
    over = request.status in (MergeStatus.CLOSED, MergeStatus.FAILED)
    return request if request.review_id == review.id and not over else None


def answer_of(session: Session, review_id: str) -> tuple[str, str] | None:
    """(verdict, comment), as an agent gave it."""
    query = select(Event.data).where(Event.bead_id == review_id, Event.kind == ANSWERED).order_by(Event.id).limit(1)
    found = session.scalar(query)
    return None if found is None else (found["verdict"], found["comment"])


def note_answer(session: Session, review: Bead, dispatch_id: UUID, actor: str, verdict: str, comment: str) -> None:
    about: dict[str, Any] = {"bead_id": review.id, "dispatch_id": dispatch_id}
    said = f"{verdict}: {_first_line(comment)}" if comment else verdict
    record(session, review.town_id, ANSWERED, said, actor=actor, verdict=verdict, comment=comment, **about)


def drop(session: Session, request: MergeRequest) -> None:
    """It waits for no review any more."""
    _update(session, request.id, review_id=None)


def approve_head(session: Session, request: MergeRequest, head_sha: str, comment: str, who: str, actor: str) -> bool:
    """This head may be merged. A review that asked for changes of it is overruled. The bead's row is locked.

    False: the head moved, or it is over.
    """
    values = {"reviewed_sha": head_sha, "review_notes": comment or None, "review_id": None, "asked_at": None}
    if request.held_code == HoldCode.CHANGES_REQUESTED:
        values |= {"held_code": None, "held_reason": None, "held_output": None, "look_at": None}
        values |= {"rework_agent": None, "rework_id": None}
    unfinished = MergeRequest.status.not_in((MergeStatus.CLOSED, MergeStatus.FAILED))
    if not _update(session, request.id, unfinished, MergeRequest.head_sha == head_sha, **values):
        return False
    wake(session, request.bead_id)
    _tell(session, request, f"{who} approves {head_sha[:12]}", comment, actor)
    return True


def request_changes(
    session: Session, request: MergeRequest, head_sha: str, comment: str, who: str, actor: str, mender: str | None
) -> bool:
    """Held until its head has changed, by an agent of preset `mender` if there is one. The bead's row is locked.

    False: the head moved, or it is over or being pushed.
    """
    reason = f"{who} asks for changes: {_first_line(comment)}"
    values = {
        "held_code": HoldCode.CHANGES_REQUESTED,
        "held_reason": reason,
        "held_output": comment,
        "look_at": None,
        "asked_at": None,
        "rework_agent": mender,
        "rework_id": None,
        "review_id": None,
        "reviewed_sha": None,
        "review_notes": comment,
        "staged_sha": None,
        "staged_at": None,
    }
    if request.status == MergeStatus.IN_PROGRESS:
        ended = {"lease_expires_at": None, "step": None}
        done = move(session, MergeRequest, request.id, MergeStatus.IN_PROGRESS, MergeStatus.OPEN, **values, **ended)
    else:
        waits = (MergeRequest.status == MergeStatus.OPEN, MergeRequest.head_sha == head_sha)
        done = _update(session, request.id, *waits, **values)
    if not done:
        return False
    staging.unstage(session, request)
    wake(session, request.bead_id)
    wake_next(session, request)
    _tell(session, request, f"{who} asks for changes of {head_sha[:12]}", comment, actor)
    code = HoldCode.CHANGES_REQUESTED
    record(session, request.town_id, looks.HELD, reason, actor="refinery", bead_id=request.bead_id, code=code)
    return True


def unclosed_reviews(session: Session, merge_id: int) -> list[str]:
    """The beads of a request's reviews that are not closed, ascending: to be locked, with others, before they end."""
    query = select(Bead.id).where(Bead.mr_id == merge_id, Bead.purpose == Purpose.REVIEW)
    return list(session.scalars(query.where(Bead.status != BeadStatus.CLOSED).order_by(Bead.id)))


def end_reviews(session: Session, merge_id: int, why: str, actor: str = "refinery") -> list[Dispatch]:
    """Nobody needs to hear any more what these reviews would say. The attempts that were stopped for that.

    Their rows are locked (`unclosed_reviews`), and that of the request's bead. Whatever moves a head calls this. One
    that failed is closed as well: nothing else could, and it would ask for a person for good.
    """
    _update(session, merge_id, MergeRequest.review_id.is_not(None), review_id=None)
    stopped = []
    for review_id in unclosed_reviews(session, merge_id):
        review = session.get_one(Bead, review_id, populate_existing=True)
        live = attempts.stop_live(session, review, StopCode.CANCELED, why)
        close(session, review, why, actor)
        stopped += [] if live is None else [live]
    return stopped


def close(session: Session, review: Bead, message: str, actor: str) -> bool:
    """A locked review ends: `done` if it was answered. Its attempt is the caller's to end."""
    answer = answer_of(session, review.id)
    resolution = Resolution.CANCELED if answer is None else Resolution.DONE
    said = message if answer is None else f"it said: {answer[0]}"
    closed = beads.close_bead(session, review, resolution, actor, said)
    agents.unhook(session, review.id)
    return closed


def _tell(session: Session, request: MergeRequest, what: str, comment: str, actor: str) -> None:
    line = _first_line(comment)
    message = f"{what}: {line}" if line else what
    record(session, request.town_id, REVIEWED, message, actor=actor, bead_id=request.bead_id, comment=comment)


def _first_line(comment: str) -> str:
    line = next((line.strip() for line in comment.splitlines() if line.strip()), "")
    return line if len(line) <= 200 else line[:199] + "…"


def _update(session: Session, merge_id: int, *where: ColumnElement[bool], **values: object) -> bool:
    statement = (
        update(MergeRequest).where(MergeRequest.id == merge_id, *where).values(**values).returning(MergeRequest.id)
    )
    return session.execute(statement.execution_options(synchronize_session=False)).first() is not None
