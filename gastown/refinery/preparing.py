"""The first half of a merge: merge the recorded head onto the target in a fresh worktree, and run the gates on that."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from gastown.agent.git import GitError
from gastown.agent.mirror import Mirror
from gastown.errors import RepositoryUnavailable
from gastown.gates import MergeMethod
from gastown.refinery import feature, gates, making, worktrees
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

T = TypeVar("T")


def prepare(job: MergeJob, runtime: Runtime, on_step: OnStep, should_stop: ShouldStop) -> PrepareOutcome:
    """Fetch, merge, set up, run the gates. Nothing on the remote changes; no worktree is left.

    `should_stop` is asked between steps and several times a second while a command runs. Raises GitFailed for what
    neither waiting nor another commit would mend, and what the runtime raises.
    """
    return or_held(job, lambda: _prepare(job, runtime, on_step, should_stop))


def or_held(job: MergeJob, work: Callable[[], T]) -> T | Held:
    """What `work` gives, or why the repository gave no answer; its worktrees are removed. Raises GitFailed."""
    try:
        return work()
    except GitError as error:
        known = translated(error, job.repository)
        if isinstance(known, RepositoryUnavailable):
            return Held(code=HoldCode.UNREACHABLE, reason=str(known), output=presentable(error.output))
        raise known from error
    finally:
        worktrees.remove_leftovers(worktrees.directory(job.home, job.rig_id), job.bead_id, job.merge_epoch)


def _prepare(job: MergeJob, runtime: Runtime, on_step: OnStep, should_stop: ShouldStop) -> PrepareOutcome:
    found = look(job, on_step)
    if isinstance(found, Held):
        return found
    mirror, target = found
    done = missing(mirror, job) or already(mirror, job, target)
    if done is not None:
        return done
    base = _base(mirror, job, target)
    if base != target and _brought(mirror, job, base):  # it waits for the dirty checkout already: nothing new to gate
        return Prepared(merge_sha=base, base_sha=base, expected_sha=target)
    if should_stop():
        return Stopped()
    on_step("merge")
    with worktrees.fresh(mirror, place_of(job), base, job.branch, files=needs_files(job)) as worktree:
        merged = making.make(job, mirror, worktree.path, base)
        if isinstance(merged, Held):
            return merged
        if leaves_nothing(mirror, job, merged, base):
            # what a staged merge has, the target has not yet: then this one waits and lands with that
            stacked = Prepared(merge_sha=base, base_sha=base, expected_sha=target)
            return NothingLeft(target) if base == target else stacked
        runs = run_gates(job, runtime, worktree, on_step, should_stop)
        if not isinstance(runs, tuple):
            return runs
        return Prepared(merge_sha=merged, base_sha=base, expected_sha=target, gate_runs=runs)


def place_of(job: MergeJob) -> Path:
    """Where its worktree is."""
    return worktrees.directory(job.home, job.rig_id) / f"{job.bead_id}-{job.merge_epoch}"


def needs_files(job: MergeJob) -> bool:
    """Whether anything but git looks at the result."""
    return bool(job.setup or job.gates)


def look(job: MergeJob, on_step: OnStep) -> tuple[Mirror, str] | Held:
    """The mirror, and the head of the target on the remote."""
    worktrees.remove_leftovers(worktrees.directory(job.home, job.rig_id), job.bead_id, job.merge_epoch)
    on_step("fetch")
    mirror = Mirror.open(job.home, job.rig_id, job.repository)
    target = fetch_target(mirror, job.target) if job.made_from is None else feature.ensure(mirror, job)
    if isinstance(target, Held):
        return target
    if target is None:
        reason = f"{job.repository} has no branch {job.target} any more"
        return Held(code=HoldCode.UNREACHABLE, reason=presentable(reason))
    return mirror, target


def missing(mirror: Mirror, job: MergeJob) -> Held | None:
    """Its head is nowhere to be found."""
    if has_commit(mirror, job.head_sha, job.head_ref):
        return None
    reason = f"commit {job.head_sha[:12]} is neither in this machine's mirror nor on {job.repository}"
    return Held(code=HoldCode.HEAD_MISSING, reason=presentable(reason))


def already(mirror: Mirror, job: MergeJob, target: str) -> AlreadyMerged | NothingLeft | None:
    brought = _brought(mirror, job, target)
    if brought is None:
        return None
    before = mirror.resolve(f"{brought}^1") if job.convoy else None
    if before is not None and making.is_empty(mirror, brought, before):
        return NothingLeft(target)
    return AlreadyMerged(brought, target)


def leaves_nothing(mirror: Mirror, job: MergeJob, made: str, base: str) -> bool:
    """Whether a squash, a rebase or a landing has only what was there already; another merge still says where the work
    came from."""
    counts = job.method is not MergeMethod.MERGE or job.convoy is not None
    return counts and making.is_empty(mirror, made, base)


def _brought(mirror: Mirror, job: MergeJob, tip: str) -> str | None:
    """The commit by which `tip` has the work: a merge, the head itself, or what a squash or a rebase made of it."""
    since = making.common(mirror, job.head_sha, tip)
    if job.head_sha in since:
        return bringer(mirror, job.head_sha, tip)
    return None if since == [tip] else making.brought(mirror, job, tip, since)


def _base(mirror: Mirror, job: MergeJob, target: str) -> str:
    """The staged tip when the target can still go there, else the target."""
    staged = mirror.resolve(job.staged_sha) if job.staged_sha else None
    return staged if staged and is_ancestor(mirror, target, staged) else target


def run_gates(
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
        container=job.container,
    ):
        if result.stopped or should_stop():
            return Stopped()
        if not result.passed:
            said = "\n".join([*(f"note: {presentable(each)}" for each in worktree.remarks), result.printed()])
            return Held(code=HoldCode.GATE_FAILED, reason=result.reason, output=said)
        if result.step == "gate":
            runs.append(result.run())
    return tuple(runs)
