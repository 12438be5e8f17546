"""The mirror of a bead's own home takes the objects of the node's by reference, and writes nothing there."""

import os
import shutil
from pathlib import Path

import pytest

from gastown.agent import upkeep
from gastown.agent.mirror import Mirror
from tests.agent.containers import home_of, run_here
from tests.agent.town import Town, git


@pytest.fixture
def node(town: Town) -> Mirror:
    mirror = Mirror.open(town.home, 7, str(town.repository))
    mirror.fetch()
    return mirror


def objects(mirror: Path) -> list[Path]:
    return [path for path in (mirror / "objects").rglob("*") if path.is_file() and "info" not in path.parts]


def test_nothing_that_the_node_has_is_fetched_or_written(town: Town, node: Mirror, tmp_path: Path) -> None:
    before = _content(node.path)
    attempt, code = run_here(town, "ls")
    assert (code, attempt.output) == (0, b"README\n")
    own = home_of(town, attempt) / "mirrors" / "7.git"
    assert objects(own) == []
    assert _content(node.path) == before


def test_what_is_new_on_the_remote_is_fetched_here(town: Town, node: Mirror) -> None:
    before = _content(node.path)
    work = town.repository.with_name("origin.git.work")
    (work / "README").write_text("changed\n")
    git("commit", "-qam", "second", cwd=work)
    git("push", "-q", str(town.repository), "main", cwd=work)
    attempt, _ = run_here(town, "cat README; echo mine > new.txt")
    assert attempt.output == b"changed\n"
    assert attempt.done is not None
    assert git("show", f"{attempt.done['head_sha']}:new.txt", cwd=home_of(town, attempt) / "mirrors/7.git") == "mine"
    assert _content(node.path) == before


@pytest.mark.parametrize("how", ["missing", "no objects", "half a pack", "no objects, later", "refs to nothing"])
def test_a_node_mirror_that_is_not_whole_means_a_plain_fetch(town: Town, node: Mirror, how: str) -> None:
    if how == "missing":
        shutil.rmtree(node.path)
    elif how == "no objects":
        shutil.rmtree(node.path / "objects")
    elif how == "half a pack":
        node._git("repack", "-adq")
        (pack,) = (node.path / "objects" / "pack").glob("*.pack")
        pack.chmod(0o644)
        os.truncate(pack, pack.stat().st_size // 2)
    elif how == "refs to nothing":
        (node.path / "refs" / "remotes" / "origin" / "odd").write_text("a" * 40 + "\n")
    else:
        assert run_here(town, "true", epoch=1)[1] == 0
        for path in objects(node.path):
            path.chmod(0o644)
            path.write_bytes(b"")
    attempt, code = run_here(town, "cat README; echo mine > new.txt", epoch=2)
    assert (code, attempt.output) == (0, b"hello\n"), home_of(town, attempt)
    assert attempt.done is not None
    assert attempt.done["outcome"] == "succeeded"


def test_no_packing_of_the_node_takes_away_what_is_borrowed(town: Town, node: Mirror) -> None:
    """Also when the remote rewrote its branch, so that no ref of the node reaches the work's base any more."""
    attempt, _ = run_here(town, "echo mine > new.txt")
    assert attempt.done is not None
    base, head = attempt.done["base_sha"], attempt.done["head_sha"]
    own = home_of(town, attempt) / "mirrors" / "7.git"
    rewritten = git("commit-tree", f"{base}^{{tree}}", "-m", "rewritten", cwd=town.repository)
    git("update-ref", "refs/heads/main", rewritten, cwd=town.repository)
    node.fetch()
    assert node.target("main") == rewritten
    for folder in (node.path / "objects").rglob("*"):
        os.utime(folder, (0, 0))
    upkeep.repack(node)
    upkeep.prune(node)
    git("rev-list", "--objects", "--quiet", head, cwd=own)
    git("fsck", "--full", cwd=own)
    upkeep.note_dropped(node)
    (node.path / "gastown-pruned").unlink()
    assert upkeep.is_due(node, town.home)
    os.utime(own / "objects" / "info" / "alternates", (0, 0))
    assert not upkeep.is_due(node, town.home), "it has been borrowed from for as long as what nobody reaches is kept"


def test_the_lock_and_refs_of_the_node_are_not_needed_for_writing(town: Town, node: Mirror) -> None:
    """A container sees them read-only."""
    if os.geteuid() != 0:
        for folder, _, names in os.walk(node.path, topdown=False):
            for name in (*names, "."):
                os.chmod(Path(folder, name), 0o555 if name == "." else 0o444)
    assert run_here(town, "true")[1] == 0
    for folder, _, _ in os.walk(node.path):
        os.chmod(folder, 0o755)


def _content(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
