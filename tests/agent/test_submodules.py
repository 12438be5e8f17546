"""Submodules and large files are there for agents and gates, and what is done in them is not lost."""

import os
import shutil
import sys
from pathlib import Path

import pytest

from gastown.agent import submodules
from gastown.agent.git import git
from gastown.agent.mirror import Mirror
from gastown.agent.snapshot import Person
from gastown.agent.workspace import Workspace
from tests.agent.town import git as as_tester
from tests.agent.town import make_repository

PERSON = Person("toast", "toast@localhost")


def add_submodule(repository: Path, url: str, path: str) -> None:
    work = repository.with_name(repository.name + ".work")
    as_tester("-c", "protocol.file.allow=always", "submodule", "--quiet", "add", url, path, cwd=work)
    as_tester("commit", "-q", "-m", f"add {path}", cwd=work)
    as_tester("push", "-q", str(repository), "main", cwd=work)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """One with a submodule by a relative address, whose name is odd, and which has one itself."""
    outer, middle, inner = (make_repository(tmp_path / name) for name in ("outer.git", "middle.git", "inner.git"))
    add_submodule(middle, str(inner), "deep")
    work = outer.with_name("outer.git.work")
    as_tester("remote", "add", "origin", str(outer), cwd=work)
    add_submodule(outer, "../middle.git", "libs/with space")
    return outer


@pytest.fixture
def mirror(tmp_path: Path, repository: Path) -> Mirror:
    mirror = Mirror.open(tmp_path / "home", 1, str(repository))
    mirror.fetch()
    return mirror


def workspace(mirror: Mirror, epoch: int = 1, notes: list[str] | None = None) -> Workspace:
    return Workspace(mirror.path.parents[1], mirror, "gt-1", epoch, PERSON, (notes if notes is not None else []).append)


def test_checked_out_and_later_without_the_network(mirror: Mirror, tmp_path: Path) -> None:
    target = mirror.target("main") or ""
    for name in ("first", "second"):
        mirror.clone(tmp_path / name, target, "main")
        assert (tmp_path / name / "libs" / "with space" / "deep" / "README").read_text() == "hello\n"
        assert git("status", "--porcelain", cwd=tmp_path / name) == ""
        assert "libs/with space" in git("submodule", "status", "--recursive", cwd=tmp_path / name)
        for gone in tmp_path.glob("*.git"):
            gone.rename(gone.with_suffix(".away"))


def test_one_that_cannot_be_had_stays_empty_and_the_attempt_hears_of_it(mirror: Mirror, tmp_path: Path) -> None:
    (tmp_path / "inner.git").rename(tmp_path / "away")
    (remark,) = mirror.clone(tmp_path / "tree", mirror.target("main") or "", "main")
    assert (tmp_path / "tree" / "libs" / "with space" / "README").exists()
    assert not list((tmp_path / "tree" / "libs" / "with space" / "deep").iterdir())
    assert remark.startswith("submodule deep is not checked out: ")
    notes: list[str] = []
    workspace(mirror, notes=notes).make("main", mirror.target("main") or "", mirror.target("main") or "")
    assert notes == [remark]


def test_no_remote_may_name_files_of_this_machine(mirror: Mirror, tmp_path: Path) -> None:
    mirror.repository = "https://example.invalid/outer.git"
    work = tmp_path / "outer.git.work"
    git("config", "--file", ".gitmodules", "submodule.libs/with space.url", str(tmp_path / "middle.git"), cwd=work)
    as_tester("commit", "-q", "-a", "-m", "look at this machine", cwd=work)
    sha = as_tester("rev-parse", "HEAD", cwd=work)
    git("push", "--quiet", str(mirror.path), f"{sha}:refs/heads/hostile", cwd=work)
    (remark,) = mirror.clone(tmp_path / "tree", sha, "main")
    assert not list((tmp_path / "tree" / "libs" / "with space").iterdir())
    assert "is on this machine" in remark


def test_what_is_done_in_them_is_kept(mirror: Mirror, tmp_path: Path) -> None:
    notes: list[str] = []
    target = mirror.target("main") or ""
    work = workspace(mirror, notes=notes)
    work.make("main", target, target)
    inside = work.path / "libs" / "with space"
    (inside / "made").write_text("made\n")
    as_tester("add", "made", cwd=inside)
    as_tester("commit", "-q", "-m", "inside", cwd=inside)
    made = as_tester("rev-parse", "HEAD", cwd=inside)
    (inside / "deep" / "README").write_text("not committed\n")
    assert work.save()
    assert work.remove()
    assert any("libs/with space" in note for note in notes)
    own = mirror.module(str(tmp_path / "middle.git"))
    deep = mirror.module(str(tmp_path / "inner.git"))
    assert own.resolve(made) == made
    assert git("show", "refs/gastown/wip/gt-1/1:README", cwd=deep.path) == "not committed\n"
    again = workspace(mirror, 2)
    again.make("main", target, mirror.resolve("refs/gastown/wip/gt-1/1") or "")
    assert (again.path / "libs" / "with space" / "made").read_text() == "made\n", "the result names its commit"


def test_a_merge_sees_what_its_result_names(mirror: Mirror, tmp_path: Path) -> None:
    target = mirror.target("main") or ""
    mirror.clone(tmp_path / "merge", target, "main")
    newer = tmp_path / "middle.git.work"
    (newer / "newer").write_text("newer\n")
    as_tester("add", "newer", cwd=newer)
    as_tester("commit", "-q", "-m", "newer", cwd=newer)
    as_tester("push", "-q", str(tmp_path / "middle.git"), "main", cwd=newer)
    sha = as_tester("rev-parse", "HEAD", cwd=newer)
    git("update-index", "--cacheinfo", f"160000,{sha},libs/with space", cwd=tmp_path / "merge")
    assert submodules.check_out(mirror, tmp_path / "merge") == []
    assert (tmp_path / "merge" / "libs" / "with space" / "newer").exists()


LFS = """#!{python}
import hashlib, os, sys
store = os.path.join(os.popen("git config lfs.storage").read().strip(), "objects")
data = sys.stdin.buffer.read()
if sys.argv[1] == "clean":
    name = hashlib.sha256(data).hexdigest()
    os.makedirs(store, exist_ok=True)
    open(os.path.join(store, name), "wb").write(data)
    data = f"version https://git-lfs.github.com/spec/v1\\noid sha256:{{name}}\\nsize {{len(data)}}\\n".encode()
else:
    data = open(os.path.join(store, data.split(b"sha256:")[1][:64].decode()), "rb").read()
sys.stdout.buffer.write(data)
"""


def test_large_files_without_git_lfs_are_pointers_and_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror = with_attributes(tmp_path)
    monkeypatch.setenv("PATH", str(only_git(tmp_path)))
    (remark,) = mirror.clone(tmp_path / "tree", mirror.target("main") or "", "main")
    assert "git-lfs is not installed" in remark


def test_large_files_of_an_attempt_outlive_its_clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a filter in the place of git-lfs, which keeps its objects where `lfs.storage` says, as that does."""
    mirror = with_attributes(tmp_path)
    program = only_git(tmp_path) / "git-lfs"
    program.write_text(LFS.format(python=sys.executable))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    config = tmp_path / "gitconfig"
    config.write_text('[filter "lfs"]\n\tclean = git-lfs clean\n\tsmudge = git-lfs smudge\n\trequired = true\n')
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(config))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")  # which names the real one where that is installed
    target = mirror.target("main") or ""
    work = workspace(mirror)
    work.make("main", target, target)
    (work.path / "a.bin").write_bytes(b"large")
    sha = work.save() or ""
    assert work.remove()
    assert git("show", f"{sha}:a.bin", cwd=mirror.path).startswith("version https://git-lfs")
    again = workspace(mirror, 2)
    again.make("main", target, sha)
    assert (again.path / "a.bin").read_bytes() == b"large"


def only_git(tmp_path: Path) -> Path:
    folder = tmp_path / "bin"
    folder.mkdir(exist_ok=True)
    for name in ("git", "sh"):
        if not (folder / name).exists():
            (folder / name).symlink_to(shutil.which(name) or "")
    return folder


def with_attributes(tmp_path: Path) -> Mirror:
    repository = make_repository(tmp_path / "large.git")
    work = tmp_path / "large.git.work"
    (work / "sub").mkdir()
    (work / ".gitattributes").write_text("*.bin filter=lfs diff=lfs merge=lfs -text\n")
    as_tester("add", "-A", cwd=work)
    as_tester("commit", "-q", "-m", "large files", cwd=work)
    as_tester("push", "-q", str(repository), "main", cwd=work)
    mirror = Mirror.open(tmp_path / "home", 2, str(repository))
    mirror.fetch()
    return mirror
