"""The strategy `branch`: what is gated is published for a person to merge, and looked at until somebody has.

Published means `pushing` with the head itself as what is pushed: no cancel gets in between, and whoever finds it so
after a crash publishes it again, which changes nothing if it is there.
"""

from dataclasses import asdict
from typing import assert_never

import structlog

from gastown.db import in_transaction
from gastown.refinery import arriving, forges, merging
from gastown.refinery.forges import Forge, Published
from gastown.refinery.forges.branch import BranchForge
from gastown.states import HoldCode, Strategy
from gastown.store import gate_runs, merges, publishing
from gastown.store.orders import MergeOrder
from gastown.tasks.mending import mender_for

log = structlog.get_logger()


def forge_of(order: MergeOrder) -> Forge:
    return BranchForge()


def goes_on(order: MergeOrder, job: merging.MergeJob, lost: bool) -> bool:
    """A publication without an answer, or what was published, is looked at. False: it is to be merged and gated first.

    `lost`: somebody else may have it by now, and may have let a cancel in.
    """
    if order.strategy is not Strategy.BRANCH:
        return False
    if order.pushing_sha is None:
        return _look(order, job)
    if not lost:
        _settle(order, job, order.expected_sha or "")
    return True


def publish(order: MergeOrder, job: merging.MergeJob, prepared: merging.Prepared) -> None:
    """It would merge, and the gates passed on that: hand its head over. Nothing, when it is not wanted any more."""
    if prepared.gate_runs:
        runs = [asdict(run) for run in prepared.gate_runs]
        in_transaction(lambda session: gate_runs.note_gates(session, order, runs))
    if arriving.adds_nothing(job, prepared):
        tidy(order, job)
        in_transaction(lambda session: merges.record_nothing(session, order, prepared.expected_sha))
        return
    target_sha = prepared.expected_sha
    if in_transaction(lambda session: merges.begin_push(session, order, order.head_sha, target_sha)):
        _settle(order, job, target_sha)


def _settle(order: MergeOrder, job: merging.MergeJob, target_sha: str) -> None:
    """It is `pushing`: make sure that it is there, and say what came of that."""
    ours = in_transaction(lambda session: publishing.published_heads(session, order.bead_id))
    outcome = forge_of(order).open(job, ours)
    match outcome:
        case forges.Published(ref=ref):
            in_transaction(lambda session: publishing.note_published(session, order, ref, target_sha))
        case forges.Taken(reason=reason) | forges.PushRefused(reason=reason):
            in_transaction(lambda session: merges.hold(session, order, HoldCode.PUSH_REFUSED, reason))
        case forges.Unknown(reason=reason):
            log.warning("publish_unknown", merge_request=order.id, reason=reason)
            in_transaction(lambda session: merges.note_unknown(session, order, reason))
        case _:
            assert_never(outcome)


def _look(order: MergeOrder, job: merging.MergeJob) -> bool:
    """What became of it since it was published. False: it has to be published anew, as somebody asked for."""
    published = published_of(order)
    if published is None or published.sha != order.head_sha:
        return False
    status = forge_of(order).status(job, published, order.expected_sha)
    match status:
        case forges.Waiting(target_sha=seen, remark=remark):
            in_transaction(lambda session: publishing.await_person(session, order, published.ref, seen, remark))
        case forges.Merged(merge_sha=merge_sha):
            _record(order, job, merge_sha)
        case forges.Conflicting(reason=reason, output=output):
            _hold(order, HoldCode.CONFLICT, reason, output)
        case forges.Closed() if order.held_code is None:
            return False
        case forges.Closed(reason=reason):
            _hold(order, HoldCode.BRANCH_GONE, reason)
        case forges.Unknown(reason=reason):
            _hold(order, HoldCode.UNREACHABLE, reason)
        case _:
            assert_never(status)
    return True


def _record(order: MergeOrder, job: merging.MergeJob, merge_sha: str) -> None:
    """The target has it. What was published goes first: after a crash in between, the target still has it."""
    tidy(order, job)
    if not in_transaction(lambda session: merges.record_merged(session, order, merge_sha)):
        log.warning("record_lost", merge_request=order.id, sha=merge_sha)


def tidy(order: MergeOrder, job: merging.MergeJob) -> None:
    """Take back what was published, of work that the target has."""
    published = published_of(order)
    if published is not None and (stays := forge_of(order).close(job, published)) is not None:
        log.info("published_stays", merge_request=order.id, ref=published.ref, reason=stays)


def published_of(order: MergeOrder) -> Published | None:
    if order.published_ref is None or order.published_sha is None:
        return None
    return Published(ref=order.published_ref, sha=order.published_sha)


def _hold(order: MergeOrder, code: HoldCode, reason: str, output: str = "") -> None:
    """Looked at again, as a person may merge it all the same; unless an agent mends it, which is not disturbed."""
    mender = mender_for(order, code)
    in_transaction(
        lambda session: merges.hold(
            session, order, code, reason, output=output, look_again=mender is None, rework_agent=mender
        )
    )
