"""Merges that go along with the one that was claimed: prepared together, and known again when somebody else pushed."""

from collections.abc import Sequence

from gastown.db import in_transaction
from gastown.refinery import merging
from gastown.runtimes import Runtime
from gastown.store import batches, merges
from gastown.store.orders import MergeOrder
from gastown.tasks.leases import Lease
from gastown.tasks.mending import mender_for


def prepare(
    order: MergeOrder, jobs: Sequence[merging.MergeJob], runtime: Runtime, lease: Lease
) -> merging.PrepareOutcome:
    """Who is not to be pushed with the first is held, or queued again, now: whatever becomes of the push."""
    batch = merging.prepare_batch(jobs, runtime, lease.on_step, lease.is_over)
    left_out = {bead: f"left out of the batch of {order.bead_id}: {why}" for bead, why in batch.left_out.items()}
    if left_out:
        in_transaction(lambda session: batches.leave_out(session, order, left_out))
    red = batch.red
    if red is not None:
        [culprit] = (member for member in order.members if member.bead_id == batch.culprit)
        mender = mender_for(culprit, red.code)
        in_transaction(
            lambda session: merges.hold_along(session, order, culprit, red.reason, red.output, rework_agent=mender)
        )
    return batch.outcome


def along(order: MergeOrder, prepared: merging.Prepared) -> list[batches.Along]:
    """Those members that are to be pushed with the first."""
    members = {member.bead_id: member for member in order.members}
    return [
        batches.Along(order=members[each.bead_id], merge_sha=each.merge_sha, base_sha=each.base_sha)
        for each in prepared.along
    ]


def pushed_along(order: MergeOrder) -> tuple[merging.Stacked, ...]:
    """The commits of its members, of a push that somebody else began."""
    made = []
    base = order.pushing_sha
    for member in order.members:
        sha = member.pushing_sha
        assert base is not None
        assert sha is not None
        made.append(merging.Stacked(bead_id=member.bead_id, merge_sha=sha, base_sha=base))
        base = sha
    return tuple(made)
