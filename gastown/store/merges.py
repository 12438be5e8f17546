"""Merges: claimed, pushed, recorded. Every write is a compare-and-set on the merge epoch."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

from sqlalchemy import func, null, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from gastown.agent.tail import last_lines
from gastown.db import gastown_now
from gastown.models import Bead, Event, MergeRequest
from gastown.states import MERGING, BeadStatus, HoldCode, MergeStatus, Resolution
from gastown.store import batches, looks, reviews, staging
from gastown.store.closing import close, lock_ours, lock_request, merged_into
from gastown.store.moves import (
    lock_beads,
    move,
    record,
    set_bead,
    wake,
)
from gastown.store.orders import MergeOrder, order_of
from gastown.store.policies import policy_of
from gastown.store.requests import wake_next
from gastown.store.workers import claimed_before

LOST = "merge_lost"  # the event of a merge whose worker was gone
NOT_LOST = (looks.HELD, "merge_requeued", "retried", "reworked", "done")  # events that begin a new row
LOST_IN_ROW = 5  # a deployment ends a worker once or twice in a merge; a gate that kills its worker does so each time
HELD_OUTPUT_CHARACTERS = 20_000  # of a red gate, kept for people and for the next attempt's prompt


def claim_merge(session: Session, merge_id: int, worker: str) -> MergeOrder | None:
    """open -> in_progress with a new merge epoch, or a `pushing` one whose worker is gone, to settle it.

    None: somebody else has it, another merge into the target is under way, or it is over.
    """
    found = lock_request(session, merge_id)
    if found is None:
        return None
    bead, request = found
    if reviews.hold_for_review(session, request):
        return None
    now = session.scalars(select(gastown_now())).one()
    policy = policy_of(session, request.rig_id)
    lease = timedelta(seconds=policy.merge_lease_s)
    values = {
        "batch_of": null(),
        "merge_epoch": request.merge_epoch + 1,
        "lease_expires_at": now + lease,
        "step": "claimed",
        "claimed_by": worker,
    }
    pushing_sha = None
    members: tuple[MergeOrder, ...] = ()
    if request.status == MergeStatus.PUSHING:
        if request.lease_expires_at is None or request.lease_expires_at > now:
            return None
        pushing_sha = request.merge_sha
        members = batches.carried(session, request, lease)
        _update(session, merge_id, **values)
    elif request.status == MergeStatus.OPEN and (request.held_code is None or _due(request, now)):
        if request.staged_sha is None:
            values["gate_runs"] = null()  # of an earlier merge commit
        try:
            with session.begin_nested():
                move(session, MergeRequest, merge_id, MergeStatus.OPEN, MergeStatus.IN_PROGRESS, **values)
        except IntegrityError:  # one_merge_per_target: another one is under way; its end wakes us
            return None
        members = batches.take(session, request, 1 if request.held_code else policy.merge_batch, lease)
    else:
        return None
    set_bead(session, bead.id, wake_at=func.least(Bead.wake_at, now + lease))
    return replace(order_of(session, bead, request, lease, pushing_sha), members=members)


def _due(request: MergeRequest, now: object) -> bool:
    return request.look_at is not None and request.look_at <= now  # type: ignore[operator]


def beat_merge(session: Session, merge_id: int, merge_epoch: int, step: str | None = None) -> bool:
    """Extend the lease. False: it is not ours any more; stop."""
    rig_id = session.scalar(select(MergeRequest.rig_id).where(MergeRequest.id == merge_id))
    if rig_id is None:
        return False
    lease = timedelta(seconds=policy_of(session, rig_id).merge_lease_s)
    statement = (
        update(MergeRequest)
        .where(MergeRequest.id == merge_id, MergeRequest.merge_epoch == merge_epoch, MergeRequest.status.in_(MERGING))
        .values(lease_expires_at=gastown_now() + lease, **({} if step is None else {"step": step}))
        .returning(MergeRequest.id)
    )
    return session.execute(statement.execution_options(synchronize_session=False)).first() is not None


def begin_push(
    session: Session, order: MergeOrder, merge_sha: str, expected_sha: str, along: Sequence[batches.Along] = ()
) -> bool:
    """in_progress -> pushing, with the bead locked: from here on a cancel is refused. False: not wanted any more.

    Nor is a merge that stands on one which was withdrawn meanwhile: `requeue` has it merged anew.
    `along`: members of its batch that the same push brings, each on top of the one before it.
    """
    lock_beads(session, {order.bead_id, *(each.order.bead_id for each in along)})
    found = lock_ours(session, order)
    if found is None or found[0].status != BeadStatus.IN_REVIEW:
        return False
    if not staging.still_stands(session, found[1], order.own_staged_sha, order.staged_sha):
        return False
    if not batches.begin_push(session, found[1], along):
        return False
    values = {"merge_sha": merge_sha, "expected_sha": expected_sha, "step": "push"}
    return move(session, MergeRequest, order.id, MergeStatus.IN_PROGRESS, MergeStatus.PUSHING, **values)


def record_merged(session: Session, order: MergeOrder, merged_sha: str, tip_sha: str | None = None) -> bool:
    """The target has it: request and bead are closed, and who waited for the bead, or for the target, is woken.

    So are those that were pushed along with it. `tip_sha`: the target's head, if it went on since.
    """
    message = merged_into(order.target, merged_sha)
    return close(session, order, Resolution.MERGED, message, merged_sha, tip_sha or merged_sha)


def record_nothing(session: Session, order: MergeOrder, target_sha: str) -> bool:
    """The target has its content from elsewhere: the same, but closed as `no_changes`."""
    message = f"{order.target} has all of it already at {target_sha[:12]}: nothing was left to merge"
    return close(session, order, Resolution.NO_CHANGES, message)


def hold(
    session: Session,
    order: MergeOrder,
    code: HoldCode,
    reason: str,
    *,
    output: str = "",
    staged_sha: str | None = None,
    look_again: bool = False,
    rework_agent: str | None = None,
    sources: tuple[MergeStatus, ...] = MERGING,
) -> bool:
    """Back to open, and not to be tried again until something changes; `look_again`: the outside may lift it.

    `rework_agent`: the preset whose agent may mend it; None: a person has to.
    """
    found = lock_ours(session, order)
    if found is None:
        return False
    bead, request = found
    look_s = policy_of(session, request.rig_id).merge_look_s
    values = {
        "lease_expires_at": None,
        "step": None,
        "held_code": code,
        "held_reason": reason,
        "held_output": _kept(output),
        "staged_sha": staged_sha,
        "staged_at": request.staged_at or gastown_now() if staged_sha else None,
        "look_at": looks.next_look(session, request, code, reason, look_s) if look_again else None,
        "asked_at": None,
        "rework_agent": rework_agent,
        "rework_id": None,
    }
    if not move(session, MergeRequest, order.id, sources, MergeStatus.OPEN, **values):
        return False
    if staged_sha != request.staged_sha:
        staging.unstage(session, request)
    batches.release(session, request)
    wake(session, bead.id)
    wake_next(session, request)
    if not looks.is_same(request, code, reason):
        record(session, bead.town_id, looks.HELD, reason, actor="refinery", bead_id=bead.id, code=code)
    return True


def hold_along(
    session: Session, order: MergeOrder, member: MergeOrder, reason: str, output: str, rework_agent: str | None
) -> bool:
    """A member of the batch has a red gate: it leaves the batch, held as if it had been merged by itself."""
    beads = lock_beads(session, {order.bead_id, member.bead_id})
    request = session.get_one(MergeRequest, member.id, populate_existing=True)
    if lock_ours(session, order) is None or (request.batch_of, request.merge_epoch) != (order.id, member.merge_epoch):
        return False
    bead, code = beads[member.bead_id], HoldCode.GATE_FAILED
    held = {"held_code": code, "held_reason": reason, "held_output": _kept(output), "rework_agent": rework_agent}
    _update(session, member.id, **held, batch_of=None, look_at=None, asked_at=None)
    wake(session, bead.id)
    record(session, bead.town_id, looks.HELD, reason, actor="refinery", bead_id=bead.id, code=code)
    return True


def _kept(output: str) -> str | None:
    return last_lines(output.replace("\x00", ""), HELD_OUTPUT_CHARACTERS) or None


def note_unknown(session: Session, order: MergeOrder, reason: str) -> bool:
    """A push gave no answer. It stays `pushing`, so that no cancel gets in, until somebody has looked at the target."""
    found = lock_ours(session, order)
    if found is None or found[1].status != MergeStatus.PUSHING:
        return False
    bead, request = found
    code = HoldCode.UNREACHABLE
    look_at = looks.next_look(session, request, code, reason, order.lease_s)
    _update(session, order.id, held_code=code, held_reason=reason, lease_expires_at=look_at, step="push: no answer")
    wake(session, bead.id)
    if not looks.is_same(request, code, reason):
        record(session, bead.town_id, looks.HELD, reason, actor="refinery", bead_id=bead.id, code=code)
    return True


def requeue(session: Session, order: MergeOrder, reason: str) -> bool:
    """Back to open, to be merged anew: the target moved, or the push never happened. Not a failure."""
    found = lock_ours(session, order)
    if found is None:
        return False
    bead, request = found
    values = {"lease_expires_at": None, "step": None, "staged_sha": None, "staged_at": None, "asked_at": None}
    values |= {"held_code": None, "held_reason": None, "held_output": None, "look_at": None}
    if not move(session, MergeRequest, order.id, MERGING, MergeStatus.OPEN, **values):
        return False
    staging.unstage(session, request)
    batches.release(session, request)
    wake(session, bead.id)
    wake_next(session, request)  # a better one may have come meanwhile, and waits for our end
    record(session, bead.town_id, "merge_requeued", reason, actor="refinery", bead_id=bead.id)
    return True


def reclaim(session: Session, merge_id: int) -> bool:
    """in_progress with an expired lease -> open. The epoch of the next claim fences the old worker.

    Held for a person when that happened so often in a row that the merge itself seems to end its workers.
    """
    found = lock_request(session, merge_id)
    if found is None or (expiry := found[1].lease_expires_at) is None:
        return False
    if expiry > session.scalars(select(gastown_now())).one():
        return False
    bead, request = found
    step = request.step or "claimed"
    values: dict[str, object] = {"lease_expires_at": None, "step": None, "asked_at": None}
    if (lost := 1 + _lost_in_row(session, bead.id)) >= LOST_IN_ROW:
        reason = f"{lost} workers in a row were gone before it was merged, the last one at the step {step}"
        values |= {"held_code": HoldCode.MERGE_ERROR, "held_reason": reason, "held_output": None, "look_at": None}
    if not move(session, MergeRequest, merge_id, MergeStatus.IN_PROGRESS, MergeStatus.OPEN, **values):
        return False
    told = f"its worker is gone at the step {step}; merged anew"
    record(session, bead.town_id, LOST, told, actor="reconciler", bead_id=bead.id)
    if "held_code" in values:
        wake(session, bead.id)
        record(session, bead.town_id, looks.HELD, reason, actor="reconciler", bead_id=bead.id)
    batches.release(session, request)
    wake_next(session, request)  # a better one may have come meanwhile, and waits for our end
    return True


def _lost_in_row(session: Session, bead_id: str) -> int:
    """Workers that its merge lost since anything else became of it."""
    kinds = select(Event.kind).where(Event.bead_id == bead_id, Event.kind.in_((LOST, *NOT_LOST)))
    newest = session.scalars(kinds.order_by(Event.id.desc()).limit(LOST_IN_ROW)).all()
    return next((place for place, kind in enumerate(newest) if kind != LOST), len(newest))


def expire_merges_of(session: Session, worker: str) -> list[str]:
    """A worker came back under its old name: nobody is at the merges that it had claimed, so their leases end now.

    One that was being pushed keeps its lease: a push may outlive its worker for a moment. The beads that were woken.
    """
    claimed = (
        select(MergeRequest.bead_id)
        .where(claimed_before(MergeRequest.claimed_by, worker), MergeRequest.status == MergeStatus.IN_PROGRESS)
        .order_by(MergeRequest.bead_id)
    )
    bead_ids = list(session.scalars(claimed))
    lock_beads(session, set(bead_ids))
    statement = (
        update(MergeRequest)
        .where(
            MergeRequest.bead_id.in_(bead_ids),
            claimed_before(MergeRequest.claimed_by, worker),
            MergeRequest.status == MergeStatus.IN_PROGRESS,
        )
        .values(lease_expires_at=gastown_now())
    )
    session.execute(statement.execution_options(synchronize_session=False))
    wake(session, *bead_ids)
    return bead_ids


def _update(session: Session, merge_id: int, **values: object) -> None:
    statement = update(MergeRequest).where(MergeRequest.id == merge_id).values(**values)
    session.execute(statement.execution_options(synchronize_session=False))
