"""No commit is lost with its clone (G3): whatever the agent did with branches, tags, stashes and HEAD."""

from pathlib import Path

import pytest

from gastown.agent.git import GitError
from gastown.agent.mirror import Mirror
from gastown.agent.salvage import salvage
from gastown.agent.snapshot import Person
from gastown.agent.starting import starting_point
from gastown.agent.workspace import TwoResults, Workspace
from tests.agent.town import Town, git

PERSON = Person("toast", "toast@localhost")


@pytest.fixture
def mirror(tmp_path: Path, repository: Path) -> Mirror:
    mirror = Mirror.open(tmp_path / "home", 7, str(repository))
    mirror.fetch()
    return mirror


def workspace(mirror: Mirror, epoch: int = 1, notes: list[str] | None = None) -> Workspace:
    return Workspace(mirror.path.parents[1], mirror, "gt-1", epoch, PERSON, (notes if notes is not None else []).append)


@pytest.fixture
def work(mirror: Mirror) -> Workspace:
    made, target = workspace(mirror), mirror.target("main")
    assert target is not None
    made.make("main", target, target)
    return made


def commit(work: Workspace, name: str) -> str:
    (work.path / name).write_text(f"{name}\n")
    git("add", "-A", cwd=work.path)
    git("commit", "-q", "-m", name, cwd=work.path)
    return git("rev-parse", "HEAD", cwd=work.path)


def refs_with(mirror: Mirror, sha: str) -> list[str]:
    return git("for-each-ref", "--format=%(refname)", "--contains", sha, cwd=mirror.path).split()


def end(work: Workspace) -> None:
    work.save()
    assert work.remove()
    assert not work.path.exists()


@pytest.mark.parametrize("how", ["save", "candidate"])
@pytest.mark.parametrize("aside", [("--detach", "origin/main"), ("-b", "other", "origin/main")])
def test_work_on_the_branch_counts_when_the_agent_went_back_to_the_target(
    work: Workspace, mirror: Mirror, how: str, aside: tuple[str, ...]
) -> None:
    notes: list[str] = []
    work._note = notes.append
    sha = commit(work, "hours")
    git("checkout", "-q", *aside, cwd=work.path)
    if how == "candidate":
        assert work.candidate("t", {}).head_sha == sha
    end(work)
    assert "refs/gastown/wip/gt-1/1" in refs_with(mirror, sha)
    assert mirror.resolve("refs/gastown/wip/gt-1/1") == sha
    assert any(sha[:12] in note for note in notes)


def test_a_newer_target_checked_out_is_no_work_of_its_own(work: Workspace, repository: Path, tmp_path: Path) -> None:
    sha = commit(work, "hours")
    git("commit", "-q", "--allow-empty", "-m", "newer", cwd=tmp_path / "origin.git.work")
    git("push", "-q", str(repository), "main", cwd=tmp_path / "origin.git.work")
    git("fetch", "-q", cwd=work.path)
    git("checkout", "-q", "--detach", "origin/main", cwd=work.path)
    assert work.candidate("t", {}).head_sha == sha


def test_work_in_two_places_is_no_result_and_both_are_kept(work: Workspace, mirror: Mirror) -> None:
    one = commit(work, "one")
    git("checkout", "-q", "--detach", "origin/main", cwd=work.path)
    two = commit(work, "two")
    with pytest.raises(TwoResults, match=f"{one[:12]}.*{two[:12]}"):
        work.candidate("t", {})
    end(work)
    for sha in (one, two):
        assert "refs/gastown/wip/gt-1/1" in refs_with(mirror, sha)
    target = mirror.target("main")
    assert target is not None
    again = workspace(mirror, 2)
    again.make("main", target, starting_point(mirror, "gt-1", 2, None, target))
    assert git("rev-parse", "HEAD", cwd=again.path) == two


def test_an_earlier_attempts_commits_are_no_no_changes(work: Workspace, mirror: Mirror) -> None:
    """The branch is ahead of the target though this attempt added nothing to it."""
    sha = commit(work, "hours")
    end(work)
    target = mirror.target("main")
    assert target is not None
    again = workspace(mirror, 2)
    again.make("main", target, starting_point(mirror, "gt-1", 2, None, target))
    git("checkout", "-q", "--detach", "origin/main", cwd=again.path)
    assert again.candidate("t", {}).head_sha == sha


def test_tags_outlive_a_reset(work: Workspace, mirror: Mirror) -> None:
    sha = commit(work, "hours")
    git("tag", "backup", cwd=work.path)
    git("tag", "-a", "-m", "words", "noted", cwd=work.path)
    git("reset", "-q", "--hard", "origin/main", cwd=work.path)
    end(work)
    prefix = "refs/gastown/left/gt-1/1/tags"
    assert refs_with(mirror, sha) == [f"{prefix}/backup", f"{prefix}/noted"]
    assert git("cat-file", "-t", f"{prefix}/noted", cwd=mirror.path) == "tag"


def test_every_stash_is_kept(work: Workspace, mirror: Mirror) -> None:
    for content in ("first", "second", "third"):
        (work.path / "README").write_text(content)
        git("stash", "-q", cwd=work.path)
    shas = git("log", "-g", "--format=%H", "stash", cwd=work.path).split()
    assert len(shas) == 3
    end(work)
    assert refs_with(mirror, shas[0]) == ["refs/gastown/left/gt-1/1/stash"]
    for sha in shas[1:]:
        assert refs_with(mirror, sha) == [f"refs/gastown/left/gt-1/1/reflog/{sha}"]


@pytest.mark.parametrize("back", [("checkout", "-q", "gt/gt-1"), ("reset", "-q", "--hard", "origin/main")])
def test_what_only_a_reflog_knows_is_kept(work: Workspace, mirror: Mirror, back: tuple[str, ...]) -> None:
    git("checkout", "-q", "--detach", cwd=work.path)
    older, newer = commit(work, "one"), commit(work, "two")
    git(*back, cwd=work.path)
    end(work)
    assert refs_with(mirror, newer) == [f"refs/gastown/left/gt-1/1/reflog/{newer}"]
    assert refs_with(mirror, older) == refs_with(mirror, newer), "one ref for a line of commits"


def test_what_the_remote_has_or_had_makes_no_refs(
    work: Workspace, mirror: Mirror, repository: Path, tmp_path: Path
) -> None:
    upstream = tmp_path / "origin.git.work"
    git("commit", "-q", "--amend", "-m", "another first", cwd=upstream)
    git("push", "-qf", str(repository), "main", cwd=upstream)
    git("fetch", "-q", cwd=work.path)
    mirror.fetch()
    commit(work, "mine")
    end(work)
    assert git("for-each-ref", "refs/gastown/left", cwd=mirror.path) == ""


def test_a_clone_whose_commits_cannot_be_kept_stays(work: Workspace, mirror: Mirror) -> None:
    git("checkout", "-q", "-b", "side", cwd=work.path)
    sha = commit(work, "hours")
    git("checkout", "-q", "gt/gt-1", cwd=work.path)
    (mirror.path / "refs/gastown").mkdir(parents=True, exist_ok=True)
    (mirror.path / "refs/gastown/left").write_text("in the way")
    work.save()
    with pytest.raises(GitError):
        work.remove()
    assert work.path.is_dir()
    (mirror.path / "refs/gastown/left").unlink()
    salvage(mirror.path.parents[1], mirror, "gt-1", 2, PERSON, print)
    assert refs_with(mirror, sha) == ["refs/gastown/left/gt-1/1/heads/side"]
    assert not work.path.exists()


def test_salvage_takes_the_branch_of_an_agent_that_was_elsewhere(work: Workspace, mirror: Mirror) -> None:
    sha = commit(work, "hours")
    git("checkout", "-q", "--detach", "origin/main", cwd=work.path)
    salvage(mirror.path.parents[1], mirror, "gt-1", 2, PERSON, print)
    assert starting_point(mirror, "gt-1", 2, None, "") == sha


def test_an_attempt_with_two_results_fails_in_words(town: Town) -> None:
    attempt = town.run(
        "echo 1 > one; git add one; git commit -qm one; git checkout -q --detach origin/main;"
        "echo 2 > two; git add two; git commit -qm two"
    )
    assert attempt.done is not None
    assert (attempt.done["outcome"], attempt.done["code"]) == ("failed", "agent_failed")
    assert "two places: branch gt/gt-1" in attempt.done["message"]
