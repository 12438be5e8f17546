"""A person's own checkout as rig: what they are in the middle of is never touched, and the result waits for them."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from gastown.agent.git import GitError, git
from gastown.refinery.merging import Dirty, MergeJob, Moved, Prepared, Pushed, Unknown, contains, land, push, stage
from gastown.refinery.repository import dirty_paths
from tests.refinery.rig import WHO, Rig, commit, head


def prepared(rig: Rig, job: MergeJob) -> Prepared:
    outcome = rig.prepare(job)
    assert isinstance(outcome, Prepared), outcome
    return outcome


def state_of(checkout: Path) -> tuple[str, str, str]:
    return head(checkout), git("status", "--porcelain", "-z", cwd=checkout), git("diff", "HEAD", cwd=checkout)


@pytest.mark.parametrize("staged", [False, True])
def test_dirty_then_clean(checkout: Rig, staged: bool) -> None:
    person = checkout.remote
    job = checkout.work("gt-1", {"new": "new\n"})
    outcome = prepared(checkout, job)
    (person / "README").write_text("in the middle of it\n")
    (person / "notes").write_text("untracked\n")
    if staged:
        git("add", "README", cwd=person)
    before = state_of(person)
    assert push(job, outcome) == Dirty(("README",))
    stage(job, outcome)
    assert state_of(person) == before
    assert head(person, "refs/gastown/merged/main") == outcome.merge_sha
    assert land(job, outcome.merge_sha) == Dirty(("README",))
    assert state_of(person) == before

    git("checkout", "--quiet", "HEAD", "--", "README", cwd=person)
    assert dirty_paths(str(person)) == []
    assert land(job, outcome.merge_sha) == Pushed()
    assert (person / "new").read_text() == "new\n"
    assert (person / "notes").read_text() == "untracked\n"
    assert land(job, outcome.merge_sha) == Pushed()


def test_later_merges_stack(checkout: Rig) -> None:
    person = checkout.remote
    first, second = checkout.work("gt-1", {"one": "1"}), checkout.work("gt-2", {"two": "2"})
    one = prepared(checkout, first)
    (person / "README").write_text("busy\n")
    push(first, one)
    stage(first, one)
    second = replace(second, staged_sha=one.merge_sha)
    two = prepared(checkout, second)
    assert two.base_sha == one.merge_sha
    assert two.expected_sha == head(person)
    assert push(second, two) == Dirty(("README",))
    stage(second, two)
    again = checkout.prepare(first, staged_sha=two.merge_sha, merge_epoch=2)
    assert again == Prepared(merge_sha=two.merge_sha, base_sha=two.merge_sha, expected_sha=head(person))
    git("checkout", "--quiet", "--", "README", cwd=person)
    assert land(second, two.merge_sha) == Pushed()
    assert contains(first, one.merge_sha)
    assert {path.name for path in person.iterdir()} >= {"one", "two"}


def test_the_person_commits_meanwhile(checkout: Rig) -> None:
    job = checkout.work("gt-1", {"one": "1"})
    outcome = prepared(checkout, job)
    (checkout.remote / "README").write_text("busy\n")
    push(job, outcome)
    stage(job, outcome)
    commit(checkout.remote, message="mine")
    assert land(job, outcome.merge_sha) == Moved()
    again = prepared(checkout, replace(job, merge_epoch=2, staged_sha=outcome.merge_sha))
    assert again.base_sha == again.expected_sha == head(checkout.remote)
    assert push(job, again) == Pushed()
    assert checkout.mirror.resolve(job.merging_ref) == outcome.merge_sha


def test_on_another_branch(checkout: Rig) -> None:
    job = checkout.work("gt-1", {"one": "1"})
    git("checkout", "--quiet", "-b", "mine", cwd=checkout.remote)
    (checkout.remote / "README").write_text("busy\n")
    before = state_of(checkout.remote)
    outcome = prepared(checkout, job)
    assert push(job, outcome) == Pushed()
    assert state_of(checkout.remote) == before
    assert head(checkout.remote, "main") == outcome.merge_sha


def test_an_untracked_file_in_the_way(checkout: Rig) -> None:
    job = checkout.work("gt-1", {"one": "1", "dir/two": "2"})
    outcome = prepared(checkout, job)
    (checkout.remote / "one").write_text("precious\n")
    before = state_of(checkout.remote)
    assert push(job, outcome) == Dirty(("one",))
    assert state_of(checkout.remote) == before
    assert (checkout.remote / "one").read_text() == "precious\n"
    (checkout.remote / "one").unlink()
    assert land(job, outcome.merge_sha) == Pushed()


def test_in_the_middle_of_a_rebase(checkout: Rig) -> None:
    """Git would update the files under the rebase: it takes the branch for checked out."""
    person = checkout.remote
    job = checkout.work("gt-1", {"one": "1"})
    commit(person, {"mine": "1"}, "mine")
    outcome = prepared(checkout, job)
    git(
        "rebase",
        "--quiet",
        "--interactive",
        "HEAD~1",
        cwd=person,
        env={"GIT_SEQUENCE_EDITOR": "sed -i s/^pick/edit/", **WHO},
    )
    before = state_of(person)
    assert push(job, outcome) == Dirty(("(a rebase is in progress)",))
    assert dirty_paths(str(person), "main") == ["(a rebase is in progress)"]
    assert state_of(person) == before
    assert not (person / "one").exists()
    git("rebase", "--abort", cwd=person)
    assert land(job, outcome.merge_sha) == Pushed()


def test_in_the_middle_of_a_merge(checkout: Rig) -> None:
    person = checkout.remote
    job = checkout.work("gt-1", {"one": "1"})
    git("checkout", "--quiet", "-b", "theirs", cwd=person)
    commit(person, {"code.py": "theirs\n"})
    git("checkout", "--quiet", "main", cwd=person)
    commit(person, {"code.py": "ours\n"})
    outcome = prepared(checkout, job)
    with pytest.raises(GitError, match="CONFLICT"):
        git("merge", "theirs", cwd=person, env=WHO)
    before = state_of(person)
    assert push(job, outcome) == Dirty(("(a merge is in progress)",))
    assert state_of(person) == before


def test_the_branch_is_checked_out_in_a_second_worktree(checkout: Rig, tmp_path: Path) -> None:
    git("checkout", "--quiet", "-b", "mine", cwd=checkout.remote)
    second = tmp_path / "second tree"
    git("worktree", "add", "--quiet", str(second), "main", cwd=checkout.remote)
    job = checkout.work("gt-1", {"one": "1"})
    outcome = prepared(checkout, job)
    (second / "README").write_text("busy\n")
    assert push(job, outcome) == Dirty(("README",))
    git("checkout", "--quiet", "--", "README", cwd=second)
    assert land(job, outcome.merge_sha) == Pushed()
    assert (second / "one").exists()
    assert not (checkout.remote / "one").exists()


@pytest.mark.parametrize("name", ["index.lock", "refs/heads/main.lock", "HEAD.lock"])
def test_somebody_else_uses_git_there(checkout: Rig, name: str) -> None:
    """Neither refused nor dirty: it is over in a moment. Git has updated the files by then, and they are put back."""
    job = checkout.work("gt-1", {"one": "1", "code.py": "changed\n"})
    outcome = prepared(checkout, job)
    before = state_of(checkout.remote)
    lock = checkout.remote / ".git" / name
    lock.write_text("")
    answer = push(job, outcome)
    assert isinstance(answer, Unknown), answer
    assert state_of(checkout.remote) == before
    assert not contains(job, outcome.merge_sha)
    lock.unlink()
    assert push(job, outcome) == Pushed()


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="elsewhere nobody says what a process has open")
@pytest.mark.parametrize("name", ["index.lock", "refs/heads/main.lock", "HEAD.lock"])
def test_the_lock_of_a_killed_git_is_told_from_that_of_a_living_one(checkout: Rig, name: str) -> None:
    """Old, open nowhere, and no git at work there."""
    job = checkout.work("gt-1", {"one": "1", "code.py": "changed\n"})
    outcome = prepared(checkout, job)
    lock = checkout.remote / ".git" / name
    lock.write_text("")
    os.utime(lock, (0, 0))
    assert push(job, outcome) == Pushed()
    assert (checkout.remote / "one").read_text() == "1"
    assert git("status", "--porcelain", cwd=checkout.remote) == ""


def test_a_push_that_was_killed_half_way(checkout: Rig) -> None:
    """The files of the checkout are ahead of its branch, and only because of us: not a person's changes."""
    job = checkout.work("gt-1", {"one": "1", "code.py": "changed\n"})
    outcome = prepared(checkout, job)
    checkout.mirror.push(f"{outcome.merge_sha}:refs/gastown/arrived")
    git("read-tree", "-u", "-m", outcome.expected_sha, outcome.merge_sha, cwd=checkout.remote)
    assert git("status", "--porcelain", cwd=checkout.remote) != ""
    again = prepared(checkout, replace(job, merge_epoch=2))
    assert push(job, again) == Pushed()
    assert git("status", "--porcelain", cwd=checkout.remote) == ""
    assert (checkout.remote / "one").read_text() == "1"


def test_a_push_that_was_killed_half_way_and_then_worked_on(checkout: Rig) -> None:
    job = checkout.work("gt-1", {"one": "1", "code.py": "changed\n"})
    outcome = prepared(checkout, job)
    checkout.mirror.push(f"{outcome.merge_sha}:refs/gastown/arrived")
    git("read-tree", "-u", "-m", outcome.expected_sha, outcome.merge_sha, cwd=checkout.remote)
    (checkout.remote / "one").write_text("a person's")
    before = state_of(checkout.remote)
    assert push(job, outcome) == Dirty(("code.py", "one"))
    assert state_of(checkout.remote) == before
    assert (checkout.remote / "one").read_text() == "a person's"


def test_dirty_paths(checkout: Rig, bare: Rig, tmp_path: Path) -> None:
    person = checkout.remote
    (person / "sub").mkdir()
    commit(person, {"sub/with\nnewline": "x", "gone": "x"})
    (person / "sub" / "with\nnewline").write_text("changed")
    (person / "gone").unlink()
    (person / "untracked").write_text("x")
    assert sorted(dirty_paths(str(person))) == ["gone", "sub/with\nnewline"]
    assert sorted(dirty_paths(str(person), "main")) == ["gone", "sub/with\nnewline"]
    assert dirty_paths(str(person), "other") == []
    assert dirty_paths(str(bare.remote)) == []
    assert dirty_paths("https://example.com/x") == []
