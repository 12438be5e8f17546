"""What agents and people say of a merge request's head: it may be merged, or something has to change first."""

from pathlib import Path
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from gastown.agent.protocol import Done, Review, Reviewed
from gastown.db import gastown_now
from gastown.errors import Refused, UsageError
from gastown.models import Agent, Bead, Dispatch, MergeRequest, Node
from gastown.presets import reads
from gastown.reconcile.actions import StopContainer, bead_named
from gastown.states import (
    AgentStatus,
    DispatchStatus,
    FailureCode,
    HoldCode,
    MergeStatus,
    Purpose,
)
from gastown.store import attempts, limits, reviews, staging
from gastown.store.beads import get_bead
from gastown.store.moves import lock_beads, lock_with_dependants, move
from gastown.store.orders import mender_of

APPROVE, CHANGES = "approve", "changes"
COMMENT_CHARACTERS = 20_000  # as much as is kept of a gate's output
HOW = "gastown self review approve|changes --comment TEXT"
NO_VERDICT = f"it ended and gave no verdict: {HOW}"


def answer(session: Session, dispatch_id: UUID, said: Review, home: Path) -> Reviewed:
    """What a review's agent says of the head that it was given. One that is not waited for any more changes nothing.

    The same answer again is told the same. Raises Fenced, UsageError, and Refused for another one.
    """
    comment = _checked(said.verdict, said.comment)
    _lock_in_order(session, dispatch_id)
    review, dispatch = attempts.admit(session, dispatch_id)
    if review.purpose != Purpose.REVIEW or review.base_sha is None:
        raise Refused(f"{review.id} is no review, so there is nothing to answer", hint="gastown self show")
    before = reviews.answer_of(session, review.id)
    if before == (said.verdict, comment):
        return Reviewed(counted=True, message=f"{review.id} was answered so already: {said.verdict}")
    if before is not None:
        raise Refused(f"{review.id} was answered already: {before[0]}", hint="end now, with exit code 0")
    agent = session.get_one(Agent, dispatch.agent_id)
    reviews.note_answer(session, review, dispatch_id, agent.name, said.verdict, comment)
    request, sha = reviews.request_of(session, review), review.base_sha
    if request is not None and request.head_sha == sha:
        if said.verdict == APPROVE:
            reviews.approve_head(session, request, sha, comment, review.id, agent.name)
            return Reviewed(counted=True, message=f"{request.bead_id} may be merged at {sha[:12]}")
        if request.status == MergeStatus.OPEN and request.batch_of is None and request.rework_id is None:
            mender = _mender(session, request, home)
            reviews.request_changes(session, request, sha, comment, review.id, agent.name, mender)
            return Reviewed(counted=True, message=f"{request.bead_id} is held until that has changed")
        reviews.drop(session, request)  # its rig has stopped asking for reviews, and it went on, or is being mended
    return Reviewed(counted=False, message=f"nobody waits for {review.id} any more, so this changes nothing")


def _lock_in_order(session: Session, dispatch_id: UUID) -> None:
    """The review and the bead whose work it reads, in the one order that nobody deadlocks in."""
    query = select(Dispatch.bead_id, MergeRequest.bead_id).join(Bead, Bead.id == Dispatch.bead_id)
    found = session.execute(query.join(MergeRequest, MergeRequest.id == Bead.mr_id).where(Dispatch.id == dispatch_id))
    lock_beads(session, {bead_id for row in found for bead_id in row})


def _checked(verdict: str, comment: str) -> str:
    if verdict not in (APPROVE, CHANGES):
        raise UsageError(f"there is no verdict {verdict[:50]!r}", hint=HOW)
    words = comment.replace("\x00", "").strip()
    try:
        words.encode()
    except UnicodeEncodeError as error:
        raise UsageError("the comment is not valid UTF-8", hint="look at what was typed or piped in") from error
    if len(words) > COMMENT_CHARACTERS:
        what = f"the comment has {len(words)} characters, at most {COMMENT_CHARACTERS} fit"
        raise UsageError(what, hint="say what matters most")
    if verdict == CHANGES and not words:
        raise UsageError("it does not say what has to change", hint="--comment 'file, line, and what is wrong'")
    return words


def _mender(session: Session, request: MergeRequest, home: Path) -> str | None:
    """The preset whose agent is to make the changes. None: a person has to."""
    wanted = mender_of(session, request)
    return wanted if reads(wanted, home) else None


def finish(session: Session, review: Bead, dispatch: Dispatch, done: Done) -> str | None:
    """How the attempt of a locked review ended, whatever it committed. None: as any other that failed, or was stopped.

    What counts is its answer, not its exit code. Without one that is waited for, it failed.
    """
    answered = reviews.answer_of(session, review.id) is not None
    if done.outcome == "stopped" or (done.outcome == "failed" and not answered):
        return None
    if not answered and reviews.request_of(session, review) is not None:
        attempts.fail(session, review, dispatch, FailureCode.AGENT_FAILED, NO_VERDICT, done.exit_code)
        return DispatchStatus.FAILED
    agent = session.get_one(Agent, dispatch.agent_id)
    values = {"ended_at": gastown_now(), "exit_code": done.exit_code}
    move(session, Dispatch, dispatch.id, DispatchStatus.RUNNING, DispatchStatus.SUCCEEDED, **values)
    move(session, Agent, agent.id, AgentStatus.WORKING, AgentStatus.IDLE, idle_since=gastown_now())
    reviews.close(session, review, "nobody waited for it any more", agent.name)
    if done.outcome == "succeeded":
        limits.note_success(session, review.town_id, dispatch.preset)
    return DispatchStatus.SUCCEEDED


def approve(
    session: Session, town_id: int, bead_id: str, comment: str = "", *, actor: str = "user"
) -> tuple[str, list[StopContainer]]:
    """A person lets the head of a bead's merge request be merged, whatever reviews of it said or would say.

    What that comes to, in words, and the attempts that were stopped. Raises NotFound, and Refused with nothing to
    approve, or while somebody changes it.
    """
    words = _checked(APPROVE, comment)
    request = _lock_request(session, town_id, bead_id)
    if request.status != MergeStatus.OPEN or request.batch_of is not None:
        raise Refused(f"{bead_id} is being merged already", hint=f"gastown mr show {bead_id}")
    _refuse_rework(session, request)
    asked = request.held_code == HoldCode.CHANGES_REQUESTED
    stopped = reviews.end_reviews(session, request.id, f"{actor} approved {bead_id}", actor)
    reviews.approve_head(session, request, request.head_sha, words, actor, actor)
    head = request.head_sha[:12]
    if request.held_reason is not None and not asked:
        return f"{bead_id} is approved at {head}, and still held: {request.held_reason}", _stops(session, stopped)
    return f"{bead_id} may be merged at {head}", _stops(session, stopped)


def reject(
    session: Session, town_id: int, bead_id: str, comment: str, home: Path, *, actor: str = "user"
) -> tuple[str, list[StopContainer]]:
    """A person wants changes before the head of a bead's merge request is merged. Like `approve`.

    A merge that has not come to its push is given up for that.
    """
    words = _checked(CHANGES, comment)
    request = _lock_request(session, town_id, bead_id)
    if request.status == MergeStatus.PUSHING or staging.is_being_landed(session, request):
        raise Refused(f"{bead_id} is being pushed to {request.target} right now", hint=f"gastown mr show {bead_id}")
    if request.batch_of is not None or _leads_batch(session, request):
        what = f"{bead_id} is being merged together with others"
        raise Refused(what, hint=f"try again in a moment, or gastown bead cancel {bead_id}")
    _refuse_rework(session, request)
    stopped = reviews.end_reviews(session, request.id, f"{actor} asked for changes of {bead_id}", actor)
    mender = _mender(session, request, home)
    reviews.request_changes(session, request, request.head_sha, words, actor, actor, mender)
    by = f"by an agent ({mender})" if mender else f"by a person: gastown bead retry --again {bead_id}"
    return f"{bead_id} is held until that has changed, {by}", _stops(session, stopped)


def _lock_request(session: Session, town_id: int, bead_id: str) -> MergeRequest:
    """The unfinished request of a bead, whose row is locked together with those of its reviews."""
    get_bead(session, bead_id, town_id)
    query = select(MergeRequest).where(
        MergeRequest.bead_id == bead_id, MergeRequest.status.not_in((MergeStatus.CLOSED, MergeStatus.FAILED))
    )
    found = session.scalar(query)
    under_way = [] if found is None else reviews.unclosed_reviews(session, found.id)
    lock_with_dependants(session, bead_id, *under_way)
    request = session.scalar(query.execution_options(populate_existing=True))
    if request is None:
        raise Refused(f"{bead_id} has nothing to merge", hint=f"gastown why {bead_id}")
    return request


def _refuse_rework(session: Session, request: MergeRequest) -> None:
    mends = None if request.rework_id is None else session.get_one(Bead, request.rework_id)
    if mends is not None and mends.closed_at is None:
        what = f"{mends.id} mends it right now, and its head will change"
        raise Refused(what, hint=f"gastown bead cancel {mends.id}, and then this again")


def _leads_batch(session: Session, request: MergeRequest) -> bool:
    return session.scalar(select(MergeRequest.id).where(MergeRequest.batch_of == request.id).limit(1)) is not None


def _stops(session: Session, stopped: list[Dispatch]) -> list[StopContainer]:
    nodes = {each.id: session.get_one(Node, each.node_id).name for each in stopped}
    titles = {each.id: session.get_one(Bead, each.bead_id).title for each in stopped}
    return [
        StopContainer(dispatch_id=str(each.id), node=nodes[each.id], about=bead_named(each.bead_id, titles[each.id]))
        for each in stopped
    ]
