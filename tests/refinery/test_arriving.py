"""Whether a branch has a piece of work: known by commits and patches, whatever is in them."""

import os
from pathlib import Path

import pytest

from gastown.agent.git import git
from gastown.refinery.arriving import arrived, last_change
from tests.refinery.rig import WHO, Rig, commit, head

ODD = {"*.py": "glob\n", "a\nb": "newline\n", 'ä "quoted"': "quote\n", os.fsdecode(b"\xff\xfe"): "bytes\n"}


@pytest.fixture
def clone(bare: Rig, tmp_path: Path) -> Path:
    """Work in progress on a branch of its own, `work`."""
    place = tmp_path / "clone"
    git("clone", "--quiet", str(bare.remote), str(place))
    git("checkout", "--quiet", "-b", "work", cwd=place)
    return place


def found(bare: Rig, clone: Path, seen: str | None = None) -> str | None:
    git("push", "--quiet", "--force", str(bare.remote), "work", "main", cwd=clone)
    bare.mirror.fetch()
    return arrived(bare.mirror, head(clone, "work"), head(clone, "main"), seen)


def squash(clone: Path) -> str:
    git("checkout", "--quiet", "main", cwd=clone)
    git("merge", "--quiet", "--squash", "work", cwd=clone, env=WHO)
    return commit(clone, message="a squash")


@pytest.mark.parametrize(
    "files",
    [ODD, {"image": "\0\1\2" * 1000}, {f"many/{number}": "x" for number in range(1200)}, {"README": ""}],
    ids=["odd_names", "binary", "many", "emptied"],
)
def test_a_squash_with_other_work_around_it(bare: Rig, clone: Path, files: dict[str, str]) -> None:
    commit(clone, files, "work")
    git("checkout", "--quiet", "main", cwd=clone)
    commit(clone, {"before": "1\n"})
    assert found(bare, clone) is None
    squashed = squash(clone)
    for name in list(files)[:3]:
        (clone / name).unlink()
    commit(clone, message="gone again")
    assert found(bare, clone) == squashed


def test_a_removed_and_a_renamed_file(bare: Rig, clone: Path) -> None:
    git("rm", "--quiet", "README", cwd=clone)
    git("mv", "code.py", "renamed.py", cwd=clone)
    commit(clone, message="work")
    assert found(bare, clone) is None
    squashed = squash(clone)
    assert found(bare, clone) == squashed


def test_more_than_the_work_in_one_commit_is_no_squash_of_it(bare: Rig, clone: Path) -> None:
    commit(clone, {"new": "new\n"}, "work")
    git("checkout", "--quiet", "main", cwd=clone)
    more = commit(clone, {"new": "new\n", "other": "other\n"}, "with more")
    assert found(bare, clone) is None
    commit(clone, {"last": "1\n"})
    assert last_change(bare.mirror, head(clone, "work"), more) == more


def test_half_of_the_work_has_not_arrived(bare: Rig, clone: Path) -> None:
    first = commit(clone, {"one": "1\n"}, "one")
    second = commit(clone, {"two": "2\n"}, "two")
    git("checkout", "--quiet", "main", cwd=clone)
    commit(clone, {"elsewhere": "1\n"})
    git("cherry-pick", first, cwd=clone, env=WHO)
    assert found(bare, clone) is None
    git("cherry-pick", second, cwd=clone, env=WHO)
    assert found(bare, clone) == head(clone)


def test_a_like_change_that_was_undone_before_is_not_it(bare: Rig, clone: Path) -> None:
    commit(clone, {"new": "new\n"}, "work")
    like = squash(clone)
    git("revert", "--no-edit", "HEAD", cwd=clone, env=WHO)
    seen = head(clone)
    assert found(bare, clone) == like
    assert found(bare, clone, seen) is None
    commit(clone, {"new": "new\n"}, "the real one")
    assert found(bare, clone, seen) == head(clone)
    assert found(bare, clone, "0" * 40) == head(clone)  # of another machine, whose mirror had more


def test_histories_that_never_met(bare: Rig, clone: Path) -> None:
    git("checkout", "--quiet", "--orphan", "other", cwd=clone)
    commit(clone, {"new": "new\n"}, "work")
    git("branch", "--force", "work", cwd=clone)
    assert found(bare, clone) is None
