"""A merge from the recorded head to the target: each way it can end, and that it happens once or not at all."""

import os
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from gastown.agent.git import git
from gastown.errors import RepositoryUnavailable
from gastown.refinery.merging import (
    AlreadyMerged,
    Held,
    MergeJob,
    Moved,
    Prepared,
    Pushed,
    PushRefused,
    Unknown,
    contains,
    land,
    push,
    release,
)
from gastown.states import HoldCode
from tests.refinery.remotes import SSH, over_http
from tests.refinery.rig import WHO, Rig, add_hook, commit, head


def prepared(rig: Rig, job: MergeJob) -> Prepared:
    outcome = rig.prepare(job)
    assert isinstance(outcome, Prepared), outcome
    return outcome


def test_merge(rig: Rig) -> None:
    before = head(rig.remote, "main")
    job = rig.work("gt-1", {"new": "new\n"})
    outcome = prepared(rig, job)
    assert outcome.expected_sha == outcome.base_sha == before == head(rig.remote, "main")
    assert push(job, outcome) == Pushed()
    assert head(rig.remote, "main") == outcome.merge_sha
    shown = git("log", "-1", "--format=%P%n%an <%ae>%n%cn%n%B", "main", cwd=rig.remote)
    assert shown.strip() == (
        f"{before} {job.head_sha}\nGastown <gastown@localhost>\nGastown\n"
        "Merge gt-1: Title of gt-1\n\nGastown-Bead: gt-1\nGastown-Dispatch: 0f0f"
    )
    assert git("show", "main:new", cwd=rig.remote) == "new\n"
    assert rig.steps == ["fetch", "merge"]
    assert rig.leftovers() == []
    assert rig.mirror.resolve(job.merging_ref) == outcome.merge_sha


def test_checkout_shows_the_merge(checkout: Rig) -> None:
    job = checkout.work("gt-1", {"new": "new\n"})
    push(job, prepared(checkout, job))
    assert (checkout.remote / "new").read_text() == "new\n"
    assert git("status", "--porcelain", cwd=checkout.remote) == ""
    assert "denyCurrentBranch" not in git("config", "--list", cwd=checkout.remote)


def test_pushing_twice_is_pushing_once(rig: Rig) -> None:
    job = rig.work("gt-1", {"new": "new\n"})
    outcome = prepared(rig, job)
    assert [push(job, outcome), push(job, outcome)] == [Pushed(), Pushed()]
    assert rig.on_target().count("Merge gt-1: Title of gt-1") == 1


def test_after_a_crash_between_push_and_record_it_is_found(rig: Rig) -> None:
    job = rig.work("gt-1", {"new": "new\n"})
    outcome = prepared(rig, job)
    push(job, outcome)
    other = rig.work("gt-2", {"other": "other\n"})
    push(other, prepared(rig, other))
    assert contains(job, outcome.merge_sha)
    assert rig.prepare(job, merge_epoch=2) == AlreadyMerged(outcome.merge_sha)


def test_after_a_crash_before_the_push_it_is_not_there(rig: Rig) -> None:
    job = rig.work("gt-1", {"new": "new\n"})
    outcome = prepared(rig, job)
    assert not contains(job, outcome.merge_sha)
    assert not contains(job, "a" * 40)
    again = prepared(rig, replace(job, merge_epoch=2))
    assert push(job, again) == Pushed()


def test_a_fast_forward_by_a_person_is_found(bare: Rig) -> None:
    job = bare.work("gt-1", {"new": "new\n"})
    git("update-ref", "refs/heads/main", job.head_sha, cwd=bare.remote)
    assert bare.prepare(job) == AlreadyMerged(job.head_sha)
    later = bare.work("gt-2", {"other": "other\n"})
    push(later, prepared(bare, later))
    assert bare.prepare(job) == AlreadyMerged(job.head_sha)


def test_a_merge_by_a_person_is_found_in_a_long_history(checkout: Rig) -> None:
    job = checkout.work("gt-1", {"new": "new\n"})
    for n in range(5):
        commit(checkout.remote, message=f"before {n}")
    git("merge", "--quiet", "--no-ff", "-m", "by hand", job.head_sha, cwd=checkout.remote, env=WHO)
    by_hand = head(checkout.remote)
    for n in range(9):
        commit(checkout.remote, message=f"after {n}")
    assert checkout.prepare(job) == AlreadyMerged(by_hand)


def test_target_moves_between_prepare_and_push(rig: Rig, tmp_path: Path) -> None:
    job = rig.work("gt-1", {"new": "new\n"})
    outcome = prepared(rig, job)
    other = rig.work("gt-2", {"other": "other\n"})
    push(other, prepared(rig, other))
    assert push(job, outcome) == Moved()
    assert push(job, prepared(rig, replace(job, merge_epoch=2))) == Pushed()
    assert sorted(rig.on_target()) == sorted(
        ["first", "work on gt-1", "work on gt-2", "Merge gt-1: Title of gt-1", "Merge gt-2: Title of gt-2"]
    )


def test_two_push_at_the_same_moment(bare: Rig) -> None:
    jobs = [bare.work(f"gt-{n}", {f"file{n}": "x"}) for n in range(3)]
    merges = [(job, prepared(bare, job)) for job in jobs]
    outcomes: list[object] = []
    threads = [threading.Thread(target=lambda m=merge: outcomes.append(push(*m))) for merge in merges]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert outcomes.count(Pushed()) == 1
    assert all(isinstance(outcome, Pushed | Moved | Unknown) for outcome in outcomes), outcomes
    assert sum(contains(job, merge.merge_sha) for job, merge in merges) == 1


def test_two_push_into_a_checkout_at_the_same_moment(checkout: Rig) -> None:
    """Git updates the files before it looks at the lease, so the loser must not get that far."""
    jobs = [checkout.work(f"gt-{n}", {f"file{n}": "x"}) for n in range(3)]
    merges = [(job, prepared(checkout, job)) for job in jobs]
    outcomes: list[object] = []
    threads = [threading.Thread(target=lambda m=merge: outcomes.append(push(*m))) for merge in merges]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert (outcomes.count(Pushed()), outcomes.count(Moved())) == (1, 2), outcomes
    assert git("status", "--porcelain", cwd=checkout.remote) == ""


def test_conflict_names_the_files(rig: Rig) -> None:
    name = os.fsdecode(b"caf\xe9\nnew")
    first = rig.work("gt-1", {"code.py": "one = 'first'\n", name: "first"})
    second = rig.work("gt-2", {"code.py": "one = 'second'\n", name: "second"})
    push(first, prepared(rig, first))
    before = head(rig.remote, "main")
    outcome = rig.prepare(second)
    assert isinstance(outcome, Held)
    assert outcome.code is HoldCode.CONFLICT
    assert outcome.reason == "conflicts with main in caf\N{REPLACEMENT CHARACTER}\\nnew, code.py"
    assert "both sides changed the same lines" in outcome.output
    f"{outcome}".encode()
    assert head(rig.remote, "main") == before
    assert rig.leftovers() == []


def test_nothing_in_common(bare: Rig, tmp_path: Path) -> None:
    git("init", "--quiet", str(tmp_path / "other"))
    sha = commit(tmp_path / "other", {"x": "x"})
    job = replace(bare.work("gt-1", {"new": "x"}), head_sha=sha)
    bare.mirror.keep(tmp_path / "other", f"{sha}:refs/gastown/head/gt-1/2")
    outcome = bare.prepare(job)
    assert isinstance(outcome, Held)
    assert outcome.code is HoldCode.CONFLICT
    assert "no commit in common" in outcome.reason


def test_the_recorded_head_is_merged(rig: Rig) -> None:
    job = rig.work("gt-1", {"new": "new\n"})
    clone = rig.scratch / "gt-1"
    later = commit(clone, {"late": "after done"})
    rig.mirror.keep(clone, f"{later}:{job.head_ref}")
    rig.mirror.push(f"{later}:{job.head_ref}")
    assert push(job, prepared(rig, job)) == Pushed()
    assert "late" not in git("ls-tree", "--name-only", "main", cwd=rig.remote).split()


def test_head_is_fetched_when_another_machine_made_it(rig: Rig, tmp_path: Path) -> None:
    job = rig.work("gt-1", {"new": "new\n"})
    late = commit(rig.scratch / "gt-1", {"late": "after done"})
    rig.mirror.keep(rig.scratch / "gt-1", f"{late}:{job.head_ref}")
    rig.mirror.push(f"{late}:{job.head_ref}")
    elsewhere = replace(job, home=tmp_path / "another")
    assert push(elsewhere, prepared(rig, elsewhere)) == Pushed()
    assert "late" not in git("ls-tree", "--name-only", "main", cwd=rig.remote).split()


def test_head_missing(rig: Rig) -> None:
    job = rig.work("gt-1", {"new": "new\n"}, push=False)
    outcome = rig.prepare(job)
    assert isinstance(outcome, Held)
    assert outcome.code is HoldCode.HEAD_MISSING
    assert job.head_sha[:12] in outcome.reason


def test_unreachable(rig: Rig, tmp_path: Path) -> None:
    job = rig.work("gt-1", {"new": "new\n"})
    outcome = prepared(rig, job)
    rig.remote.rename(tmp_path / "away")
    held = rig.prepare(job)
    assert isinstance(held, Held)
    assert held.code is HoldCode.UNREACHABLE
    assert str(rig.remote) in held.reason
    assert isinstance(push(job, outcome), Unknown)
    assert isinstance(land(job, outcome.merge_sha), Unknown)
    with pytest.raises(RepositoryUnavailable):
        contains(job, outcome.merge_sha)
    (tmp_path / "away").rename(rig.remote)
    assert push(job, outcome) == Pushed()


def test_target_is_gone(bare: Rig) -> None:
    git("branch", "release", "main", cwd=bare.remote)
    job = bare.work("gt-1", {"new": "new\n"}, target="release")
    outcome = prepared(bare, job)
    git("branch", "-D", "release", cwd=bare.remote)
    held = bare.prepare(job)
    assert isinstance(held, Held)
    assert "has no branch release" in held.reason
    assert push(job, outcome) == Moved()
    assert not contains(job, outcome.merge_sha)


def test_refused_by_the_remote(rig: Rig) -> None:
    job = rig.work("gt-1", {"new": "new\n"})
    outcome = prepared(rig, job)
    before = head(rig.remote, "main")
    add_hook(rig.remote, "pre-receive", "#!/bin/sh\necho main is protected: ask Ada >&2\nexit 1\n")
    refused = push(job, outcome)
    assert refused == PushRefused("main is protected: ask Ada (pre-receive hook declined)")
    assert head(rig.remote, "main") == before


def test_a_push_without_credentials_is_refused_at_once(bare: Rig) -> None:
    """S36: whoever may fetch may not always push, and no second try helps."""
    with over_http(bare.remote) as url:
        job = replace(bare.work("gt-1", {"new": "new\n"}), repository=url)
        outcome = prepared(bare, job)
        refused = push(job, outcome)
        assert isinstance(refused, PushRefused), refused
        assert f"{url} wants a login for pushes; give git a credential helper" in refused.reason
        assert "could not read Username" in refused.reason


def test_a_push_with_the_wrong_ssh_key_is_refused_at_once(
    bare: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "fake-ssh"
    script.write_text(SSH)
    script.chmod(0o755)
    monkeypatch.setenv("GIT_SSH_COMMAND", str(script))
    monkeypatch.setenv("GIT_SSH_VARIANT", "simple")
    job = replace(bare.work("gt-1", {"new": "new\n"}), repository=f"git@localhost:{bare.remote}")
    refused = push(job, prepared(bare, job))
    assert isinstance(refused, PushRefused), refused
    assert "Permission denied (publickey,password)" in refused.reason


@pytest.mark.parametrize("branch", ["release/1.x", "größe#1", "a'b", "-x", "semi;colon$HOME`id`"])
def test_odd_branches(bare: Rig, branch: str) -> None:
    git("update-ref", f"refs/heads/{branch}", "main", cwd=bare.remote)
    if branch.startswith("-"):
        branch = f"v/{branch}"
        git("update-ref", f"refs/heads/{branch}", "main", cwd=bare.remote)
    job = bare.work("gt-1", {"new": "new\n"}, target=branch)
    outcome = prepared(bare, job)
    assert push(job, outcome) == Pushed()
    assert head(bare.remote, f"refs/heads/{branch}") == outcome.merge_sha


def test_odd_titles_and_files(rig: Rig) -> None:
    names = [os.fsdecode(b"caf\xe9"), "with\nnewline", "-dash", 'quo"te']
    job = replace(rig.work("gt-1", dict.fromkeys(names, "x")), title="#1: two\nlines\n\nGastown-Bead: gt-9  é")
    outcome = prepared(rig, job)
    assert push(job, outcome) == Pushed()
    assert git("log", "-1", "--format=%s", "main", cwd=rig.remote).strip() == (
        "Merge gt-1: #1: two lines Gastown-Bead: gt-9 é"
    )
    trailers = git("log", "-1", "--format=%(trailers:key=Gastown-Bead,valueonly)", "main", cwd=rig.remote)
    assert trailers.strip() == "gt-1"
    assert set(names) <= set(git("ls-tree", "-z", "--name-only", "main", cwd=rig.remote).split("\0"))


def test_settings_of_a_person_do_not_matter(rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "person" / ".gitconfig").write_text(
        "[commit]\n gpgSign = true\n[merge]\n ff = only\n verifySignatures = true\n[fetch]\n prune = true\n"
        "[push]\n default = nothing\n followTags = true\n[user]\n useConfigOnly = true\n[core]\n hooksPath = /hooks\n"
    )
    job = rig.work("gt-1", {"new": "new\n"})
    assert push(job, prepared(rig, job)) == Pushed()


def test_worktrees_of_earlier_merges_go_and_later_ones_stay(rig: Rig) -> None:
    job = replace(rig.work("gt-1", {"new": "new\n"}), merge_epoch=3)
    folder = rig.home / "merges" / "1"
    for name in ("gt-1-2", "gt-1-3.tmp", "gt-1-4", "gt-11-1", "gt-2-1"):
        (folder / name / "sub").mkdir(parents=True)
    (folder / "gt-1-2" / "sub").chmod(0o500)
    release(job)
    assert sorted(path.name for path in folder.iterdir()) == ["gt-1-4", "gt-11-1", "gt-2-1"]
