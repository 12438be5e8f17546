"""Merges that wait for the user's checkout to be clean: gated commits, each stacked on the one before it.

Whoever lands a commit lands all that it stands on. So a request whose commit is in a stack is withdrawn only together
with what stands on it, and never while that is being pushed.
"""

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from gastown.models import MergeRequest
from gastown.states import HoldCode, MergeStatus
from gastown.store.moves import wake

BEFORE_THE_PUSH = (MergeStatus.OPEN, MergeStatus.IN_PROGRESS)


def newest_staged(session: Session, request: MergeRequest) -> str | None:
    """The tip of the stack of others on this target, on which the next merge is prepared.

    One that could not be pushed is no such tip: it waits for the remote, not for the checkout.
    """
    statement = (
        select(MergeRequest.staged_sha)
        .where(
            MergeRequest.rig_id == request.rig_id,
            MergeRequest.target == request.target,
            MergeRequest.id != request.id,
            MergeRequest.status == MergeStatus.OPEN,
            MergeRequest.staged_sha.is_not(None),
            MergeRequest.held_code.is_distinct_from(HoldCode.UNREACHABLE),
        )
        .order_by(MergeRequest.staged_at.desc(), MergeRequest.id.desc())
        .limit(1)
    )
    return session.scalar(statement)


def still_stands(session: Session, request: MergeRequest, own_sha: str | None, base_sha: str | None) -> bool:
    """Whether the staged commits that a merge has been prepared with are all wanted still: its own, and its base.

    Their rows stay locked, so that none of them is withdrawn until the caller has moved to `pushing`.
    """
    if own_sha is None and base_sha is None:
        return True
    statement = (
        select(MergeRequest.id, MergeRequest.staged_sha)
        .where(
            MergeRequest.rig_id == request.rig_id,
            MergeRequest.target == request.target,
            MergeRequest.status.in_(BEFORE_THE_PUSH),
            MergeRequest.staged_sha.is_not(None),
        )
        .order_by(MergeRequest.id)
        .with_for_update(read=True)
    )
    staged = {row.id: row.staged_sha for row in session.execute(statement)}
    return (own_sha is None or staged.get(request.id) == own_sha) and (base_sha is None or base_sha in staged.values())


def is_being_landed(session: Session, request: MergeRequest) -> bool:
    """Whether a push into its target is under way, which may carry its staged commit along. Its row is locked."""
    pushing = select(MergeRequest.id).where(
        MergeRequest.rig_id == request.rig_id,
        MergeRequest.target == request.target,
        MergeRequest.status == MergeStatus.PUSHING,
    )
    return request.staged_sha is not None and session.scalar(pushing.limit(1)) is not None


def unstage(session: Session, request: MergeRequest) -> None:
    """The request's staged commit is given up: others on its target, which may stand on it, are merged anew."""
    if request.staged_sha is None:
        return
    statement = (
        update(MergeRequest)
        .where(
            MergeRequest.rig_id == request.rig_id,
            MergeRequest.target == request.target,
            MergeRequest.id != request.id,
            MergeRequest.status.in_(BEFORE_THE_PUSH),
            MergeRequest.staged_sha.is_not(None),
        )
        .values(staged_sha=None, staged_at=None, held_code=None, held_reason=None, held_output=None, look_at=None)
        .returning(MergeRequest.bead_id)
    )
    wake(session, *session.scalars(statement.execution_options(synchronize_session=False)))
