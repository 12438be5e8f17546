"""Gates: the rig's own commands, run in a fresh clone through the rig's runtime, bounded in time and output."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from gastown.agent.git import GitError
from gastown.agent.mirror import Mirror
from gastown.agent.setup import CACHE
from gastown.containers import Container
from gastown.errors import NotFound, UsageError
from gastown.gates import GATE_TIMEOUT_S, Gate
from gastown.refinery import worktrees
from gastown.refinery.jobs import OUTPUT_CHARS, GateRun, OnStep, ShouldStop, presentable
from gastown.refinery.remote import translated
from gastown.refinery.worktrees import Worktree
from gastown.runtimes import CommandSpec, Runtime

NOT_FOUND, NOT_EXECUTABLE = 127, 126  # POSIX sh
PASSED_CHARS = 2000  # of the output of a try that passed, kept with the merge; the end of it


@dataclass(frozen=True, kw_only=True)
class GateResult:
    """How the set-up command or one gate ended. Without an exit code it ran out of time, had no place to run, or was
    stopped."""

    step: str  # "setup" or "gate"
    command: str
    title: str  # for messages
    exit_code: int | None
    timed_out: bool
    duration_s: float
    output: str
    name: str = ""
    missing_cwd: str = ""  # the directory that the tree does not have
    allowed: int = 1  # tries
    failed: tuple["GateResult", ...] = ()  # earlier tries

    @property
    def passed(self) -> bool:
        return self.exit_code == 0

    @property
    def stopped(self) -> bool:
        return self.exit_code is None and not self.timed_out and not self.missing_cwd

    @property
    def not_found(self) -> bool:
        """The shell did not find a program to run: the gate says nothing about the code."""
        return self.exit_code in (NOT_FOUND, NOT_EXECUTABLE)

    @property
    def reason(self) -> str:
        """One line for people."""
        tries = f", at the last of {len(self.failed) + 1} tries" if self.failed else ""
        return f"{self.step} {self.title} {self._ending}{tries}"

    @property
    def _ending(self) -> str:
        if self.missing_cwd:
            return f"cannot run: there is no directory {self.missing_cwd} in the repository"
        if self.timed_out:
            return f"ran out of time after {self.duration_s:.0f} s"
        if self.not_found:
            return f"cannot run: a program in it is not found or not executable (exit code {self.exit_code})"
        return "passed" if self.passed else f"failed with exit code {self.exit_code}"

    def printed(self, limit: int = OUTPUT_CHARS) -> str:
        """The end of what each try printed."""
        if not self.failed:
            return presentable(self.output, limit)
        tries = (*self.failed, self)
        parts = (
            f"--- try {number} of {self.allowed}: {each._ending}\n{presentable(each.output, limit // len(tries))}"
            for number, each in enumerate(tries, 1)
        )
        return "\n".join(part.rstrip("\n") for part in parts) + "\n"

    def run(self) -> GateRun:
        return GateRun(
            name=self.name,
            command=self.command,
            tries=len(self.failed) + 1,
            allowed=self.allowed,
            duration_s=round(sum(each.duration_s for each in (*self.failed, self)), 3),
            output=self.printed(OUTPUT_CHARS // 2 if self.failed else PASSED_CHARS),
        )


@dataclass(frozen=True, kw_only=True)
class _Place:
    """What a command finds around it, and what of this machine it may see where it is kept apart from that."""

    environment: Mapping[str, str] = field(repr=False)
    writable: tuple[Path, ...]
    readable: tuple[Path, ...]
    container: Container


def run_all(
    runtime: Runtime,
    worktree: Worktree,
    *,
    cache: Path,
    setup: str,
    gates: Sequence[Gate],
    environment: Mapping[str, str],
    on_step: OnStep,
    should_stop: ShouldStop,
    setup_timeout_s: float = GATE_TIMEOUT_S,
    container: Container | None = None,
) -> Iterator[GateResult]:
    """Run set-up, then the gates in order, yielding each result; the caller decides whether to go on.

    `cache` is the rig's folder that stays; HOME is in it, since most tools want one and the user's is not for gates.
    A gate's own environment comes last, so that it may say otherwise.
    """
    person = cache / "home"
    person.mkdir(mode=0o700, parents=True, exist_ok=True)
    rigs = {**environment, "HOME": str(person), CACHE: str(cache), "TMPDIR": str(worktree.scratch)}
    first = Gate(name="setup", command=setup, timeout_s=setup_timeout_s)
    place = _Place(
        environment=rigs,
        writable=(worktree.path.resolve(), worktree.scratch.resolve(), cache.resolve()),
        readable=worktrees.lenders(worktree.path),
        container=container or Container(),
    )
    for step, gate in [*([("setup", first)] if setup else []), *(("gate", gate) for gate in gates)]:
        failed: tuple[GateResult, ...] = ()
        while True:
            again = f" (try {len(failed) + 1} of {gate.retries + 1})" if failed else ""
            on_step("setup" if step == "setup" else f"gate: {gate.name}{again}")
            result = replace(_run(runtime, worktree, step, gate, place, should_stop), failed=failed)
            if not _may_pass_next_time(result):
                break
            failed = (*failed, replace(result, failed=()))
        yield result


def _may_pass_next_time(result: GateResult) -> bool:
    """Whether it failed in a way that a flaky gate may, and has a try left."""
    certain = result.passed or result.stopped or result.not_found or result.missing_cwd
    return not certain and len(result.failed) + 1 < result.allowed


def _run(
    runtime: Runtime,
    worktree: Worktree,
    step: str,
    gate: Gate,
    place: _Place,
    should_stop: ShouldStop,
) -> GateResult:
    top = worktree.path.resolve()
    cwd = (top / gate.cwd).resolve()  # a link in the work may lead anywhere
    ended = GateResult(
        step=step,
        command=gate.command,
        title=f"`{gate.command}`" if step == "setup" else gate.title,
        name=gate.name,
        allowed=gate.retries + 1,
        exit_code=None,
        timed_out=False,
        duration_s=0.0,
        output="",
    )
    if not (cwd.is_dir() and cwd.is_relative_to(top)):
        return replace(ended, missing_cwd=gate.cwd)
    spec = CommandSpec(
        command=gate.command,
        cwd=cwd,
        environment={**place.environment, **gate.environment},
        timeout_s=gate.timeout_s,
        container=place.container,
        writable=place.writable,
        readable=place.readable,
    )
    result = runtime.run(spec, should_stop=should_stop)
    return replace(
        ended,
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
    gates: Sequence[Gate],
    environment: Mapping[str, str],
    runtime: Runtime,
    on_step: OnStep,
    should_stop: ShouldStop = lambda: False,
    setup_timeout_s: float = GATE_TIMEOUT_S,
    container: Container | None = None,
) -> list[GateResult]:
    """Run set-up and every gate once on the head of `branch`, for `rig add`. Gates are left out when set-up fails.

    Raises RepositoryUnavailable, GitFailed, NotFound for the branch, and what the runtime raises.
    """
    try:
        mirror = Mirror.open(home, rig_id, repository)
        on_step("fetch")
        mirror.fetch()
        sha = mirror.target(branch)
        if sha is None and mirror.withholds(branch):
            hint = "there, run: git fetch --unshallow"
            raise UsageError(f"{repository} is a shallow clone: merges need the history", hint=hint)
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
                setup_timeout_s=setup_timeout_s,
                container=container,
            ):
                results.append(result)
                if result.stopped or (result.step == "setup" and not result.passed):
                    break
        return results
    except GitError as error:
        raise translated(error, repository) from error
