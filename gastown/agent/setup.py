"""The rig's set-up command, run in the worktree before the agent, and skipped where it would change nothing."""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path

from gastown.agent.command import Finished, run_command
from gastown.agent.git import git

TIMEOUT_S = 1800.0
OUTPUT_BYTES = 1024 * 1024
CACHE = "GASTOWN_CACHE"  # a directory that stays: for virtual environments, package caches
_LOCKFILES = (
    "requirements*.txt",
    "requirements/*.txt",
    "pyproject.toml",
    "setup.py",
    "setup.cfg",
    "poetry.lock",
    "uv.lock",
    "pdm.lock",
    "Pipfile.lock",
    "package.json",
    "package-lock.json",
    "npm-shrinkwrap.json",
    "yarn.lock",
    "pnpm-lock.yaml",
    "bun.lock*",
    "Cargo.lock",
    "go.sum",
    "Gemfile.lock",
    "composer.lock",
    "mix.lock",
)


class Setup:
    """One rig's set-up on this node. What it did is remembered only if it left the worktree as it was."""

    def __init__(self, home: Path, rig_id: int, command: str, worktree: Path) -> None:
        self.cache = home / "cache" / str(rig_id)
        self._record = self.cache / ".gastown-setup.json"
        self._command, self._worktree = command, worktree

    def needed(self) -> bool:
        return bool(self._command.strip()) and self._recorded() != self._key()

    def run(
        self,
        environment: Mapping[str, str],
        should_stop: Callable[[], bool],
        on_output: Callable[[bytes], None],
        confine: Callable[[], None] | None = None,
    ) -> Finished:
        """Raises OSError or GitError when it cannot be run at all."""
        self.cache.mkdir(parents=True, exist_ok=True)
        self._record.unlink(missing_ok=True)
        key, clean = self._key(), self._clean()
        result = run_command(
            self._command,
            cwd=self._worktree,
            environment={**environment, CACHE: str(self.cache)},
            timeout_s=TIMEOUT_S,
            max_output_bytes=OUTPUT_BYTES,
            should_stop=should_stop,
            on_output=on_output,
            confine=confine,
        )
        if result.exit_code == 0 and clean and self._clean():
            self._record.write_text(json.dumps({"key": key}))
        return result

    def _recorded(self) -> str | None:
        try:
            return str(json.loads(self._record.read_text())["key"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _key(self) -> str:
        digest = hashlib.sha256(self._command.encode())
        for path in sorted({path for pattern in _LOCKFILES for path in self._worktree.glob(pattern) if path.is_file()}):
            digest.update(str(path.relative_to(self._worktree)).encode() + b"\0" + path.read_bytes() + b"\0")
        return digest.hexdigest()

    def _clean(self) -> bool:
        """No change of any kind, ignored files included."""
        return not git("status", "--porcelain", "--ignored", "-z", cwd=self._worktree)
