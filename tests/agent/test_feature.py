"""Attempts of a convoy's members: from what the convoy has made so far, also when its branch is gone."""

from pathlib import Path

import pytest

from tests.agent.town import Town, git

FEATURE = "gastown/ship-it-cv-1"


@pytest.fixture
def recorded(repository: Path, tmp_path: Path) -> str:
    """The head of the feature branch after the last merge into it."""
    work = tmp_path / "origin.git.work"
    git("commit", "-q", "--allow-empty", "-m", "a member", cwd=work)
    git("push", "-q", str(repository), f"HEAD:refs/heads/{FEATURE}", cwd=work)
    return git("rev-parse", "HEAD", cwd=work)


def test_a_member_starts_from_the_feature_branch(town: Town, recorded: str) -> None:
    first = town.run("git log --format=%s; echo 1 > a", feature=FEATURE, feature_sha=recorded)
    assert first.output.splitlines() == [b"a member", b"first"]
    assert first.done is not None
    assert first.done["base_sha"] == recorded


def test_a_member_starts_from_what_was_merged_when_the_branch_is_gone(
    town: Town, repository: Path, recorded: str
) -> None:
    town.run("true", bead="gt-2")  # the mirror has it
    git("update-ref", "-d", f"refs/heads/{FEATURE}", cwd=repository)
    second = town.run("git log --format=%s", feature=FEATURE, feature_sha=recorded)
    assert second.output.splitlines() == [b"a member", b"first"]


def test_what_is_out_of_reach_is_no_fault_of_the_beads(town: Town) -> None:
    """Another node may have it: the start is tried again."""
    attempt = town.run("true", feature=FEATURE, feature_sha="d" * 40)
    assert attempt.done is not None
    assert (attempt.done["outcome"], attempt.done["code"]) == ("failed", "workspace_failed")
