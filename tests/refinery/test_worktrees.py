"""Worktrees of merges, and that none is left."""

import os
import shutil
import time
from pathlib import Path

import pytest

from gastown.agent.git import git
from gastown.refinery import worktrees
from gastown.refinery.jobs import Held
from tests.refinery.rig import Rig, commit


def test_a_large_one_is_out_of_the_way_at_once_and_gone_in_the_end(bare: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one that resists, and what a worker that was killed meanwhile left."""
    monkeypatch.setattr(worktrees, "LARGE_INDEX_BYTES", 10)
    gone = bare.home / "merges" / worktrees.GONE
    (gone / "left" / "by").mkdir(parents=True)
    place = worktrees.directory(bare.home, 1) / "gt-1-1"
    bare.mirror.fetch()
    with worktrees.fresh(bare.mirror, place, bare.mirror.target("main") or "", "main") as worktree:
        (worktree.path / "cache" / "below").mkdir(parents=True)
        os.chmod(worktree.path / "cache", 0o500)
        assert (worktree.path / "README").is_file()
    assert bare.leftovers() == []
    _until_empty(gone)


def test_a_red_gate_that_saw_pointers_says_so(bare: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without git-lfs they are all that there is, and the gate cannot know."""
    only = tmp_path / "only"
    only.mkdir()
    for name in ("git", "sh", "false"):
        (only / name).symlink_to(shutil.which(name) or "")
    monkeypatch.setenv("PATH", str(only))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    seed = tmp_path / "seed"
    git("clone", "--quiet", str(bare.remote), str(seed))
    commit(seed, {".gitattributes": "*.bin filter=lfs diff=lfs merge=lfs -text\n"})
    git("push", "--quiet", "origin", "main", cwd=seed)
    held = bare.prepare(bare.work("gt-1", {"code.py": "two = 2\n"}), ["false"])
    assert isinstance(held, Held)
    assert "pointers here: git-lfs is not installed" in held.output


def _until_empty(folder: Path) -> None:
    deadline = time.monotonic() + 60
    while list(folder.iterdir()):
        assert time.monotonic() < deadline, list(folder.iterdir())
        time.sleep(0.01)
