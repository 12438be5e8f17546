"""A remote with one commit, and an agent's work on it, as the supervisor leaves it: a SHA in the mirror and a ref."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from gastown.agent.git import git
from gastown.agent.mirror import Mirror
from gastown.agent.protocol import head_ref
from gastown.gates import Gate, in_order
from gastown.refinery.jobs import MergeJob, PrepareOutcome
from gastown.refinery.merging import prepare
from gastown.runtimes.process import ProcessRuntime

WHO = {
    f"GIT_{role}_{part}": value
    for role in ("AUTHOR", "COMMITTER")
    for part, value in (("NAME", "Ada"), ("EMAIL", "ada@example.com"))
}


def commit(repository: Path, files: dict[str, str] | None = None, message: str = "a change") -> str:
    for name, content in (files or {}).items():
        (repository / name).parent.mkdir(parents=True, exist_ok=True)
        (repository / name).write_text(content)
    git("add", "--all", cwd=repository)
    git("commit", "--quiet", "--allow-empty", "-m", message, cwd=repository, env=WHO)
    return head(repository)


def head(repository: Path, rev: str = "HEAD") -> str:
    return git("rev-parse", rev, cwd=repository).strip()


def add_hook(repository: Path, name: str, script: str) -> None:
    """To a checkout or a bare repository."""
    folder = (repository / ".git" if (repository / ".git").is_dir() else repository) / "hooks"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(script)
    (folder / name).chmod(0o755)


@dataclass
class Rig:
    """One repository under management, and what its agents and its refinery do to it in a test."""

    home: Path
    remote: Path
    scratch: Path
    runtime: ProcessRuntime
    steps: list[str] = field(default_factory=list)

    @property
    def mirror(self) -> Mirror:
        return Mirror.open(self.home, 1, str(self.remote))

    def work(self, bead: str, files: dict[str, str], *, target: str = "main", push: bool = True) -> MergeJob:
        """An agent's attempt: a commit in a clone, the candidate in mirror and remote; and the job to merge it."""
        self.mirror.fetch()
        base = self.mirror.target(target)
        assert base
        clone = self.scratch / bead
        self.mirror.clone(clone, base, f"gt/{bead}")
        sha = commit(clone, files, f"work on {bead}")
        if push:
            self.mirror.keep(clone, f"{sha}:{head_ref(bead, 1)}")
            self.mirror.push(f"{sha}:{head_ref(bead, 1)}")
        return MergeJob(
            home=self.home,
            rig_id=1,
            repository=str(self.remote),
            target=target,
            bead_id=bead,
            dispatch_id="0f0f",
            title=f"Title of {bead}",
            head_sha=sha,
            head_ref=head_ref(bead, 1),
            environment={"PATH": os.environ["PATH"]},
        )

    def prepare(self, job: MergeJob, gates: Sequence[Gate | str] = (), **changes: object) -> PrepareOutcome:
        job = replace(job, gates=tuple(in_order(gates)) or job.gates, **changes)  # type: ignore[arg-type]
        return prepare(job, self.runtime, self.steps.append, lambda: False)

    def leftovers(self) -> list[Path]:
        folder = self.home / "merges" / "1"
        return list(folder.iterdir()) if folder.is_dir() else []

    def on_target(self, branch: str = "main") -> list[str]:
        """The subjects on the target, newest first."""
        return git("log", "--format=%s", branch, cwd=self.remote).splitlines()


def rig_on(remote: Path, tmp_path: Path, home: Path) -> Rig:
    home.mkdir(exist_ok=True)
    return Rig(home=home, remote=remote, scratch=tmp_path / "clones", runtime=ProcessRuntime(home))
