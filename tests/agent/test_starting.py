"""Where an attempt starts from, on a node that has nothing of it yet."""

from pathlib import Path

import pytest

from gastown.agent.git import GitError, git
from gastown.agent.mirror import Mirror
from gastown.agent.starting import fetch, starting_point

HEAD_OF_OTHER = "refs/gastown/head/gt-other/2"
WHO = {f"GIT_{role}_{part}": "Ada" for role in ("AUTHOR", "COMMITTER") for part in ("NAME", "EMAIL")}


@pytest.fixture
def remote(tmp_path: Path) -> Path:
    """A repository with one commit on main, and one more that only another bead's candidate ref has."""
    path = tmp_path / "remote"
    git("init", "--quiet", "--initial-branch=main", str(path))
    for message in ("first", "work"):
        git("commit", "--quiet", "--allow-empty", "-m", message, cwd=path, env=WHO)
    git("update-ref", HEAD_OF_OTHER, "HEAD", cwd=path)
    git("reset", "--quiet", "--hard", "HEAD^", cwd=path)
    return path


def test_the_head_of_another_bead_is_fetched_from_its_ref(remote: Path, tmp_path: Path) -> None:
    """A rework starts from the head of a merge request, which another node has made."""
    sha = git("rev-parse", HEAD_OF_OTHER, cwd=remote).strip()
    mirror = Mirror.open(tmp_path / "home", 1, str(remote))
    fetch(mirror, "gt-rework", [], sha, HEAD_OF_OTHER)
    target = mirror.target("main")
    assert target is not None
    assert starting_point(mirror, "gt-rework", 1, sha, target) == sha != target


@pytest.mark.parametrize("ref", ["refs/gastown/head/gt-gone/1", "refs/heads/main", "not a ref"])
def test_without_it_nothing_starts_from_elsewhere(remote: Path, tmp_path: Path, ref: str) -> None:
    mirror = Mirror.open(tmp_path / "home", 1, str(remote))
    with pytest.raises(GitError, match="neither here nor in the repository"):
        fetch(mirror, "gt-rework", [], "d" * 40, ref)


def test_who_says_no_ref_is_served_as_before(remote: Path, tmp_path: Path) -> None:
    """Protocol 1 knows of none."""
    mirror = Mirror.open(tmp_path / "home", 1, str(remote))
    fetch(mirror, "gt-other", [1], "d" * 40)
    assert mirror.target("main")
