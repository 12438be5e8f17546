"""Merge requests in the queue of their target: opened, asked for, withdrawn."""

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from gastown.db import gastown_now
from gastown.errors import Refused
from gastown.models import Bead, Dispatch, MergeRequest, Rig
from gastown.states import MERGING, MergeStatus
from gastown.store import batches, branches, staging
from gastown.store.moves import MoveLost, move, wake_unlocked

OPEN_REQUESTS = (MergeStatus.OPEN, *MERGING)
_OF_HOLDS = ("held_code", "held_reason", "held_output", "look_at", "asked_at", "rework_agent", "rework_id")
LIFTED: dict[str, None] = dict.fromkeys(_OF_HOLDS)  # what a request has no more that nothing holds


def open_request(session: Session, bead: Bead, dispatch: Dispatch, head_sha: str) -> MergeRequest:
    """A finished attempt's head enters the queue of its target. The bead's row is locked."""
    request = MergeRequest(
        town_id=bead.town_id,
        rig_id=bead.rig_id,
        bead_id=bead.id,
        dispatch_id=dispatch.id,
        target=branches.target_of(session, bead),
        head_sha=head_sha,
        priority=bead.priority,
    )
    session.add(request)
    session.flush()
    return request


def close_request(session: Session, bead: Bead) -> MergeRequest | None:
    """The unfinished request of a locked bead is dropped. Others that were stacked on its commit are merged anew.

    Raises Refused while a push is under way that may carry its commits along.
    """
    statement = select(MergeRequest).where(MergeRequest.bead_id == bead.id, MergeRequest.status.in_(OPEN_REQUESTS))
    request = session.scalar(statement.with_for_update().execution_options(populate_existing=True))
    if request is None:
        return None
    if batches.is_being_pushed(session, bead.id) or staging.is_being_landed(session, request):
        raise Refused(f"{bead.id} is being pushed to {request.target} right now", hint=f"gastown why {bead.id}")
    sources = (MergeStatus.OPEN, MergeStatus.IN_PROGRESS)
    if not move(
        session, MergeRequest, request.id, sources, MergeStatus.CLOSED, lease_expires_at=None, step=None, batch_of=None
    ):
        raise MoveLost(f"merge request {request.id} is {request.status}")
    staging.unstage(session, request)
    batches.release(session, request)
    wake_next(session, request)
    return request


def clear_hold(session: Session, bead: Bead) -> bool:
    """Somebody asks for the merge to be tried again, and for another review if it still waits for one."""
    statement = (
        update(MergeRequest)
        .where(
            MergeRequest.bead_id == bead.id,
            MergeRequest.status == MergeStatus.OPEN,
            MergeRequest.held_code.is_not(None),
        )
        .values(**LIFTED, review_id=None)
        .returning(MergeRequest.id)
    )
    return session.execute(statement.execution_options(synchronize_session=False)).first() is not None


def note_asked(session: Session, *merge_ids: int) -> None:
    statement = update(MergeRequest).where(MergeRequest.id.in_(merge_ids)).values(asked_at=gastown_now())
    session.execute(statement.execution_options(synchronize_session=False))


def wake_next(session: Session, request: MergeRequest) -> None:
    """The target is free: the best of those who wait for it, and for nothing else, is looked at.

    Not when somebody is at its bead: other beads are locked by now, and waiting for one more could be a deadlock.
    Nothing is forgotten then, since who waits behind another looks again after `merge_look_s` by itself.
    """
    unread = Rig.review_agent.is_not(None) & MergeRequest.reviewed_sha.is_distinct_from(MergeRequest.head_sha)
    waiting = (
        select(MergeRequest.bead_id)
        .join(Rig, Rig.id == MergeRequest.rig_id)
        .where(
            MergeRequest.rig_id == request.rig_id,
            MergeRequest.target == request.target,
            MergeRequest.id != request.id,
            MergeRequest.status == MergeStatus.OPEN,
        )
        .order_by(MergeRequest.held_code.is_not(None), unread, MergeRequest.priority, MergeRequest.id)
        .limit(1)
    )
    wake_unlocked(session, *session.scalars(waiting))
