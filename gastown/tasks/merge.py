"""One merge, from the claim to the record. Every record is a compare-and-set on the merge epoch, so that whoever lost
the lease writes nothing; a crash at any line is settled by looking at the target."""

from dataclasses import asdict, replace
from typing import Any, assert_never

import structlog

from gastown.celery_app import app
from gastown.commands import described
from gastown.db import in_transaction
from gastown.errors import Refused, RuntimeUnavailable, StartRefused, TemporaryError
from gastown.presets.environment import portable
from gastown.refinery import merging
from gastown.runtimes import registry
from gastown.settings import get_settings
from gastown.states import HoldCode, MergeStatus, Strategy
from gastown.store import gate_runs, looks, merges
from gastown.store.orders import MergeOrder
from gastown.store.workers import claimer
from gastown.tasks import batches, publishing
from gastown.tasks.base import poke
from gastown.tasks.leases import Lease
from gastown.tasks.mending import mender_for

log = structlog.get_logger()


@app.task(name="gastown.merge", bind=True, max_retries=0)
def merge(self: Any, merge_id: int) -> None:
    """Merge one request into its target, if it is next and nobody else is at it."""
    worker = claimer(self.request.hostname or "")
    try:
        order = in_transaction(lambda session: merges.claim_merge(session, merge_id, worker))
    except Refused as error:
        reason = str(error)
        in_transaction(lambda session: looks.hold_back(session, merge_id, reason))
        poke()
        return
    if order is None:
        log.info("merge_not_ours", merge_request=merge_id)
        return
    job = _job(order)
    with Lease(order).held() as lease:
        try:
            _merge(order, job, lease)
        except TemporaryError as error:
            _give_back(order, HoldCode.UNREACHABLE, str(error))
        except StartRefused as error:
            next_step = f"; next: {error.hint}, and gastown bead retry {order.bead_id}" if error.hint else ""
            _give_back(order, HoldCode.MERGE_ERROR, f"its gates could not be started: {error}{next_step}")
        except Exception as error:
            log.exception("merge_raised", merge_request=merge_id)
            _give_back(order, HoldCode.MERGE_ERROR, f"{type(error).__name__}: {error}")
    merging.release(job)
    poke()


def _give_back(order: MergeOrder, code: HoldCode, reason: str) -> None:
    """Only before the push. One that was pushing stays so until somebody has looked at the target."""
    log.warning("merge_given_back", merge_request=order.id, code=code, reason=reason)
    again = code is HoldCode.UNREACHABLE
    before = (MergeStatus.IN_PROGRESS,)
    kept = order.own_staged_sha if again else None
    held = in_transaction(
        lambda session: merges.hold(session, order, code, reason, sources=before, look_again=again, staged_sha=kept)
    )
    if not held:
        in_transaction(lambda session: merges.note_unknown(session, order, reason))


def _job(order: MergeOrder) -> merging.MergeJob:
    return merging.MergeJob(
        home=get_settings().home,
        rig_id=order.rig_id,
        repository=order.repository,
        target=order.target,
        bead_id=order.bead_id,
        dispatch_id="" if order.dispatch_id is None else str(order.dispatch_id),
        title=order.title,
        head_sha=order.head_sha,
        head_ref=order.head_ref,
        setup=order.setup,
        gates=order.gates,
        environment=order.environment,
        method=order.method,
        author=order.author,
        merge_epoch=order.merge_epoch,
        staged_sha=order.staged_sha,
        made_from=None if order.origin is None else order.origin.target,
        made_at=None if order.origin is None else order.origin.head_sha,
        convoy=order.convoy,
    )


def _gated(order: MergeOrder, job: merging.MergeJob) -> merging.MergeJob:
    """With the container of its gates, where these run in one. Raises UsageError for one that makes no sense.

    Raises RuntimeUnavailable for gates that are to run in a container, and cannot here: another worker may be asked.
    """
    if get_settings().runtime != "docker":
        if order.container and (order.setup or order.gates):
            raise RuntimeUnavailable(
                f"the rig's gates run in containers, and {get_settings().node}, whose merge worker took it, "
                "starts plain processes; another worker is asked. Give its worker other queues: gastown worker --queues"
            )
        return job
    container = described.container(order.preset, order.container)
    return replace(job, container=container, environment=portable(order.environment))


def _merge(order: MergeOrder, job: merging.MergeJob, lease: Lease) -> None:
    if publishing.goes_on(order, job, lost=lease.is_over()):
        return
    if order.pushing_sha is not None:
        _settle(order, job, lease)
        return
    if order.own_staged_sha is not None:
        _land(order, job, order.own_staged_sha, lease)
        return
    runtime = registry.get(get_settings().runtime)  # a merge worker has what its node has
    job = _gated(order, job)
    if order.members:
        others = [_gated(each, _job(each)) for each in order.members]
        prepared = batches.prepare(order, [job, *others], runtime, lease)
    else:
        prepared = merging.prepare(job, runtime, lease.on_step, lease.is_over)
    match prepared:
        case merging.Prepared() if order.strategy is Strategy.BRANCH:
            publishing.publish(order, job, prepared)
        case merging.Prepared():
            _push(order, job, prepared, lease)
        case merging.AlreadyMerged(merge_sha=merge_sha, tip_sha=tip_sha):
            publishing.tidy(order, job)
            _record(order, merge_sha, tip_sha)
        case merging.NothingLeft(target_sha=target_sha):
            publishing.tidy(order, job)
            in_transaction(lambda session: merges.record_nothing(session, order, target_sha))
        case merging.Held(code=code, reason=reason, output=output):
            again = code in (HoldCode.UNREACHABLE, HoldCode.HEAD_MISSING)
            mender = mender_for(order, code)
            in_transaction(
                lambda session: merges.hold(
                    session, order, code, reason, output=output, look_again=again, rework_agent=mender
                )
            )
        case merging.Stopped():
            log.info("merge_left", merge_request=order.id, lost=lease.lost.is_set())


def _settle(order: MergeOrder, job: merging.MergeJob, lease: Lease) -> None:
    """An earlier push had no answer, or no worker to hear it: the target says whether it arrived.

    If not, its gates are passed already: the same commit is pushed again, at once when only the worker was gone.
    """
    sha, code, reason = order.pushing_sha, HoldCode.UNREACHABLE, order.held_reason or ""
    assert sha is not None
    along = batches.pushed_along(order)
    again = merging.Prepared(merge_sha=sha, base_sha=sha, expected_sha=sha, along=along)
    if merging.contains(job, again.tip_sha):
        _record(order, sha)
    elif order.held_code == code:
        gated = None if along else sha  # of a batch, only the last commit was gated
        in_transaction(lambda session: merges.hold(session, order, code, reason, staged_sha=gated, look_again=True))
    elif not lease.is_over():  # whoever has it by now may have let a cancel in
        _close_push(order, job, again, merging.land(job, again.tip_sha))


def _push(order: MergeOrder, job: merging.MergeJob, prepared: merging.Prepared, lease: Lease) -> None:
    if prepared.gate_runs:
        runs = [asdict(run) for run in prepared.gate_runs]
        in_transaction(lambda session: gate_runs.note_gates(session, order, runs))
    if not _may_push(order, lease, prepared):
        return
    if prepared.base_sha != prepared.expected_sha:  # stacked on a merge that waits for the user's checkout
        _stage(order, job, prepared, "an earlier merge waits for the checkout to be clean")
        return
    _close_push(order, job, prepared, merging.push(job, prepared))


def _land(order: MergeOrder, job: merging.MergeJob, staged_sha: str, lease: Lease) -> None:
    """A gated merge that waited for the checkout to be clean."""
    staged = merging.Prepared(merge_sha=staged_sha, base_sha=staged_sha, expected_sha=staged_sha)
    if not _may_push(order, lease, staged):
        return
    _close_push(order, job, staged, merging.land(job, staged_sha))


def _may_push(order: MergeOrder, lease: Lease, prepared: merging.Prepared) -> bool:
    """Moved to `pushing`. If not, it is merged anew: unless it is canceled, what it stood on was withdrawn."""
    sha, onto = prepared.merge_sha, prepared.expected_sha
    along = batches.along(order, prepared)
    if lease.is_over():
        return False
    if in_transaction(lambda session: merges.begin_push(session, order, sha, onto, along)):
        return True
    log.info("merge_not_wanted", merge_request=order.id)
    below = "one that was to be pushed with it" if along else "an earlier merge that it stood on"
    withdrawn = f"{below} was withdrawn; merged anew"
    in_transaction(lambda session: merges.requeue(session, order, withdrawn))
    return False


def _close_push(
    order: MergeOrder, job: merging.MergeJob, prepared: merging.Prepared, outcome: merging.PushOutcome
) -> None:
    if isinstance(outcome, merging.Pushed) and order.convoy is not None and not merging.contains(job, order.head_sha):
        outcome = merging.Moved()  # a landing counts only when the target is seen to have it
    match outcome:
        case merging.Pushed():
            publishing.tidy(order, job)
            _record(order, prepared.merge_sha)
        case merging.Moved():
            moved = f"{order.target} moved meanwhile; merged anew on its new head"
            in_transaction(lambda session: merges.requeue(session, order, moved))
        case merging.Dirty(paths=paths):
            shown = ", ".join(paths[:5]) + (f" and {len(paths) - 5} more" if len(paths) > 5 else "")
            _stage(order, job, prepared, f"uncommitted changes in {order.repository} are in the way: {shown}")
        case merging.PushRefused(reason=refused):
            in_transaction(lambda session: merges.hold(session, order, HoldCode.PUSH_REFUSED, refused))
        case merging.Unknown(reason=unknown):
            log.warning("push_unknown", merge_request=order.id, reason=unknown)
            in_transaction(lambda session: merges.note_unknown(session, order, unknown))
        case _:
            assert_never(outcome)


def _stage(order: MergeOrder, job: merging.MergeJob, prepared: merging.Prepared, reason: str) -> None:
    """Of a batch only the last commit was gated: its merges are made and gated anew, one by one, each to wait alone."""
    staged = None if prepared.along else prepared.merge_sha
    if staged is not None:
        merging.stage(job, prepared)
    dirty = HoldCode.DIRTY_CHECKOUT
    in_transaction(lambda session: merges.hold(session, order, dirty, reason, staged_sha=staged, look_again=True))


def _record(order: MergeOrder, merged_sha: str, tip_sha: str | None = None) -> None:
    if not in_transaction(lambda session: merges.record_merged(session, order, merged_sha, tip_sha)):
        log.warning("record_lost", merge_request=order.id, sha=merged_sha)
