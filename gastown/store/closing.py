"""What a merge leaves behind when the target has it: its request and its bead closed, and who waited is woken."""

from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from gastown.db import gastown_now
from gastown.models import Bead, MergeRequest
from gastown.states import MERGING, BeadStatus, MergeStatus, Resolution
from gastown.store import batches, beads, branches, escalations
from gastown.store.moves import MoveLost, lock_bead, lock_beads, move, record, waiting_for
from gastown.store.orders import MergeOrder
from gastown.store.requests import wake_next


def merged_into(target: str, merged_sha: str) -> str:
    return f"merged into {target} as {merged_sha[:12]}"


def close(
    session: Session,
    order: MergeOrder,
    resolution: Resolution,
    message: str,
    merged_sha: str | None = None,
    tip_sha: str | None = None,
) -> bool:
    """The request and those that were pushed along with it, which stand on `tip_sha`.

    False: the merge epoch is not ours any more.
    """
    members = batches.members_of(session, order.id)
    ended = {order.bead_id, *members}
    waiting = {each for bead_id in ended for each in waiting_for(session, bead_id)} - ended
    locked = lock_beads(session, ended | waiting)
    found = lock_ours(session, order)
    if found is None:
        return False
    bead, request = found
    if not _end(session, bead, request, MERGING, resolution, message, merged_sha):
        return False
    above = {}
    for member_bead_id, member_id in members.items():
        member = session.get_one(MergeRequest, member_id, populate_existing=True)
        if member.batch_of != order.id or member.merge_sha is None:
            continue  # not in the push
        said = f"{merged_into(order.target, member.merge_sha)}, together with {bead.id}"
        own = locked[member_bead_id]
        if not _end(session, own, member, (MergeStatus.OPEN,), Resolution.MERGED, said, member.merge_sha):
            raise MoveLost(f"merge request {member_id} is {member.status}, and {said}")
        above[member.expected_sha] = member.merge_sha
    while tip_sha in above:
        tip_sha = above.pop(tip_sha)
    if tip_sha is not None:
        branches.note_tip(session, request, tip_sha)
    batches.release(session, request)
    for bead_id in sorted(ended):
        beads.wake_dependants(session, bead_id)  # also those that began to wait for it before it was locked
    wake_next(session, request)
    return True


def _end(
    session: Session,
    bead: Bead,
    request: MergeRequest,
    sources: tuple[MergeStatus, ...],
    resolution: Resolution,
    message: str,
    merged_sha: str | None,
) -> bool:
    """One request and its bead are closed. False: the request is not in `sources` any more."""
    values: dict[str, Any] = {"held_code": None, "held_reason": None, "held_output": None, "look_at": None}
    values |= {"staged_sha": None, "lease_expires_at": None, "batch_of": None, "step": "nothing left"}
    if merged_sha is not None:
        values |= {"merged_sha": merged_sha, "merged_at": gastown_now(), "step": "merged"}
    if not move(session, MergeRequest, request.id, sources, MergeStatus.CLOSED, **values):
        return False
    ended: dict[str, Any] = {"closed_at": gastown_now(), "wake_at": gastown_now(), "ready_at": None}
    ended |= {"failure_class": None, "failure_code": None, "failure_message": None, "resolution": resolution}
    if not move(session, Bead, bead.id, BeadStatus.IN_REVIEW, BeadStatus.CLOSED, **ended):
        raise MoveLost(f"{bead.id} is {bead.status}, and {message}")
    escalations.settle_bead(session, bead)
    about: dict[str, Any] = {"bead_id": bead.id, "dispatch_id": request.dispatch_id}
    record(session, bead.town_id, resolution, message, actor="refinery", **about)
    return True


def lock_request(session: Session, merge_id: int) -> tuple[Bead, MergeRequest] | None:
    bead_id = session.scalar(select(MergeRequest.bead_id).where(MergeRequest.id == merge_id))
    bead = None if bead_id is None else lock_bead(session, bead_id)
    if bead is None:
        return None
    # its row too: a lease is beaten without the bead, and must not be extended under a decision that it is over
    return bead, session.get_one(MergeRequest, merge_id, populate_existing=True, with_for_update={"key_share": True})


def lock_ours(session: Session, order: MergeOrder) -> tuple[Bead, MergeRequest] | None:
    """The request and its locked bead, if the merge epoch is still ours."""
    found = lock_request(session, order.id)
    return found if found is not None and found[1].merge_epoch == order.merge_epoch else None
