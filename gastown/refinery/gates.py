"""Gates: the rig's own commands, run in a fresh clone through the rig's runtime, bounded in time and output."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gastown.agent.git import GitError
from gastown.agent.mirror import Mirror
from gastown.agent.setup import CACHE
from gastown.errors import NotFound
from gastown.refinery import worktrees
from gastown.refinery.jobs import GATE_TIMEOUT_S, OnStep, ShouldStop, presentable
from gastown.refinery.remote import translated
from gastown.refinery.worktrees import Worktree
from gastown.runtimes import CommandSpec, Runtime

NOT_FOUND, NOT_EXECUTABLE = 127, 126  # POSIX sh


@dataclass(frozen=True, kw_only=True)
class GateResult:
    """How the set-up command or one gate ended. Neither passed nor timed out without an exit code: it was stopped."""

    step: str  # "setup" or "gate"
    command: str
    exit_code: int | None
    timed_out: bool
    duration_s: float
    output: str

    @property
    def passed(self) -> bool:
        return self.exit_code == 0

    @property
    def stopped(self) -> bool:
        return self.exit_code is None and not self.timed_out

    @property
    def not_found(self) -> bool:
        """The shell did not find a program to run: the gate says nothing about the code."""
        return self.exit_code in (NOT_FOUND, NOT_EXECUTABLE)

    @property
    def reason(self) -> str:
        """One line for people."""
        what = f"{self.step} `{self.command}`"
        if self.timed_out:
            return f"{what} ran out of time after {self.duration_s:.0f} s"
        if self.not_found:
            return f"{what} cannot run: a program in it is not found or not executable (exit code {self.exit_code})"
        return f"{what} {'passed' if self.passed else f'failed with exit code {self.exit_code}'}"


def run_all(
    runtime: Runtime,
    worktree: Worktree,
    *,
    cache: Path,
    setup: str,
    gates: Sequence[str],
    environment: Mapping[str, str],
    on_step: OnStep,
    should_stop: ShouldStop,
    timeout_s: float = GATE_TIMEOUT_S,
) -> Iterator[GateResult]:
    """Run set-up, then the gates in order, yielding each result; the caller decides whether to go on.

    `cache` is the rig's folder that stays; HOME is in it, since most tools want one and the user's is not for gates.
    """
    person = cache / "home"
    person.mkdir(mode=0o700, parents=True, exist_ok=True)
    own = {"HOME": str(person), CACHE: str(cache), "TMPDIR": str(worktree.scratch)}
    steps = [("setup", setup)] if setup else []
    for step, command in [*steps, *(("gate", gate) for gate in gates)]:
        on_step(step if step == "setup" else f"gate: {command}")
        spec = CommandSpec(
            command=command,
            cwd=worktree.path,
            environment={**environment, **own},
            timeout_s=timeout_s,
        )
        result = runtime.run(spec, should_stop=should_stop)
        yield GateResult(
            step=step,
            command=command,
            exit_code=result.exit_code,
            timed_out=result.timed_out,
            duration_s=result.duration_s,
            output=presentable(result.output),
        )


def cache_of(home: Path, rig_id: int) -> Path:
    """The same folder as for set-ups of the rig's agents (`agent.setup.Setup`)."""
    return home.resolve() / "cache" / str(rig_id)


def check_base(
    *,
    home: Path,
    rig_id: int,
    repository: str,
    branch: str,
    setup: str,
    gates: Sequence[str],
    environment: Mapping[str, str],
    runtime: Runtime,
    on_step: OnStep,
    should_stop: ShouldStop = lambda: False,
    timeout_s: float = GATE_TIMEOUT_S,
) -> list[GateResult]:
    """Run set-up and every gate once on the head of `branch`, for `rig add`. Gates are left out when set-up fails.

    Raises RepositoryUnavailable, GitFailed, NotFound for the branch, and what the runtime raises.
    """
    try:
        mirror = Mirror.open(home, rig_id, repository)
        on_step("fetch")
        mirror.fetch()
        sha = mirror.target(branch)
        if sha is None:
            raise NotFound("branch", f"{branch} in {repository}")
        results = []
        with worktrees.fresh(mirror, worktrees.directory(home, rig_id) / "base", sha, branch) as worktree:
            for result in run_all(
                runtime,
                worktree,
                cache=cache_of(home, rig_id),
                setup=setup,
                gates=gates,
                environment=environment,
                on_step=on_step,
                should_stop=should_stop,
                timeout_s=timeout_s,
            ):
                results.append(result)
                if result.stopped or (result.step == "setup" and not result.passed):
                    break
        return results
    except GitError as error:
        raise translated(error, repository) from error
