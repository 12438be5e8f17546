"""Several merges as one: each is merged onto the one before it, and the gates run once, on the last. If they are red,
the stack is halved until it is known who made them so; what stands below him is gated by then, and lands.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from gastown.agent.git import GitError, git
from gastown.agent.mirror import Mirror
from gastown.refinery import making, worktrees
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
    Stacked,
    Stopped,
)
from gastown.refinery.preparing import already, leaves_nothing, look, missing, needs_files, or_held, place_of, run_gates
from gastown.runtimes import Runtime
from gastown.states import HoldCode

SHOWN = 3  # of the merges below a culprit, in its reason


@dataclass(frozen=True, kw_only=True)
class Batch:
    """How a batch ended. The outcome is of its leader, and a `Prepared` names who is pushed along with it."""

    outcome: PrepareOutcome
    left_out: dict[str, str] = field(default_factory=dict)  # by bead: why it is not in the stack
    culprit: str | None = None  # the bead that made the gates red
    red: Held | None = None  # ... and how


@dataclass
class _Stack:
    """What is merged so far, in the worktree in which that is done."""

    mirror: Mirror
    target: str  # the head of the target, below everything
    made: list[Stacked] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)

    @property
    def tip(self) -> str:
        return self.made[-1].merge_sha if self.made else self.target


def prepare_batch(jobs: Sequence[MergeJob], runtime: Runtime, on_step: OnStep, should_stop: ShouldStop) -> Batch:
    """`prepare` for the first of the jobs with the others along, best first. Raises what that raises.

    Who conflicts with those below him, or has no commits left, is left out: alone he is judged for what he is. That of
    the first ends the batch.
    """
    ended = or_held(jobs[0], lambda: _prepare(jobs, runtime, on_step, should_stop))
    return Batch(outcome=ended) if isinstance(ended, Held) else ended


def _prepare(jobs: Sequence[MergeJob], runtime: Runtime, on_step: OnStep, should_stop: ShouldStop) -> Batch:
    leader = jobs[0]
    found = look(leader, on_step)
    if isinstance(found, Held):
        return Batch(outcome=found)
    mirror, target = found
    stack = _Stack(mirror, target)
    with worktrees.fresh(mirror, place_of(leader), target, leader.branch, files=needs_files(leader)) as worktree:
        for number, job in enumerate(jobs, 1):
            if should_stop():
                return Batch(outcome=Stopped())
            on_step(f"merge {number} of {len(jobs)}")
            outcome = _add(stack, job, worktree.path)
            if outcome is not None and job is leader:
                return Batch(outcome=outcome)
        runs = run_gates(leader, runtime, worktree, _shown(on_step, len(stack.made)), should_stop)
    if isinstance(runs, Held):
        return _bisect(stack, leader, runs, runtime, on_step, should_stop)
    if isinstance(runs, Stopped):
        return Batch(outcome=runs)
    return Batch(outcome=_prepared(stack, len(stack.made), runs), left_out=stack.left_out)


def _prepared(stack: _Stack, length: int, runs: tuple[GateRun, ...]) -> Prepared:
    first, *along = stack.made[:length]
    return Prepared(
        merge_sha=first.merge_sha,
        base_sha=first.base_sha,
        expected_sha=stack.target,
        gate_runs=runs,
        along=tuple(along),
    )


def _shown(on_step: OnStep, length: int) -> OnStep:
    return on_step if length == 1 else lambda step: on_step(f"{step}, on {length} merges together")


def _add(stack: _Stack, job: MergeJob, worktree: Path) -> PrepareOutcome | None:
    """Merge one more onto the tip, or say why not. Either way the worktree is at the tip afterwards."""
    base = stack.tip
    outcome: PrepareOutcome | None = None
    try:
        outcome = missing(stack.mirror, job) or already(stack.mirror, job, stack.target)
        made = making.make(job, stack.mirror, worktree, base) if outcome is None else base
    except GitError as error:
        if not stack.made:
            raise
        made = Held(code=HoldCode.MERGE_ERROR, reason=f"it could not be merged: {error.reason}")  # his fault alone
    if isinstance(made, Held):
        outcome = made
    elif outcome is None and (made == base or leaves_nothing(stack.mirror, job, made, base)):
        outcome = NothingLeft(stack.target)
    if outcome is None and isinstance(made, str):
        stack.made.append(Stacked(bead_id=job.bead_id, merge_sha=made, base_sha=base))
    elif outcome is not None and stack.made:
        stack.left_out[job.bead_id] = _why(outcome, stack.made[-1].bead_id)
        _restore(worktree, base, job.branch)
    return outcome


def _why(outcome: PrepareOutcome, below: str) -> str:
    match outcome:
        case AlreadyMerged(merge_sha=sha):
            return f"the target has it already, as {sha[:12]}"
        case Held(reason=reason):
            return reason
        case _:
            return f"nothing of it is left on top of {below}"


def _restore(worktree: Path, sha: str, branch: str) -> None:
    """The worktree as it was before a merge into it failed half-way."""
    if any((worktree / ".git" / name).exists() for name in ("rebase-merge", "rebase-apply")):
        git("rebase", "--quit", cwd=worktree)
    git("checkout", "--quiet", "--force", "-B", branch, sha, "--", cwd=worktree)
    git("clean", "-ffdxq", cwd=worktree)


def _bisect(
    stack: _Stack, leader: MergeJob, red: Held, runtime: Runtime, on_step: OnStep, should_stop: ShouldStop
) -> Batch:
    """The longest stack that is green, found by halving, with who comes next as the culprit.

    `red` is what the gates said of all of it. The target itself is taken for green: it was, when it was pushed to.
    """
    green, bad, runs = 0, len(stack.made), tuple[GateRun, ...]()
    while bad - green > 1:
        middle = (green + bad) // 2
        with worktrees.fresh(
            stack.mirror, place_of(leader), stack.made[middle - 1].merge_sha, leader.branch
        ) as worktree:
            said = run_gates(leader, runtime, worktree, _shown(on_step, middle), should_stop)
        if isinstance(said, Stopped):
            return Batch(outcome=said)
        if isinstance(said, Held):
            bad, red = middle, said
        else:
            green, runs = middle, said
    if green == 0:
        return Batch(outcome=red, left_out=stack.left_out)
    below = [each.bead_id for each in stack.made[:green]]
    more = f" and {len(below) - SHOWN} more" if len(below) > SHOWN else ""
    reason = f"{red.reason}, on top of {', '.join(below[-SHOWN:])}{more}"
    return Batch(
        outcome=_prepared(stack, green, runs),
        left_out=stack.left_out,
        culprit=stack.made[green].bead_id,
        red=replace(red, reason=reason),
    )
