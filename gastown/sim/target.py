"""The repositories into which work is merged: commits as names, each with all that it stands on."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from gastown.errors import RepositoryUnavailable
from gastown.refinery.batching import Batch
from gastown.refinery.jobs import (
    AlreadyMerged,
    Dirty,
    Held,
    MergeJob,
    Moved,
    Prepared,
    PrepareOutcome,
    Pushed,
    PushOutcome,
    PushRefused,
    Stacked,
    Stopped,
    Unknown,
)
from gastown.sim.actors import Option, Stage
from gastown.states import HoldCode

PREPARING = (
    Option("clean", 20),
    Option("conflict", 0.7, fault=True),
    Option("red", 0.7, fault=True),
    Option("away", 1, fault=True),
    Option("crashes", 0.2, fault=True),
)
MENDED = tuple(replace(each, weight=4.0) if each.name in ("conflict", "red") else each for each in PREPARING)
RED_FROM = {"red from the first": 0, "red from the second": 1, "red from the third": 2}  # how many are green
STACKING = (
    Option("clean", 20),
    Option("the first conflicts", 1, fault=True),
    Option("the last conflicts", 3, fault=True),
    *(Option(name, 3, fault=True) for name in RED_FROM),
    Option("away", 1, fault=True),
    Option("crashes", 0.2, fault=True),
)
GATING = (Option("passes", 20),)
PUSHING = (
    Option("arrives", 20),
    Option("moved", 1.5, fault=True),
    Option("refused", 0.5, fault=True),
    Option("dirty", 1.5, fault=True),
    Option("no answer, arrived", 1.5, fault=True),
    Option("no answer", 1.5, fault=True),
)
LOOKING = (Option("answers", 10), Option("away", 1, fault=True))


MAIN = "main"


def sha(*words: object) -> str:
    return hashlib.sha1(" ".join(map(str, words)).encode(), usedforsecurity=False).hexdigest()


@dataclass
class Landing:
    """One commit that a push brought to the target's head."""

    rig_id: int
    commit: str
    merges: list[str]  # the heads that came with it
    branch: str = MAIN


@dataclass
class Target:
    """A branch of a rig. Those of one rig share their commits."""

    head: str
    above: dict[str, frozenset[str]] = field(default_factory=dict)  # commit -> all that it stands on, with itself
    merged_head: dict[str, str] = field(default_factory=dict)  # merge commit -> the head that it merged
    strangers: int = 0

    def holds(self, commit: str) -> bool:
        return commit in self.above[self.head]

    def bringer(self, head: str) -> str:
        """The merge that brought it to the branch."""
        merges = (each for each, merged in self.merged_head.items() if merged == head and self.holds(each))
        return next(merges, self.head)

    def merge(self, job: MergeJob, base: str) -> str:
        """A commit, not on the branch yet, that merges the job's head onto the base."""
        commit = sha("merge", job.head_sha, base, job.merge_epoch)
        self.above[commit] = self.above[base] | self.above.get(job.head_sha, {job.head_sha}) | {commit}
        self.merged_head[commit] = job.head_sha
        return commit


class SimTargets:
    """In place of `gastown.refinery.merging`: the same functions, with the outcomes that the scheduler chooses."""

    def __init__(self, stage: Stage, *, mends: bool = False) -> None:
        self.stage = stage
        self._preparing = MENDED if mends else PREPARING
        self.targets: dict[tuple[int, str], Target] = {}
        self.landings: list[Landing] = []  # since the oracles looked last

    def of(self, rig_id: int, branch: str = MAIN, head: str | None = None) -> Target:
        """A branch other than the rig's own begins as that, or at `head`."""
        if (rig_id, MAIN) not in self.targets:
            root = sha("root", rig_id)
            self.targets[rig_id, MAIN] = Target(root, {root: frozenset({root})})
        main = self.targets[rig_id, MAIN]
        if (rig_id, branch) not in self.targets:
            self.targets[rig_id, branch] = Target(head or main.head, main.above, main.merged_head)
        return self.targets[rig_id, branch]

    def of_job(self, job: MergeJob) -> Target:
        return self.of(job.rig_id, job.target, job.made_at)

    def below(self, rig_id: int, commit: str | None) -> frozenset[str]:
        """All that a commit stands on, with itself. None: the head of the rig's branch."""
        main = self.of(rig_id)
        return main.above.get(commit or main.head, frozenset({commit or main.head}))

    def make(self, rig_id: int, head: str, below: frozenset[str]) -> None:
        """Somebody's work, on top of all that."""
        self.of(rig_id).above[head] = below | {head}

    def prepare(self, job: MergeJob, runtime: Any, on_step: Any, should_stop: Any) -> PrepareOutcome:
        outcome = self._may_raise("prepares", self._preparing)
        target = self.of_job(job)
        if target.holds(job.head_sha):
            return AlreadyMerged(target.bringer(job.head_sha))
        expected = target.head
        above = target.above.get(job.staged_sha or "")
        base = job.staged_sha if above is not None and target.head in above else target.head
        assert base is not None
        if job.head_sha in target.above[base]:
            return Prepared(merge_sha=base, base_sha=base, expected_sha=expected)
        if should_stop():
            return Stopped()
        on_step("merge")
        if outcome == "conflict":
            return Held(code=HoldCode.CONFLICT, reason="conflicts in a.py")
        commit = target.merge(job, base)
        on_step("gate")
        self.stage.pause("runs its gates", GATING)
        if should_stop():
            return Stopped()
        if outcome == "red":
            return Held(code=HoldCode.GATE_FAILED, reason="the gate is red", output="1 failed")
        return Prepared(merge_sha=commit, base_sha=base, expected_sha=expected)

    def _may_raise(self, where: str, options: tuple[Option, ...]) -> str:
        outcome = self.stage.pause(where, options)
        if outcome == "away":
            raise RepositoryUnavailable("the remote does not answer")
        if outcome == "crashes":
            raise OSError("no space left on device")
        return outcome

    def prepare_batch(self, jobs: Sequence[MergeJob], runtime: Any, on_step: Any, should_stop: Any) -> Batch:
        outcome = self._may_raise("prepares a batch", STACKING)
        target = self.of_job(jobs[0])
        if should_stop():
            return Batch(outcome=Stopped())
        expected, made, left_out = target.head, list[Stacked](), dict[str, str]()
        for job in jobs:
            base = made[-1].merge_sha if made else expected
            if job is jobs[0] and target.holds(job.head_sha):
                return Batch(outcome=AlreadyMerged(target.bringer(job.head_sha)))
            if job is jobs[0] and outcome == "the first conflicts":
                return Batch(outcome=Held(code=HoldCode.CONFLICT, reason="conflicts in a.py"))
            if target.holds(job.head_sha):
                left_out[job.bead_id] = "the target has it already"
            elif job is jobs[-1] and outcome == "the last conflicts":
                left_out[job.bead_id] = "conflicts in a.py"
            else:
                made.append(Stacked(bead_id=job.bead_id, merge_sha=target.merge(job, base), base_sha=base))
        on_step("merge")
        return self._gated(made, expected, left_out, RED_FROM.get(outcome, len(made)), should_stop)

    def _gated(
        self, made: list[Stacked], expected: str, left_out: dict[str, str], green: int, should_stop: Any
    ) -> Batch:
        self.stage.pause("runs its gates", GATING)
        if should_stop():
            return Batch(outcome=Stopped())
        red = Held(code=HoldCode.GATE_FAILED, reason="the gate is red", output="1 failed")
        if green == 0:
            return Batch(outcome=red, left_out=left_out)
        first, *along = made[:green]
        outcome = Prepared(
            merge_sha=first.merge_sha, base_sha=first.base_sha, expected_sha=expected, along=tuple(along)
        )
        if green >= len(made):
            return Batch(outcome=outcome, left_out=left_out)
        return Batch(outcome=outcome, left_out=left_out, culprit=made[green].bead_id, red=red)

    def push(self, job: MergeJob, prepared: Prepared) -> PushOutcome:
        return self._push(job, prepared.tip_sha, prepared.expected_sha)

    def land(self, job: MergeJob, staged_sha: str) -> PushOutcome:
        if self.stage.pause("looks", LOOKING) == "away":
            return Unknown("the remote does not answer")
        target = self.of_job(job)
        if staged_sha not in target.above:
            return Moved()
        if target.holds(staged_sha):
            return Pushed()
        if target.head not in target.above[staged_sha]:
            return Moved()
        return self._push(job, staged_sha, target.head)

    def _push(self, job: MergeJob, commit: str, expected: str) -> PushOutcome:
        outcome = self.stage.pause("pushes", PUSHING)
        target = self.of_job(job)
        if outcome == "moved":
            self.stranger(job.rig_id)
        if target.head not in (expected, commit):
            return Moved()
        if outcome == "refused":
            return PushRefused("protected branch")
        if outcome == "dirty":
            return Dirty(("a.py",))
        if outcome == "no answer":
            return Unknown("the connection broke")
        if target.head != commit:
            brought = sorted(target.merged_head[each] for each in self._new(target, commit))
            self.landings.append(Landing(job.rig_id, commit, brought, job.target))
            target.head = commit
        self.stage.pause("pushed")
        return Pushed() if outcome == "arrives" else Unknown("the connection broke")

    @staticmethod
    def _new(target: Target, commit: str) -> list[str]:
        return [each for each in target.above[commit] - target.above[target.head] if each in target.merged_head]

    def stranger(self, rig_id: int) -> None:
        """Somebody else pushes to the target."""
        target = self.of(rig_id)
        target.strangers += 1
        commit = sha("stranger", rig_id, target.strangers)
        target.above[commit] = target.above[target.head] | {commit}
        target.head = commit

    def contains(self, job: MergeJob, commit: str) -> bool:
        if self.stage.pause("looks", LOOKING) == "away":
            raise RepositoryUnavailable("the remote does not answer")
        return self.of_job(job).holds(commit)

    def stage_commit(self, job: MergeJob, prepared: Prepared) -> None:
        if self.stage.pause("stages", LOOKING) == "away":
            raise RepositoryUnavailable("the remote does not answer")

    def release(self, job: MergeJob) -> None:
        """It has no folders."""
