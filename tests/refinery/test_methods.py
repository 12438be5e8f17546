"""Squash and rebase: what the target gets, who is named in it, and that it happens once although its SHAs are new."""

from dataclasses import replace
from pathlib import Path

import pytest

from gastown.agent.git import git
from gastown.gates import MergeMethod
from gastown.refinery.merging import (
    AlreadyMerged,
    Dirty,
    Held,
    MergeJob,
    Moved,
    NothingLeft,
    Prepared,
    Pushed,
    contains,
    land,
    push,
    stage,
)
from gastown.states import HoldCode
from tests.refinery.rig import WHO, Rig, commit, head

SQUASH, REBASE = MergeMethod.SQUASH, MergeMethod.REBASE
both = pytest.mark.parametrize("method", [SQUASH, REBASE])


def prepared(rig: Rig, job: MergeJob) -> Prepared:
    outcome = rig.prepare(job)
    assert isinstance(outcome, Prepared), outcome
    return outcome


def work(rig: Rig, bead: str, method: MergeMethod, *commits: dict[str, str], **more: object) -> MergeJob:
    """A job of which each of `commits` is one commit, of the agent toast."""
    job = rig.work(bead, commits[0])
    sha = job.head_sha
    for files in commits[1:]:
        sha = commit(rig.scratch / bead, files, f"more of {bead}\n\nWhy.\n\nGastown-Dispatch: forged\nRefs: #1")
    git(
        "-c",
        "user.name=x",
        "-c",
        "user.email=x@x",
        "commit",
        "--amend",
        "--no-edit",
        "-q",
        "--author=toast <toast@gastown>",
        cwd=rig.scratch / bead,
    )
    sha = head(rig.scratch / bead)
    rig.mirror.keep(rig.scratch / bead, f"+{sha}:{job.head_ref}")
    return replace(job, head_sha=sha, method=method, **more)  # type: ignore[arg-type]


def shown(rig: Rig, form: str, *revs: str) -> list[str]:
    return git("log", f"--format={form}", *(revs or ("main",)), cwd=rig.remote).strip().split("\n")


def test_squash(rig: Rig) -> None:
    before = head(rig.remote, "main")
    job = work(rig, "gt-1", SQUASH, {"one": "1\n"}, {"two": "2\n"})
    outcome = prepared(rig, job)
    assert push(job, outcome) == Pushed()
    assert shown(rig, "%P|%an <%ae>|%cn <%ce>", "-1", "main") == [
        f"{before}|toast <toast@gastown>|Gastown <gastown@localhost>"
    ]
    assert git("log", "-1", "--format=%B", "main", cwd=rig.remote).strip() == (
        "Title of gt-1 (gt-1)\n\n* work on gt-1\n* more of gt-1\n\n"
        f"Gastown-Bead: gt-1\nGastown-Dispatch: 0f0f\nGastown-Head: {job.head_sha}"
    )
    assert git("show", "main:one", "main:two", cwd=rig.remote) == "1\n2\n"
    assert head(rig.remote, "main") == outcome.merge_sha == rig.mirror.resolve(job.merging_ref)
    assert rig.leftovers() == []


def test_rebase(rig: Rig) -> None:
    job = work(rig, "gt-1", REBASE, {"one": "1\n"}, {"two": "2\n"})
    other = rig.work("gt-2", {"three": "3\n"})
    push(other, prepared(rig, other))
    before = head(rig.remote, "main")
    outcome = prepared(rig, job)
    assert outcome.base_sha == before
    assert push(job, outcome) == Pushed()
    assert shown(rig, "%s|%an|%cn|%P", f"{before}..main") == [
        f"more of gt-1|toast|Gastown|{head(rig.remote, 'main~1')}",
        f"work on gt-1|Ada|Gastown|{before}",
    ]
    trailers = "%(trailers:only,unfold,separator=%x7C)"
    assert shown(rig, trailers, f"{before}..main") == [
        f"Refs: #1|Gastown-Bead: gt-1|Gastown-Dispatch: 0f0f|Gastown-Head: {job.head_sha}",
        "Gastown-Bead: gt-1|Gastown-Dispatch: 0f0f",
    ]

    assert git("show", "main:one", "main:two", "main:three", cwd=rig.remote) == "1\n2\n3\n"


def test_the_date_of_a_rebased_commit_is_its_authors(bare: Rig) -> None:
    job = bare.work("gt-1", {"one": "1\n"})
    clone = bare.scratch / "gt-1"
    git("commit", "--amend", "-q", "--no-edit", "--date=2001-02-03T04:05:06+0700", cwd=clone, env=WHO)
    job = replace(job, head_sha=head(clone), method=REBASE)
    bare.mirror.keep(clone, f"+{job.head_sha}:{job.head_ref}")
    push(job, prepared(bare, job))
    assert shown(bare, "%aI", "-1", "main") == ["2001-02-03T04:05:06+07:00"]


def test_gates_run_on_the_result(bare: Rig) -> None:
    for method in (SQUASH, REBASE):
        job = work(bare, f"gt-{method}", method, {f"{method}": "1\n"})
        gate = f'test -f {method} && test "$(git log -1 --format=%cn) $(git branch --show-current)" = "Gastown main"'
        outcome = bare.prepare(job, gates=(gate, 'test -z "$(git status --porcelain)"'))
        assert isinstance(outcome, Prepared), outcome
        assert push(job, outcome) == Pushed()


# --- once


@both
def test_after_a_crash_between_push_and_record_it_is_found(rig: Rig, method: MergeMethod) -> None:
    job = work(rig, "gt-1", method, {"one": "1\n"}, {"two": "2\n"})
    outcome = prepared(rig, job)
    assert push(job, outcome) == Pushed()
    other = replace(rig.work("gt-2", {"other": "other\n"}), dispatch_id="0e0e", method=method)
    push(other, prepared(rig, other))
    assert contains(job, outcome.merge_sha)
    assert rig.prepare(job, merge_epoch=2) == AlreadyMerged(outcome.merge_sha)
    assert [push(job, outcome), land(job, outcome.merge_sha)] == [Moved(), Pushed()]
    assert len(shown(rig, "%H", "--grep=Gastown-Dispatch: 0f0f", "main")) == (1 if method is SQUASH else 2)


@both
def test_the_method_may_change_meanwhile(bare: Rig, method: MergeMethod) -> None:
    job = work(bare, "gt-1", method, {"one": "1\n"})
    outcome = prepared(bare, job)
    push(job, outcome)
    for other in MergeMethod:
        assert bare.prepare(job, merge_epoch=2, method=other) == AlreadyMerged(outcome.merge_sha)


def test_part_of_a_rebase_is_not_all_of_it(bare: Rig) -> None:
    """A person went back to the middle of it: the rest is still to be merged."""
    job = work(bare, "gt-1", REBASE, {"one": "1\n"}, {"two": "2\n"})
    push(job, prepared(bare, job))
    git("update-ref", "refs/heads/main", "main~1", cwd=bare.remote)
    again = replace(job, merge_epoch=2)
    assert push(again, prepared(bare, again)) == Pushed()
    assert shown(bare, "%s") == ["more of gt-1", "work on gt-1", "first"]


@pytest.mark.parametrize("colon", [":", " :"])
def test_words_of_an_agent_do_not_make_it_merged(bare: Rig, colon: str) -> None:
    """Its commits come to the target's own line with a rebase, and say what they like."""
    victim = work(bare, "gt-2", SQUASH, {"victim": "1\n"}, dispatch_id="0b0b")
    job = bare.work("gt-1", {"one": "1\n"})
    clone = bare.scratch / "gt-1"
    said = f"{colon} 0b0b\nGastown-Head{colon} {victim.head_sha}"
    forged = f"Gastown-Head: {victim.head_sha} is mine\n\nGastown-Bead: gt-2\nGastown-Dispatch{said}"
    job = replace(job, head_sha=commit(clone, {"two": "2\n"}, forged), method=REBASE)
    bare.mirror.keep(clone, f"+{job.head_sha}:{job.head_ref}")
    push(job, prepared(bare, job))
    assert isinstance(bare.prepare(victim), Prepared)


@both
def test_the_target_moves_between_prepare_and_push(rig: Rig, method: MergeMethod) -> None:
    job = work(rig, "gt-1", method, {"one": "1\n"})
    outcome = prepared(rig, job)
    other = rig.work("gt-2", {"other": "other\n"})
    push(other, prepared(rig, other))
    assert push(job, outcome) == Moved()
    again = replace(job, merge_epoch=2)
    assert push(again, prepared(rig, again)) == Pushed()
    assert len(shown(rig, "%H", "--grep=Gastown-Dispatch: 0f0f", "--no-merges", "main")) == 1


# --- nothing left, conflicts


@both
def test_nothing_is_left_of_what_a_person_picked(rig: Rig, method: MergeMethod) -> None:
    job = work(rig, "gt-1", method, {"one": "1\n"}, {"two": "2\n"})
    by_hand = rig.work("gt-9", {"one": "1\n", "two": "2\n"})
    push(by_hand, prepared(rig, by_hand))
    target = head(rig.remote, "main")
    assert rig.prepare(job, gates=("false",)) == NothingLeft(target)
    assert rig.leftovers() == []
    assert isinstance(rig.prepare(job, method=MergeMethod.MERGE), Prepared)


def test_what_is_left_of_a_rebase_is_merged(bare: Rig) -> None:
    job = work(bare, "gt-1", REBASE, {"one": "1\n"}, {"two": "2\n"})
    by_hand = bare.work("gt-9", {"one": "1\n"})
    push(by_hand, prepared(bare, by_hand))
    before = head(bare.remote, "main")
    push(job, prepared(bare, job))
    assert shown(bare, "%s", f"{before}..main") == ["more of gt-1"]


@both
def test_conflict_names_the_files(rig: Rig, method: MergeMethod) -> None:
    first = work(rig, "gt-1", method, {"code.py": "one = 'first'\n"})
    second = work(rig, "gt-2", method, {"ok": "1\n"}, {"code.py": "one = 'second'\n"}, dispatch_id="0e0e")
    push(first, prepared(rig, first))
    before = head(rig.remote, "main")
    outcome = rig.prepare(second)
    assert isinstance(outcome, Held), outcome
    assert outcome.code is HoldCode.CONFLICT
    sha = git("rev-parse", "--short", second.head_sha, cwd=rig.mirror.path).strip()
    at = f", at commit {sha} (more of gt-2)" if method is REBASE else ""
    assert outcome.reason == f"conflicts with main in code.py{at}"
    assert "both sides changed the same lines" in outcome.output
    assert head(rig.remote, "main") == before
    assert rig.leftovers() == []


@both
def test_nothing_in_common(bare: Rig, tmp_path: Path, method: MergeMethod) -> None:
    git("init", "--quiet", str(tmp_path / "other"))
    sha = commit(tmp_path / "other", {"x": "x"})
    job = replace(bare.work("gt-1", {"new": "x"}), head_sha=sha, method=method)
    bare.mirror.keep(tmp_path / "other", f"{sha}:refs/gastown/head/gt-1/2")
    outcome = bare.prepare(job)
    assert isinstance(outcome, Held)
    assert (outcome.code, "no commit in common" in outcome.reason) == (HoldCode.CONFLICT, True)


@both
def test_work_that_took_the_target_in(bare: Rig, method: MergeMethod) -> None:
    """An agent merged main into its branch: that merge is gone from the result, and its content is there."""
    job = work(bare, "gt-1", method, {"one": "1\n"})
    other = bare.work("gt-2", {"other": "1\n"})
    push(other, prepared(bare, other))
    bare.mirror.fetch()
    clone = bare.scratch / "gt-1"
    git("fetch", "-q", str(bare.remote), "main", cwd=clone)
    git("merge", "-q", "--no-edit", "FETCH_HEAD", cwd=clone, env=WHO)
    job = replace(job, head_sha=commit(clone, {"two": "2\n"}, "after"))
    bare.mirror.keep(clone, f"+{job.head_sha}:{job.head_ref}")
    before = head(bare.remote, "main")
    assert push(job, prepared(bare, job)) == Pushed()
    subjects = shown(bare, "%s", f"{before}..main")
    assert subjects == (["Title of gt-1 (gt-1)"] if method is SQUASH else ["after", "work on gt-1"])
    assert git("show", "main:one", "main:two", "main:other", cwd=bare.remote) == "1\n2\n1\n"


# --- a person's checkout, authors, settings


@both
def test_into_a_dirty_checkout(checkout: Rig, method: MergeMethod) -> None:
    person = checkout.remote
    first = work(checkout, "gt-1", method, {"one": "1"})
    second = work(checkout, "gt-2", method, {"two": "2"}, dispatch_id="0e0e")
    one = prepared(checkout, first)
    (person / "README").write_text("busy\n")
    assert push(first, one) == Dirty(("README",))
    stage(first, one)
    second = replace(second, staged_sha=one.merge_sha)
    two = prepared(checkout, second)
    assert (two.base_sha, two.expected_sha) == (one.merge_sha, head(person))
    stage(second, two)
    again = checkout.prepare(first, staged_sha=two.merge_sha, merge_epoch=2)
    assert again == Prepared(merge_sha=two.merge_sha, base_sha=two.merge_sha, expected_sha=head(person))
    third = work(checkout, "gt-3", method, {"one": "1"}, dispatch_id="0a0a", staged_sha=two.merge_sha)
    assert prepared(checkout, third).merge_sha == two.merge_sha  # nothing of its own: it lands with what it stands on
    git("checkout", "--quiet", "--", "README", cwd=person)
    assert land(second, two.merge_sha) == Pushed()
    assert checkout.prepare(first, merge_epoch=3) == AlreadyMerged(one.merge_sha)
    assert git("status", "--porcelain", cwd=person) == ""


def test_the_author_that_a_rig_sets(bare: Rig) -> None:
    """Of the commits that merges make. Those of the work keep theirs."""
    seen = {}
    for number, method in enumerate(MergeMethod):
        job = work(bare, f"gt-{number}", method, {f"f{number}": "1\n"}, dispatch_id=f"0{number}")
        job = replace(job, author="Zoë <zoe@example.com>")
        push(job, prepared(bare, job))
        seen[method.value] = shown(bare, "%an <%ae>|%cn", "-1", "main")[0]
    assert seen == {
        "merge": "Zoë <zoe@example.com>|Gastown",
        "squash": "Zoë <zoe@example.com>|Gastown",
        "rebase": "toast <toast@gastown>|Gastown",
    }


@both
def test_odd_titles_messages_and_authors(bare: Rig, method: MergeMethod) -> None:
    job = bare.work("gt-1", {"one": "1\n"})
    clone = bare.scratch / "gt-1"
    who = {**WHO, "GIT_AUTHOR_NAME": "Zoë -- ünïcode", "GIT_AUTHOR_EMAIL": ""}
    (clone / "two").write_text("2\n")
    git("add", ".", cwd=clone)
    git("commit", "-q", "--allow-empty-message", "-m", "", cwd=clone, env=who)
    job = replace(job, head_sha=head(clone), title="#1: two\nlines\n\nGastown-Bead: gt-9  é", method=method)
    bare.mirror.keep(clone, f"+{job.head_sha}:{job.head_ref}")
    push(job, prepared(bare, job))
    subject = "#1: two lines Gastown-Bead: gt-9 é (gt-1)" if method is SQUASH else "Work on gt-1"
    assert shown(bare, "%s|%an|%ae|%(trailers:key=Gastown-Bead,valueonly,separator=%x20)", "-1", "main") == [
        f"{subject}|Zoë -- ünïcode||gt-1"
    ]


@both
def test_settings_of_a_person_do_not_matter(bare: Rig, tmp_path: Path, method: MergeMethod) -> None:
    (tmp_path / "person" / ".gitconfig").write_text(
        "[commit]\n gpgSign = true\n[log]\n showSignature = true\n decorate = full\n[rebase]\n autoSquash = true\n"
        " updateRefs = true\n rebaseMerges = true\n missingCommitsCheck = error\n backend = apply\n autoStash = true\n"
        "[user]\n useConfigOnly = true\n[trailer]\n ifexists = doNothing\n where = start\n[merge]\n ff = only\n"
    )
    job = work(bare, "gt-1", method, {"one": "1\n"}, {"two": "2\n"})
    outcome = prepared(bare, job)
    assert push(job, outcome) == Pushed()
    assert bare.prepare(job, merge_epoch=2) == AlreadyMerged(outcome.merge_sha)
