"""`rig add` is told what a repository is, or exactly why it cannot be a rig and what to do about it."""

from pathlib import Path

import pytest

from gastown.agent.git import git
from gastown.errors import GastownError, NotFound, RepositoryUnavailable, UsageError
from gastown.refinery.repository import Probe, local_path, probe
from tests.refinery.rig import Rig, commit, head


def test_checkout(checkout: Rig) -> None:
    sha = head(checkout.remote)
    expected = Probe(
        repository=str(checkout.remote), local=True, bare=False, branch="main", head_sha=sha, branches=("main",)
    )
    (checkout.remote / "sub").mkdir()
    assert probe(str(checkout.remote)) == expected
    assert probe(str(checkout.remote / "sub")) == expected
    assert probe(str(checkout.remote / ".git")) == expected
    assert probe(f"file://{checkout.remote}") == expected


def test_relative_path(checkout: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    (checkout.remote / "sub").mkdir()
    monkeypatch.chdir(checkout.remote / "sub")
    assert probe(".").repository == probe("..").repository == str(checkout.remote)


def test_bare(bare: Rig) -> None:
    found = probe(str(bare.remote))
    assert (found.bare, found.branch, found.repository) == (True, "main", str(bare.remote))
    assert probe(str(bare.remote / "refs")).repository == str(bare.remote)


def test_branch_can_be_chosen(checkout: Rig) -> None:
    git("branch", "release/1.x", cwd=checkout.remote)
    assert probe(str(checkout.remote), "release/1.x").branch == "release/1.x"
    assert probe(str(checkout.remote)).branches == ("main", "release/1.x")
    with pytest.raises(NotFound) as caught:
        probe(str(checkout.remote), "nope")
    assert caught.value.hint == "it has: main, release/1.x"


def test_second_worktree(checkout: Rig, tmp_path: Path) -> None:
    git("worktree", "add", "--quiet", "-b", "side", str(tmp_path / "side"), cwd=checkout.remote)
    assert probe(str(tmp_path / "side")).branch == "side"
    assert probe(str(tmp_path / "side")).repository == str(tmp_path / "side")


def fails(repository: object, kind: type[GastownError], words: str, hint: str) -> None:
    with pytest.raises(kind) as caught:
        probe(str(repository))
    assert type(caught.value) is kind
    assert words in str(caught.value)
    assert hint in caught.value.hint


def test_empty(tmp_path: Path) -> None:
    git("init", "--quiet", str(tmp_path / "r"))
    fails(tmp_path / "r", UsageError, "is empty", "first commit")


def test_not_a_repository(tmp_path: Path) -> None:
    (tmp_path / "r").mkdir()
    (tmp_path / "file").write_text("")
    fails(tmp_path / "r", UsageError, "is not a git repository", "git init")
    fails(tmp_path / "nope", UsageError, "there is no directory", "path or the URL")
    fails(tmp_path / "file", UsageError, "there is no directory", "path or the URL")


def test_detached(checkout: Rig) -> None:
    git("checkout", "--quiet", "--detach", cwd=checkout.remote)
    fails(checkout.remote, UsageError, "detached HEAD", "--branch: main")
    assert probe(str(checkout.remote), "main").branch == "main"


def test_shallow(checkout: Rig, tmp_path: Path) -> None:
    commit(checkout.remote)
    git("clone", "--quiet", "--depth=1", f"file://{checkout.remote}", str(tmp_path / "shallow"))
    fails(tmp_path / "shallow", UsageError, "shallow", "--unshallow")


def test_of_another_user(checkout: Rig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    real = tmp_path / "bin" / "git"
    real.parent.mkdir()
    found = git("--exec-path").strip()
    real.write_text(f'#!/bin/sh\nGIT_TEST_ASSUME_DIFFERENT_OWNER=1 exec {found}/git "$@"\n')
    real.chmod(0o755)
    monkeypatch.setenv("PATH", f"{real.parent}:/usr/bin:/bin")
    fails(checkout.remote, UsageError, "belongs to another user", "safe.directory")


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/x", "ssh://127.0.0.1:1/x", "nosuchscheme://x/y"])
def test_unreachable(url: str) -> None:
    with pytest.raises(GastownError) as caught:
        probe(url)
    assert url in str(caught.value)
    if "nosuch" not in url:
        assert type(caught.value) is RepositoryUnavailable
        assert f"git ls-remote {url}" in caught.value.hint


def test_which_is_local(tmp_path: Path) -> None:
    assert local_path("https://example.com/x") is None
    assert local_path("git@example.com:x/y.git") is None
    assert local_path("example.com:x") is None
    assert local_path(str(tmp_path)) == tmp_path
    assert local_path("/no/such:path") == Path("/no/such:path")


def test_sha256_is_refused_in_words(tmp_path: Path) -> None:
    git("init", "--quiet", "--object-format=sha256", "--initial-branch=main", str(tmp_path / "r"))
    commit(tmp_path / "r", {"a": "a"})
    with pytest.raises(UsageError, match="SHA-256") as caught:
        probe(str(tmp_path / "r"))
    assert "--object-format=sha1" in caught.value.hint
