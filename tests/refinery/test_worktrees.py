"""Worktrees of merges, and that none is left."""

import os
import time
from pathlib import Path

import pytest

from gastown.refinery import worktrees
from tests.refinery.rig import Rig


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


def _until_empty(folder: Path) -> None:
    deadline = time.monotonic() + 30
    while list(folder.iterdir()):
        assert time.monotonic() < deadline, list(folder.iterdir())
        time.sleep(0.01)
