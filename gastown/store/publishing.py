"""Merge requests that are published for a person to merge: what of them is ours, and what each look at them found."""

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from gastown.models import Bead, MergeRequest
from gastown.states import HoldCode
from gastown.store import escalations, merges
from gastown.store.orders import MergeOrder


def published_heads(session: Session, bead_id: str) -> frozenset[str]:
    """Each head of this bead that was published, by this request or an earlier one: what may be replaced."""
    statement = select(MergeRequest.published_sha).where(MergeRequest.bead_id == bead_id)
    return frozenset(sha for sha in session.scalars(statement) if sha is not None)


def note_published(session: Session, order: MergeOrder, ref: str, target_sha: str) -> bool:
    """pushing -> open: its head is there as `ref`, and a person is asked to merge it. False: not ours any more."""
    if not await_person(session, order, ref, target_sha):
        return False
    bead = session.get_one(Bead, order.bead_id)
    message = f"branch {ref} waits to be merged into {order.target}: {bead.title}"
    escalations.raise_once(
        session, bead.town_id, escalations.APPROVAL + bead.id, message, bead_id=bead.id, actor="refinery"
    )
    return True


def await_person(session: Session, order: MergeOrder, ref: str, target_sha: str, remark: str = "") -> bool:
    """Back to open: its head is published as `ref`, and a person has to merge it. False: it is not ours any more.

    `target_sha`, the target's head at this look, is kept, so that the next look can tell whether anything moved.
    """
    reason = f"branch {ref} has passed the gates, and waits for a person to merge it into {order.target}"
    reason += f"; {remark}" if remark else ""
    if not merges.hold(session, order, HoldCode.AWAITING_APPROVAL, reason, look_again=True):
        return False
    statement = update(MergeRequest).where(MergeRequest.id == order.id)
    values = {"published_sha": order.head_sha, "published_ref": ref, "expected_sha": target_sha}
    session.execute(statement.values(**values).execution_options(synchronize_session=False))
    return True
