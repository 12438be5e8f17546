"""A mirror follows its remote, loses nothing, is shared by many, and makes clones that cost next to nothing."""

import multiprocessing
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from gastown.agent.failures import no_target
from gastown.agent.git import GitError, git, succeeds
from gastown.agent.mirror import Mirror, absolute

WHO = {f"GIT_{role}_{part}": "t@example.com" for role in ("AUTHOR", "COMMITTER") for part in ("NAME", "EMAIL")}


def commit(repository: Path, name: str = "a", content: str = "") -> str:
    (repository / name).write_text(content or str(time.monotonic_ns()))
    git("add", "--all", cwd=repository)
    git("commit", "--quiet", "-m", f"change {name}", cwd=repository, env=WHO)
    return git("rev-parse", "HEAD", cwd=repository).strip()


@pytest.fixture
def remote(tmp_path: Path) -> Path:
    git("init", "--quiet", "--initial-branch=main", str(tmp_path / "remote"))
    commit(tmp_path / "remote")
    return tmp_path / "remote"


@pytest.fixture
def mirror(tmp_path: Path, remote: Path) -> Mirror:
    mirror = Mirror.open(tmp_path / "home", 1, str(remote))
    mirror.fetch()
    return mirror


def test_open_is_repeatable_and_follows_a_new_address(mirror: Mirror, remote: Path, tmp_path: Path) -> None:
    remote.rename(tmp_path / "moved")
    again = Mirror.open(tmp_path / "home", 1, str(tmp_path / "moved"))
    assert again.path == mirror.path
    sha = commit(tmp_path / "moved")
    again.fetch()
    assert again.target("main") == sha
    with pytest.raises(GitError) as caught:
        mirror.fetch()
    assert caught.value.unreachable


def test_an_unfinished_mirror_is_made_anew(tmp_path: Path, remote: Path) -> None:
    (tmp_path / "home" / "mirrors" / "1.new" / "objects").mkdir(parents=True)
    mirror = Mirror.open(tmp_path / "home", 1, str(remote))
    mirror.fetch()
    assert mirror.target("main")


def test_fetch_follows_branches_and_tags(mirror: Mirror, remote: Path) -> None:
    git("tag", "v1", cwd=remote)
    git("checkout", "--quiet", "-b", "feature/größe#1", cwd=remote)
    sha = commit(remote)
    mirror.fetch()
    assert mirror.target("feature/größe#1") == sha
    assert mirror.resolve("v1") == mirror.target("main")


def test_what_the_remote_forgot_stays(
    mirror: Mirror, remote: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    git("checkout", "--quiet", "-b", "short-lived", cwd=remote)
    sha = commit(remote)
    mirror.fetch()
    mirror.set_ref("refs/gastown/wip/gt-1/1", sha)
    git("checkout", "--quiet", "main", cwd=remote)
    git("branch", "-D", "short-lived", cwd=remote)
    (tmp_path / "gitconfig").write_text("[fetch]\n\tprune = true\n\tpruneTags = true\n")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "gitconfig"))
    mirror.fetch()
    assert mirror.target("short-lived") == sha
    assert mirror.resolve("refs/gastown/wip/gt-1/1") == sha


def test_a_branch_becomes_a_folder(mirror: Mirror, remote: Path) -> None:
    git("checkout", "--quiet", "-b", "topic", cwd=remote)
    old = commit(remote)
    mirror.fetch()
    git("checkout", "--quiet", "main", cwd=remote)
    git("branch", "-D", "topic", cwd=remote)
    git("checkout", "--quiet", "-b", "topic/part", cwd=remote)
    new = commit(remote)
    mirror.fetch()
    assert mirror.target("topic/part") == new
    assert mirror.resolve(f"refs/gastown/gone/{old}") == old


@pytest.mark.parametrize("rev", ["nonsense", "a" * 40, "-x", "x y", "refs/heads/main..x", "", "\udcff"])
def test_what_is_not_there_is_none(mirror: Mirror, rev: str) -> None:
    assert mirror.resolve(rev) is None
    assert mirror.target(rev) is None


def _fetch_often(home: str, remote: str, failed: "multiprocessing.Queue[str]") -> None:
    try:
        for _ in range(5):
            Mirror.open(Path(home), 1, remote).fetch()
    except GitError as error:
        failed.put(str(error))


def test_many_fetch_at_once(tmp_path: Path, remote: Path) -> None:
    """Also the first ones, which both find no mirror."""
    context = multiprocessing.get_context("spawn")
    failed: multiprocessing.Queue[str] = context.Queue()
    arguments = (str(tmp_path / "home"), str(remote), failed)
    processes = [context.Process(target=_fetch_often, args=arguments) for _ in range(3)]
    for process in processes:
        process.start()
    for n in range(5):
        sha = commit(remote, content=str(n))
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    assert failed.empty()
    mirror = Mirror.open(tmp_path / "home", 1, str(remote))
    mirror.fetch()
    assert mirror.target("main") == sha


def test_lock_files_of_the_dead_are_removed(mirror: Mirror, remote: Path) -> None:
    lock = mirror.path / "refs" / "remotes" / "origin" / "main.lock"
    lock.write_text("")
    sha = commit(remote)
    mirror.fetch()
    assert mirror.target("main") == sha
    assert not lock.exists()


def test_clone_is_whole_and_its_own(mirror: Mirror, remote: Path, tmp_path: Path) -> None:
    git("tag", "v1", cwd=remote)
    mirror.fetch()
    sha = mirror.target("main")
    assert sha
    worktree = tmp_path / "work" / "tree"
    mirror.clone(worktree, sha, "gt/gt-1")
    assert git("status", "--porcelain", cwd=worktree) == ""
    assert git("symbolic-ref", "HEAD", cwd=worktree).strip() == "refs/heads/gt/gt-1"
    assert git("remote", "get-url", "origin", cwd=worktree).strip() == str(remote)
    assert git("rev-parse", "origin/main", "v1", cwd=worktree).split() == [sha, sha]
    git("fetch", "--quiet", cwd=worktree)
    new = commit(worktree)
    assert mirror.resolve(new) is None
    mirror.keep(worktree, f"{new}:refs/gastown/head/gt-1/1")
    assert mirror.resolve("refs/gastown/head/gt-1/1") == new
    mirror.push("refs/gastown/head/gt-1/1:refs/gastown/head/gt-1/1")
    assert git("rev-parse", "refs/gastown/head/gt-1/1", cwd=remote).strip() == new
    with pytest.raises(GitError, match="not empty"):
        mirror.clone(worktree, sha, "x")
    assert git("rev-parse", "HEAD", cwd=worktree).strip() == new


def test_a_failed_clone_leaves_nothing(mirror: Mirror, tmp_path: Path) -> None:
    with pytest.raises(GitError):
        mirror.clone(tmp_path / "tree", "a" * 40, "x")
    assert not (tmp_path / "tree").exists()


def test_odd_names_and_filters(mirror: Mirror, remote: Path, tmp_path: Path) -> None:
    names = [os.fsdecode(b"caf\xe9"), "with\nnewline", 'quote"back\\slash', "-dash", "größe"]
    for name in names:
        (remote / name).write_bytes(b"\x00\xff")
    (remote / ".gitattributes").write_text("*.bin filter=lfs diff=lfs merge=lfs -text\n")
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 5\n"
    (remote / "a.bin").write_text(pointer)
    sha = commit(remote)
    mirror.fetch()
    mirror.clone(tmp_path / "tree", sha, "main")
    assert set(names) <= set(os.listdir(tmp_path / "tree"))
    assert (tmp_path / "tree" / "a.bin").read_text() == pointer


def test_odd_places(tmp_path: Path) -> None:
    remote = tmp_path / 'a "b" \\c ü #d'
    git("init", "--quiet", "--initial-branch=main", str(remote))
    sha = commit(remote)
    mirror = Mirror.open(tmp_path / "ho me", 1, str(remote))
    mirror.fetch()
    mirror.clone(tmp_path / "tree", sha, "main")
    git("fetch", "--quiet", cwd=tmp_path / "tree")
    assert git("remote", "get-url", "origin", cwd=tmp_path / "tree").rstrip("\n") == str(remote)


def test_another_users_repository_is_a_clear_error(mirror: Mirror) -> None:
    with pytest.raises(GitError) as caught:
        git("fetch", mirror.repository, cwd=mirror.path, env={"GIT_TEST_ASSUME_DIFFERENT_OWNER": "1"})
    assert caught.value.untrusted
    assert caught.value.unreachable
    assert "dubious ownership" in caught.value.reason


def test_an_empty_remote_is_no_error(tmp_path: Path) -> None:
    git("init", "--quiet", "--bare", str(tmp_path / "empty.git"))
    mirror = Mirror.open(tmp_path / "home", 1, str(tmp_path / "empty.git"))
    mirror.fetch()
    assert mirror.target("main") is None


def test_nothing_is_collected(mirror: Mirror, tmp_path: Path) -> None:
    """A clone borrows objects, so even ones that no ref holds any more must stay."""
    assert git("config", "gc.auto", cwd=mirror.path).strip() == "0"
    sha = mirror.target("main")
    assert sha
    mirror.clone(tmp_path / "tree", sha, "main")
    assert succeeds("diff", "--quiet", "HEAD", cwd=tmp_path / "tree")


def test_addresses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "r").mkdir()
    assert absolute("r") == str(tmp_path / "r")
    assert absolute("git@example.com:r") == "git@example.com:r"
    assert absolute("https://example.com/r") == "https://example.com/r"


def test_a_clone_costs_a_few_commands_and_copies_nothing(
    mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sha = mirror.target("main")
    assert sha
    started: list[object] = []
    start = subprocess.Popen

    def noted(*arguments: Any, **options: Any) -> Any:
        started.append(arguments)
        return start(*arguments, **options)

    monkeypatch.setattr(subprocess, "Popen", noted)
    mirror.clone(tmp_path / "tree", sha, "main")
    assert len(started) <= 5
    objects = tmp_path / "tree" / ".git" / "objects"
    assert [path.name for path in objects.rglob("*") if path.is_file()] == ["alternates"]


def test_without_files_merges_are_the_same(mirror: Mirror, remote: Path, tmp_path: Path) -> None:
    """Only what the merge conflicts in is written, and attributes still say how files are merged."""
    (remote / "sub").mkdir()
    (remote / "sub" / ".gitattributes").write_text("log merge=union\n")
    for name in ("sub/log", "both", "other"):
        (remote / name).write_text("first\n")
    base = commit(remote)
    git("checkout", "--quiet", "-b", "side", cwd=remote)
    side = commit(remote, "sub/log", "first\nside\n")
    clashing = commit(remote, "both", "side\n")
    git("checkout", "--quiet", "main", cwd=remote)
    commit(remote, "sub/log", "first\nmain\n")
    main = commit(remote, "both", "main\n")
    mirror.fetch()
    tree = tmp_path / "tree"
    mirror.clone(tree, main, "main", files=False)
    assert sorted(os.listdir(tree)) == [".git", "sub"]
    assert os.listdir(tree / "sub") == [".gitattributes"]
    as_tester = {f"GIT_{role}_{what}": "t" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    git("merge", "--quiet", "--no-ff", "-m", "m", side, cwd=tree, env=as_tester)
    assert git("show", "HEAD:sub/log", cwd=tree) == "first\nmain\nside\n"
    assert git("diff", "--name-only", base, "HEAD", cwd=tree).split() == ["both", "sub/log"]
    assert not git("status", "--porcelain", cwd=tree)
    with pytest.raises(GitError):
        git("merge", "--quiet", "-m", "m", clashing, cwd=tree, env=as_tester)
    assert git("diff", "--name-only", "--diff-filter=U", cwd=tree).split() == ["both"]
    assert not (tree / "other").exists()


def test_a_shallow_remote_is_told_from_one_that_lacks_the_branch(remote: Path, tmp_path: Path) -> None:
    """Git fetches nothing from it, and says nothing."""
    commit(remote)
    shallow = f"file://{tmp_path / 'shallow.git'}"
    git("clone", "--quiet", "--bare", "--depth=1", f"file://{remote}", str(tmp_path / "shallow.git"))
    mirror = Mirror.open(tmp_path / "home", 2, shallow)
    mirror.fetch()
    assert mirror.withholds("main")
    assert not mirror.withholds("other")
    assert "git fetch --unshallow" in str(no_target(mirror, "main"))
    git("fetch", "--quiet", "--unshallow", cwd=tmp_path / "shallow.git")
    mirror.fetch()
    assert not mirror.withholds("main")
    assert mirror.target("main")
