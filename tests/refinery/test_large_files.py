"""A rig that keeps large files with git-lfs: from an attempt on one node to a merge on another, with real git-lfs."""

import hashlib
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from gastown.agent import remaking
from gastown.agent.git import GitError, git
from gastown.agent.mirror import Mirror
from gastown.agent.protocol import head_ref
from gastown.refinery import merging
from gastown.refinery.jobs import Held, Prepared
from gastown.refinery.pushing import INTO_CHECKOUT
from gastown.states import HoldCode
from tests.refinery.rig import Rig, commit, rig_on

pytestmark = pytest.mark.skipif(shutil.which("git-lfs") is None, reason="git-lfs is not installed")
anywhere = pytest.mark.parametrize("large", ["checkout", "bare"], indirect=True)


@pytest.fixture
def large(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Rig:
    """With old.bin on main. Nobody has run `git lfs install` for whoever runs the refinery."""
    rig: Rig = request.getfixturevalue(getattr(request, "param", "bare"))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    seed = tmp_path / "seed"
    git("clone", "--quiet", str(rig.remote), str(seed))
    git("lfs", "install", "--local", "--skip-repo", cwd=seed)
    commit(seed, {".gitattributes": "*.bin filter=lfs diff=lfs merge=lfs -text\n", "old.bin": "old and large"})
    git("lfs", "push", "--all", "origin", cwd=seed)
    checkout = rig.remote / ".git"
    if checkout.is_dir():
        git("lfs", "install", "--local", "--skip-repo", cwd=rig.remote)
        git("pull", "--quiet", str(seed), "main", cwd=rig.remote)
    else:
        git("push", "--quiet", "origin", "main", cwd=seed)
    return rig


def stored(repository: Path, content: str) -> Path:
    name = hashlib.sha256(content.encode()).hexdigest()
    folder = repository / ".git" if (repository / ".git").is_dir() else repository
    return folder / "lfs" / "objects" / name[:2] / name[2:4] / name


@anywhere
def test_from_an_attempt_to_a_merge_on_another_node(large: Rig, tmp_path: Path) -> None:
    job = large.work("gt-1", {"new.bin": "new and large"})
    assert git("show", f"{job.head_sha}:new.bin", cwd=large.mirror.path).startswith("version https://git-lfs")
    assert stored(large.remote, "new and large").is_file(), "uploaded before the candidate's ref"
    other = rig_on(large.remote, tmp_path / "other", tmp_path / "other-home")
    there = replace(job, home=other.home)
    prepared = other.prepare(there, ["grep 'old and large' old.bin && grep 'new and large' new.bin"])
    assert isinstance(prepared, Prepared), prepared
    assert merging.push(there, prepared) == merging.Pushed()
    if (large.remote / ".git").is_dir():
        assert (large.remote / "new.bin").read_text() == "new and large"
    again = tmp_path / "again"
    Mirror.open(tmp_path / "third", 1, str(large.remote)).fetch()
    Mirror.open(tmp_path / "third", 1, str(large.remote)).clone(again, prepared.merge_sha, "main")
    assert (again / "new.bin").read_text() == "new and large"


@anywhere
def test_what_only_this_node_has_is_uploaded_with_the_target(large: Rig) -> None:
    """The candidate's push was refused, or its answer is yet to come: the merge does not rely on it."""
    job = large.work("gt-1", {"new.bin": "new and large"}, push=False)
    large.mirror.keep(large.scratch / "gt-1", f"{job.head_sha}:{head_ref('gt-1', 1)}")
    prepared = large.prepare(job)
    assert isinstance(prepared, Prepared), prepared
    assert not stored(large.remote, "new and large").exists()
    assert merging.push(job, prepared) == merging.Pushed()
    assert stored(large.remote, "new and large").read_text() == "new and large"


def test_content_that_nobody_has_any_more_is_a_pointer_and_said(large: Rig, tmp_path: Path) -> None:
    stored(large.remote, "old and large").unlink()
    large.mirror.fetch()
    (remark,) = large.mirror.clone(tmp_path / "tree", large.mirror.target("main") or "", "main")
    assert "old.bin" in remark
    assert "the remote does not have them" in remark
    assert (tmp_path / "tree" / "old.bin").read_text().startswith("version https://git-lfs")
    assert git("status", "--porcelain", cwd=tmp_path / "tree") == ""


def test_an_upload_that_fails_leaves_the_target_alone(large: Rig) -> None:
    job = large.work("gt-1", {"new.bin": "new and large"}, push=False)
    large.mirror.keep(large.scratch / "gt-1", f"{job.head_sha}:{head_ref('gt-1', 1)}")
    prepared = large.prepare(job)
    assert isinstance(prepared, Prepared), prepared
    place = stored(large.remote, "new and large").parents[1]
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text("in the way")
    outcome = merging.push(job, prepared)
    assert isinstance(outcome, merging.Unknown), outcome
    assert git("rev-parse", "main", cwd=large.remote).strip() == prepared.expected_sha
    place.unlink()
    assert merging.push(job, prepared) == merging.Pushed()


def test_a_mirror_that_is_made_anew_keeps_the_content(large: Rig, tmp_path: Path) -> None:
    job = large.work("gt-1", {"new.bin": "new and large"}, push=False)
    large.mirror.keep(large.scratch / "gt-1", f"{job.head_sha}:{head_ref('gt-1', 1)}")
    with large.mirror.locked():
        remaking.remake(large.mirror)
    large.mirror.clone(tmp_path / "tree", job.head_sha, "main")
    assert (tmp_path / "tree" / "new.bin").read_text() == "new and large"


def test_what_a_clone_has_is_a_file_of_its_own(large: Rig, tmp_path: Path) -> None:
    """git-lfs links its own copies with each other; what an agent writes to must not be one of them."""
    large.mirror.fetch()
    large.mirror.clone(tmp_path / "tree", large.mirror.target("main") or "", "main")
    assert (tmp_path / "tree" / "old.bin").stat().st_nlink == 1


def test_a_server_that_the_repository_names_is_asked(large: Rig, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere.git"
    git("init", "--quiet", "--bare", str(elsewhere))
    files = {".lfsconfig": f"[lfs]\n\turl = file://{elsewhere}\n", "new.bin": "new and large"}
    job = large.work("gt-1", files)
    assert stored(elsewhere, "new and large").is_file()
    assert not stored(large.remote, "new and large").exists()
    assert git("cat-file", "-t", head_ref("gt-1", 1), cwd=large.remote).strip() == "commit", job


def test_uninstalled_meanwhile_it_refuses_to_push_pointers_alone(
    large: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = large.work("gt-1", {"new.bin": "new and large"}, push=False)
    large.mirror.keep(large.scratch / "gt-1", f"{job.head_sha}:{head_ref('gt-1', 1)}")
    only = tmp_path / "bin"
    only.mkdir()
    for name in ("git", "sh"):
        (only / name).symlink_to(shutil.which(name) or "")
    monkeypatch.setenv("PATH", str(only))
    with pytest.raises(GitError, match="not installed"):
        large.mirror.push(f"{job.head_sha}:{head_ref('gt-1', 1)}")


def test_an_unreachable_server_holds_the_merge(large: Rig, tmp_path: Path) -> None:
    """Not the repository's fault, and not a failed gate: it is looked at again."""
    job = large.work("gt-1", {"new.bin": "new and large"})
    (stored(large.remote, "old and large")).unlink()
    seed = large.scratch / "gt-1"
    git("checkout", "--quiet", "--detach", "origin/main", cwd=seed)
    commit(seed, {".lfsconfig": "[lfs]\n\turl = http://127.0.0.1:1/lfs\n"})
    git("push", "--quiet", INTO_CHECKOUT, "origin", "HEAD:main", cwd=seed)
    other = rig_on(large.remote, tmp_path / "other", tmp_path / "other-home")
    outcome = other.prepare(replace(job, home=other.home), ["true"])
    assert isinstance(outcome, Held), outcome
    assert outcome.code is HoldCode.UNREACHABLE, outcome
    assert isinstance(large.prepare(job, ["grep old old.bin"]), Prepared), "which has it"
