"""The first half of a merge: merge the recorded head onto the target in a fresh worktree, and run the gates on that."""

from pathlib import Path

from gastown.agent.git import GitError, git
from gastown.agent.mirror import Mirror
from gastown.errors import RepositoryUnavailable
from gastown.refinery import gates, worktrees
from gastown.refinery.jobs import (
    AlreadyMerged,
    GateRun,
    Held,
    MergeJob,
    OnStep,
    Prepared,
    PrepareOutcome,
    ShouldStop,
    Stopped,
    presentable,
    presentable_path,
)
from gastown.refinery.remote import bringer, fetch_target, is_ancestor, translated
from gastown.refinery.worktrees import Worktree
from gastown.runtimes import Runtime
from gastown.states import HoldCode

SUBJECT_CHARS = 200
SHOWN_PATHS = 10


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
    if not _have_head(mirror, job):
        reason = f"commit {job.head_sha[:12]} is neither in this machine's mirror nor on {job.repository}"
        return Held(code=HoldCode.HEAD_MISSING, reason=presentable(reason))
    if is_ancestor(mirror, job.head_sha, target):
        return AlreadyMerged(bringer(mirror, job.head_sha, target))
    base = _base(mirror, job, target)
    if is_ancestor(mirror, job.head_sha, base):  # it waits for the dirty checkout already: nothing new to gate
        return Prepared(merge_sha=base, base_sha=base, expected_sha=target)
    if should_stop():
        return Stopped()
    on_step("merge")
    with worktrees.fresh(mirror, parent / f"{job.bead_id}-{job.merge_epoch}", base, job.target) as worktree:
        merged = _merge(job, mirror, worktree.path)
        if isinstance(merged, Held):
            return merged
        runs = _run_gates(job, runtime, worktree, on_step, should_stop)
        if not isinstance(runs, tuple):
            return runs
        return Prepared(merge_sha=merged, base_sha=base, expected_sha=target, gate_runs=runs)


def _have_head(mirror: Mirror, job: MergeJob) -> bool:
    """Whether the mirror has the recorded head, now or after asking the remote: by the ref, then by the SHA itself."""
    if mirror.resolve(job.head_sha):
        return True
    # never onto our own refs: the ref may have been pushed to since, and here it may hold what is found nowhere else
    archived = job.head_ref.removeprefix("refs/gastown/")
    for refspec in (
        f"+{job.head_ref}:refs/remotes/gastown/{archived}",
        f"{job.head_sha}:refs/remotes/gastown/sha/{job.head_sha}",
    ):
        try:
            mirror.fetch(refspec)
        except GitError as error:
            if not _says_it_has_none(error):
                raise
        if mirror.resolve(job.head_sha):
            return True
    return False


def _says_it_has_none(error: GitError) -> bool:
    words = (
        "couldn't find remote ref",
        "not our ref",
        "unadvertised object",
        "bad object",
        "missing necessary objects",
    )
    return any(word in error.output for word in words)


def _base(mirror: Mirror, job: MergeJob, target: str) -> str:
    """The staged tip when the target can still go there, else the target."""
    staged = mirror.resolve(job.staged_sha) if job.staged_sha else None
    return staged if staged and is_ancestor(mirror, target, staged) else target


def _merge(job: MergeJob, mirror: Mirror, worktree: Path) -> str | Held:
    """The SHA of the merge commit, kept in the mirror before any command of the rig can touch the clone."""
    subject = " ".join(f"Merge {job.bead_id}: {job.title}".split())[:SUBJECT_CHARS]
    message = f"{subject}\n\nGastown-Bead: {job.bead_id}\nGastown-Dispatch: {job.dispatch_id}\n"
    options = ("--no-ff", "--no-edit", "--no-stat", "--no-log", "--no-signoff", "--no-verify-signatures")
    try:
        git("merge", *options, "--cleanup=whitespace", "-m", message, job.head_sha, cwd=worktree, env=_identity(job))
    except GitError as error:
        if "refusing to merge unrelated histories" in error.output:
            reason = f"the work and {job.target} have no commit in common"
            return Held(code=HoldCode.CONFLICT, reason=reason, output=presentable(error.output))
        paths = git("diff", "--name-only", "--diff-filter=U", "-z", cwd=worktree).split("\0")[:-1]
        if error.exit_code != 1 or not paths:
            raise
        more = f" and {len(paths) - SHOWN_PATHS} more" if len(paths) > SHOWN_PATHS else ""
        reason = f"conflicts with {job.target} in {', '.join(map(presentable_path, paths[:SHOWN_PATHS]))}{more}"
        return Held(code=HoldCode.CONFLICT, reason=reason, output=presentable(error.output))
    merge_sha = git("rev-parse", "HEAD", cwd=worktree).strip()
    mirror.keep(worktree, f"+{merge_sha}:{job.merging_ref}")
    return merge_sha


def _identity(job: MergeJob) -> dict[str, str]:
    return {
        "GIT_AUTHOR_NAME": job.author,
        "GIT_AUTHOR_EMAIL": job.email,
        "GIT_COMMITTER_NAME": job.author,
        "GIT_COMMITTER_EMAIL": job.email,
    }


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
