"""The first half of a merge: merge the recorded head onto the target in a fresh worktree, and run the gates on that."""

from gastown.agent.git import GitError
from gastown.agent.mirror import Mirror
from gastown.errors import RepositoryUnavailable
from gastown.gates import MergeMethod
from gastown.refinery import gates, making, worktrees
from gastown.refinery.jobs import (
    AlreadyMerged,
    GateRun,
    Held,
    MergeJob,
    NothingLeft,
    OnStep,
    Prepared,
    PrepareOutcome,
    ShouldStop,
    Stopped,
    presentable,
)
from gastown.refinery.remote import bringer, fetch_target, has_commit, is_ancestor, translated
from gastown.refinery.worktrees import Worktree
from gastown.runtimes import Runtime
from gastown.states import HoldCode


def prepare(job: MergeJob, runtime: Runtime, on_step: OnStep, should_stop: ShouldStop) -> PrepareOutcome:
    """Fetch, merge, set up, run the gates. Nothing on the remote changes; no worktree is left.

    `should_stop` is asked between steps and several times a second while a command runs. Raises GitFailed for what
    neither waiting nor another commit would mend, and what the runtime raises.
    """
    try:
        return _prepare(job, runtime, on_step, should_stop)
    except GitError as error:
        known = translated(error, job.repository)
        if isinstance(known, RepositoryUnavailable):
            return Held(code=HoldCode.UNREACHABLE, reason=str(known), output=presentable(error.output))
        raise known from error
    finally:
        worktrees.remove_leftovers(worktrees.directory(job.home, job.rig_id), job.bead_id, job.merge_epoch)


def _prepare(job: MergeJob, runtime: Runtime, on_step: OnStep, should_stop: ShouldStop) -> PrepareOutcome:
    parent = worktrees.directory(job.home, job.rig_id)
    worktrees.remove_leftovers(parent, job.bead_id, job.merge_epoch)
    on_step("fetch")
    mirror = Mirror.open(job.home, job.rig_id, job.repository)
    target = fetch_target(mirror, job.target)
    if target is None:
        reason = f"{job.repository} has no branch {job.target} any more"
        return Held(code=HoldCode.UNREACHABLE, reason=presentable(reason))
    if not has_commit(mirror, job.head_sha, job.head_ref):
        reason = f"commit {job.head_sha[:12]} is neither in this machine's mirror nor on {job.repository}"
        return Held(code=HoldCode.HEAD_MISSING, reason=presentable(reason))
    if (brought := _brought(mirror, job, target)) is not None:
        return AlreadyMerged(brought)
    base = _base(mirror, job, target)
    if base != target and _brought(mirror, job, base):  # it waits for the dirty checkout already: nothing new to gate
        return Prepared(merge_sha=base, base_sha=base, expected_sha=target)
    if should_stop():
        return Stopped()
    on_step("merge")
    with worktrees.fresh(mirror, parent / f"{job.bead_id}-{job.merge_epoch}", base, job.target) as worktree:
        merged = making.make(job, mirror, worktree.path, base)
        if isinstance(merged, Held):
            return merged
        if job.method is not MergeMethod.MERGE and making.is_empty(mirror, merged, base):
            # what a staged merge has, the target has not yet: then this one waits and lands with that
            stacked = Prepared(merge_sha=base, base_sha=base, expected_sha=target)
            return NothingLeft(target) if base == target else stacked
        runs = _run_gates(job, runtime, worktree, on_step, should_stop)
        if not isinstance(runs, tuple):
            return runs
        return Prepared(merge_sha=merged, base_sha=base, expected_sha=target, gate_runs=runs)


def _brought(mirror: Mirror, job: MergeJob, tip: str) -> str | None:
    """The commit by which `tip` has the work: a merge, the head itself, or what a squash or a rebase made of it."""
    if is_ancestor(mirror, job.head_sha, tip):
        return bringer(mirror, job.head_sha, tip)
    return making.brought(mirror, job, tip)


def _base(mirror: Mirror, job: MergeJob, target: str) -> str:
    """The staged tip when the target can still go there, else the target."""
    staged = mirror.resolve(job.staged_sha) if job.staged_sha else None
    return staged if staged and is_ancestor(mirror, target, staged) else target


def _run_gates(
    job: MergeJob, runtime: Runtime, worktree: Worktree, on_step: OnStep, should_stop: ShouldStop
) -> Held | Stopped | tuple[GateRun, ...]:
    runs: list[GateRun] = []
    for result in gates.run_all(
        runtime,
        worktree,
        cache=gates.cache_of(job.home, job.rig_id),
        setup=job.setup,
        gates=job.gates,
        environment=job.environment,
        on_step=on_step,
        should_stop=should_stop,
        setup_timeout_s=job.setup_timeout_s,
    ):
        if result.stopped or should_stop():
            return Stopped()
        if not result.passed:
            return Held(code=HoldCode.GATE_FAILED, reason=result.reason, output=result.printed())
        if result.step == "gate":
            runs.append(result.run())
    return tuple(runs)
