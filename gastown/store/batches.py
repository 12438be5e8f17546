"""Merge requests that are merged along with another, their leader: by its worker, under its lease, with one push.

A member stays `open`, and `batch_of` names its leader. Whoever ends the leader's merge lets its members go; from the
leader's push on, what happens to it happens to all. Its merge commit and the one below it are noted on each.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from gastown.models import Bead, MergeRequest, Rig
from gastown.states import BeadStatus, HoldCode, MergeStatus, Strategy
from gastown.store.moves import lock_bead, record, wake, wake_unlocked
from gastown.store.orders import MergeOrder, order_of


@dataclass(frozen=True, kw_only=True)
class Along:
    """A member that is pushed with its leader."""

    order: MergeOrder
    merge_sha: str
    base_sha: str  # what it was merged onto: the commit of the one before it


def take(session: Session, request: MergeRequest, most: int, lease: timedelta) -> tuple[MergeOrder, ...]:
    """Give the request that has just been claimed up to `most - 1` others of its queue, best first.

    One whose bead somebody is at is left out: waiting for it could be a deadlock. None while a merge waits for the
    user's checkout, since each has to be gated by itself then; nor of landings, nor where merges are only published.
    """
    release(session, request)
    rig = session.get_one(Rig, request.rig_id)
    if (
        most < 2
        or session.get_one(Bead, request.bead_id).purpose is not None
        or rig.strategy != Strategy.DIRECT
        or _waits_for_checkout(session, request)
    ):
        return ()
    statement = (
        select(Bead, MergeRequest)
        .join(MergeRequest, MergeRequest.bead_id == Bead.id)
        .where(
            MergeRequest.rig_id == request.rig_id,
            MergeRequest.target == request.target,
            MergeRequest.id != request.id,
            MergeRequest.status == MergeStatus.OPEN,
            MergeRequest.held_code.is_(None),
            MergeRequest.staged_sha.is_(None),
            MergeRequest.published_ref.is_(None),  # its own worker takes that back
            Bead.purpose.is_(None),
            Bead.status == BeadStatus.IN_REVIEW,
        )
        .order_by(MergeRequest.priority, MergeRequest.id)
        .limit(most - 1)
        .with_for_update(of=[Bead, MergeRequest], key_share=True, skip_locked=True)
    )
    if rig.review_agent is not None:
        statement = statement.where(MergeRequest.reviewed_sha == MergeRequest.head_sha)
    rows = session.execute(statement.execution_options(populate_existing=True)).all()
    orders = tuple(order_of(session, bead, member, lease, None) for bead, member in rows)
    if orders:
        values = {"batch_of": request.id, "merge_epoch": MergeRequest.merge_epoch + 1, "asked_at": None}
        values |= {"merge_sha": None, "expected_sha": None, "gate_runs": None}  # of an earlier batch
        _write(session, [order.id for order in orders], values)
        wake(session, *(order.bead_id for order in orders))
    return orders


def _waits_for_checkout(session: Session, request: MergeRequest) -> bool:
    """Whether the target is a checkout of a person's that was not clean when it was pushed to last."""
    statement = select(MergeRequest.id).where(
        MergeRequest.rig_id == request.rig_id,
        MergeRequest.target == request.target,
        MergeRequest.status == MergeStatus.OPEN,
        (MergeRequest.held_code == HoldCode.DIRTY_CHECKOUT) | MergeRequest.staged_sha.is_not(None),
    )
    return session.scalar(statement.limit(1)) is not None


def carried(session: Session, request: MergeRequest, lease: timedelta) -> tuple[MergeOrder, ...]:
    """What a push that somebody else began may have brought along, in the order in which it stands on each other."""
    statement = select(Bead, MergeRequest).join(MergeRequest, MergeRequest.bead_id == Bead.id)
    rows = session.execute(statement.where(MergeRequest.batch_of == request.id)).all()
    above = {member.expected_sha: (bead, member) for bead, member in rows}
    orders, tip = [], request.merge_sha
    while tip in above:
        bead, member = above.pop(tip)
        tip = member.merge_sha
        order = order_of(session, bead, member, lease, tip)
        orders.append(replace(order, merge_epoch=member.merge_epoch))
    return tuple(orders)


def members_of(session: Session, merge_id: int) -> dict[str, int]:
    """The requests that are merged along with this one, by their beads."""
    statement = select(MergeRequest.bead_id, MergeRequest.id).where(MergeRequest.batch_of == merge_id)
    return {row.bead_id: row.id for row in session.execute(statement.order_by(MergeRequest.bead_id))}


def begin_push(session: Session, request: MergeRequest, along: Sequence[Along]) -> bool:
    """Note the merge commits of those that are pushed along; the others are let go.

    False: one of them is not wanted any more, or not as it was merged. Their beads' rows are locked.
    """
    wanted = {
        member.id: member.head_sha
        for member in session.scalars(
            select(MergeRequest)
            .join(Bead, Bead.id == MergeRequest.bead_id)
            .where(MergeRequest.batch_of == request.id, Bead.status == BeadStatus.IN_REVIEW)
            .execution_options(populate_existing=True)
        )
    }
    if any(wanted.get(each.order.id) != each.order.head_sha for each in along):
        return False
    for each in along:
        values = {"merge_sha": each.merge_sha, "expected_sha": each.base_sha, "gate_runs": request.gate_runs}
        _write(session, [each.order.id], values)
    release(session, request, but=[each.order.id for each in along])
    return True


def leave_out(session: Session, leader: MergeOrder, reasons: Mapping[str, str]) -> bool:
    """Members, by their beads, that this batch cannot bring; each is queued again, to be merged in a later one.

    False: the merge is somebody else's by now.
    """
    lock_bead(session, leader.bead_id)
    epoch = select(MergeRequest.merge_epoch).where(MergeRequest.id == leader.id)
    if session.scalar(epoch) != leader.merge_epoch:
        return False
    statement = (
        update(MergeRequest)
        .where(MergeRequest.batch_of == leader.id, MergeRequest.bead_id.in_(list(reasons)))
        .values(batch_of=None)
        .returning(MergeRequest.bead_id, MergeRequest.town_id)
    )
    rows = session.execute(statement.execution_options(synchronize_session=False)).all()
    for row in rows:
        record(session, row.town_id, "merge_requeued", reasons[row.bead_id], actor="refinery", bead_id=row.bead_id)
    wake_unlocked(session, *(row.bead_id for row in rows))
    return True


def release(session: Session, request: MergeRequest, but: Sequence[int] = ()) -> None:
    """Its members are in the queue again by themselves, `but` these."""
    statement = (
        update(MergeRequest)
        .where(MergeRequest.batch_of == request.id, MergeRequest.id.not_in(but))
        .values(batch_of=None)
        .returning(MergeRequest.bead_id)
    )
    wake_unlocked(session, *session.scalars(statement.execution_options(synchronize_session=False)))


def is_being_pushed(session: Session, bead_id: str) -> bool:
    """Whether its unfinished request, or the one that it is merged along with, is on its way. The bead is locked."""
    own = select(MergeRequest.id, MergeRequest.batch_of).where(
        MergeRequest.bead_id == bead_id, MergeRequest.status.not_in((MergeStatus.CLOSED, MergeStatus.FAILED))
    )
    ids = [each for row in session.execute(own) for each in row if each is not None]
    pushing = select(MergeRequest.id).where(MergeRequest.id.in_(ids), MergeRequest.status == MergeStatus.PUSHING)
    return session.scalar(pushing.limit(1)) is not None


def _write(session: Session, ids: Sequence[int], values: Mapping[str, object]) -> None:
    statement = update(MergeRequest).where(MergeRequest.id.in_(ids)).values(**values)
    session.execute(statement.execution_options(synchronize_session=False))
