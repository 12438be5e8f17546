"""Whatever git takes as the name of a file or a branch, an attempt starts from it, and its work is saved."""

import os
from pathlib import Path

import pytest

from gastown.agent.git import git
from gastown.agent.mirror import Mirror
from gastown.agent.snapshot import Person
from gastown.agent.workspace import Workspace
from gastown.refinery.remote import fetch_target

PERSON = Person("toast", "toast@localhost")
BRANCHES = [
    "feature/größe#1",
    "a@b",
    "@",
    "HEAD",
    "-dash",
    "--force",
    "x{y}",
    "it's",
    'say"so"',
    "$(id);|&",
    "refs/heads/main",
    "heads/main",
    "origin/main",
    "a%2Fb!",
    "🎉",
    os.fsdecode(b"caf\xe9"),
    "w" * 200,
    "/".join("abcdefghij" * 4),
]
FILES = ["with\nnewline", os.fsdecode(b"caf\xe9"), 'quote"back\\slash', "-dash", "größe", " ", "a\tb", ":(glob)**", "*"]


@pytest.fixture
def mirror(tmp_path: Path, repository: Path) -> Mirror:
    mirror = Mirror.open(tmp_path / "home", 1, str(repository))
    mirror.fetch()
    return mirror


@pytest.mark.parametrize("branch", BRANCHES, ids=range(len(BRANCHES)))
def test_branches(mirror: Mirror, repository: Path, branch: str) -> None:
    main = mirror.target("main") or ""
    git("update-ref", f"refs/heads/{branch}", main, cwd=repository)
    mirror.fetch()
    assert mirror.target(branch) == fetch_target(mirror, branch) == main
    work = Workspace(mirror.path.parents[1], mirror, "gt-1", 1, PERSON, lambda _: None)
    work.make(branch, main, main)
    assert git("status", "--porcelain", cwd=work.path) == ""
    (work.path / "new").write_text("new\n")
    offered = work.candidate("title", {})
    mirror.push(f"{offered.head_sha}:refs/heads/{branch}", options=(f"--force-with-lease=refs/heads/{branch}:{main}",))
    assert git("rev-parse", f"refs/heads/{branch}", cwd=repository).strip() == offered.head_sha


def test_files(mirror: Mirror) -> None:
    main = mirror.target("main") or ""
    work = Workspace(mirror.path.parents[1], mirror, "gt-1", 1, PERSON, lambda _: None)
    work.make("main", main, main)
    for name in FILES:
        (work.path / name).write_bytes(os.fsencode(name))
    (work.path / "link\n").symlink_to("nowhere\n")
    sha = work.save() or ""
    assert work.remove()
    again = Workspace(mirror.path.parents[1], mirror, "gt-1", 2, PERSON, lambda _: None)
    again.make("main", main, sha)
    for name in FILES:
        assert (again.path / name).read_bytes() == os.fsencode(name)
    assert os.readlink(again.path / "link\n") == "nowhere\n"
    head = again.candidate("title", {}).head_sha
    listed = git("ls-tree", "-r", "--name-only", "-z", head, cwd=mirror.path).split("\0")
    assert {*FILES, "link\n"} <= set(listed)
