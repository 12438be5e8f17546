"""What past attempts left is kept under one name for its time, here and on the remote, and no step can lose it."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from gastown.agent import archive
from gastown.agent.archive import Attempt
from gastown.agent.git import GitError, succeeds
from gastown.agent.mirror import Mirror
from gastown.agent.snapshot import Person
from gastown.agent.starting import fetch, starting_point
from gastown.agent.workspace import Workspace
from gastown.db import transaction
from gastown.models import Bead, Dispatch, MergeRequest
from gastown.states import BeadStatus, DispatchStatus, MergeStatus, Resolution
from gastown.tasks.repositories import tidy_repositories
from tests.agent.town import git
from tests.builders import a_bead, a_rig, an_attempt
from tests.conftest import Clock

PERSON = Person("toast", "toast@localhost")
DAY_S = 86_400
ONE = Attempt("gt-1", 1)


@pytest.fixture
def mirror(tmp_path: Path, repository: Path) -> Mirror:
    mirror = Mirror.open(tmp_path / "home", 1, str(repository))
    mirror.fetch()
    return mirror


def commit(mirror: Mirror, message: str, *parents: str) -> str:
    """A commit of its own with a file of its own, in the mirror."""
    blob = mirror._git("hash-object", "-w", "--stdin", stdin=message.encode()).strip()
    tree = mirror._git("mktree", stdin=f"100644 blob {blob}\t{message}\n".encode()).strip()
    return archive.commit_tree(mirror.path, tree, parents or [mirror.target("main") or ""], message, PERSON)


def refs(repository: Path) -> dict[str, str]:
    listed = git("for-each-ref", "--format=%(refname) %(objectname)", "refs/gastown", cwd=repository)
    return dict(line.split() for line in listed.splitlines())  # type: ignore[misc]


def reaches(repository: Path, ref: str, *shas: str) -> bool:
    return all(succeeds("merge-base", "--is-ancestor", sha, ref, cwd=repository) for sha in shas)


def always(_: Attempt) -> bool:
    return True


def test_one_name_for_all_that_an_attempt_left(mirror: Mirror) -> None:
    head = commit(mirror, "head")
    wip = commit(mirror, "wip", head)
    mirror.set_ref("refs/gastown/head/gt-1/1", head)
    mirror.set_ref("refs/gastown/wip/gt-1/1", wip)
    mirror.set_ref("refs/gastown/head/gt-2/1", head)
    assert archive.archive(mirror, archive.find(mirror), lambda each: each == ONE) == 1
    assert refs(mirror.path) == {"refs/gastown/archive/gt-1/1": wip, "refs/gastown/head/gt-2/1": head}
    assert archive.archive(mirror, archive.find(mirror), lambda each: each == ONE) == 0


def test_what_grew_apart_is_kept_together_and_starts_as_the_newest_work(mirror: Mirror) -> None:
    head, wip = commit(mirror, "head"), commit(mirror, "wip")
    mirror.set_ref("refs/gastown/head/gt-1/1", head)
    mirror.set_ref("refs/gastown/wip/gt-1/1", wip)
    archive.archive(mirror, archive.find(mirror), always)
    (name, sha), *rest = refs(mirror.path).items()
    assert (name, rest) == ("refs/gastown/archive/gt-1/1", [])
    assert reaches(mirror.path, name, head, wip)
    start = starting_point(mirror, "gt-1", 2, None, mirror.target("main") or "")
    assert start == sha
    work = Workspace(mirror.path.parents[1], mirror, "gt-1", 2, PERSON, lambda _: None)
    work.make("main", mirror.target("main") or "", start)
    assert work.start_sha == wip
    assert git("status", "--porcelain", cwd=work.path) == ""


def test_a_late_push_of_a_superseded_attempt_joins_what_is_archived(mirror: Mirror) -> None:
    first = commit(mirror, "first")
    mirror.set_ref("refs/gastown/wip/gt-1/1", first)
    archive.archive(mirror, archive.find(mirror), always)
    late = commit(mirror, "late")
    mirror.set_ref("refs/gastown/wip/gt-1/1", late)
    archive.archive(mirror, archive.find(mirror), always)
    assert list(refs(mirror.path)) == ["refs/gastown/archive/gt-1/1"]
    assert reaches(mirror.path, "refs/gastown/archive/gt-1/1", first, late)


class Killed(BaseException):
    pass


def killed_at(number: int, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Every write counts one; before that number, nothing happens any more."""
    count = 0

    def dying(write: Callable[..., None]) -> Callable[..., None]:
        def one(*args: object, **options: object) -> None:
            nonlocal count
            count += 1
            if count == number:
                raise Killed
            write(*args, **options)

        return one

    monkeypatch.setattr(Mirror, "update_refs", dying(Mirror.update_refs))
    monkeypatch.setattr(Mirror, "push", dying(Mirror.push))
    return monkeypatch.undo


@pytest.mark.parametrize("number", range(1, 5))
def test_killed_between_any_two_steps_nothing_is_lost(
    mirror: Mirror, repository: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    sha = commit(mirror, "work")
    mirror.set_ref("refs/gastown/wip/gt-1/1", sha)
    mirror.push("refs/gastown/wip/gt-1/1:refs/gastown/wip/gt-1/1")

    def both() -> None:
        archive.archive(mirror, archive.find(mirror), always)
        archive.archive_remote(mirror, archive.find_remote(mirror), always)

    revive = killed_at(number, monkeypatch)
    with pytest.raises(Killed):
        both()
    revive()
    assert sha in refs(mirror.path).values()
    assert sha in refs(repository).values()
    both()
    assert refs(mirror.path) == refs(repository) == {"refs/gastown/archive/gt-1/1": sha}


def test_a_remote_that_refuses_the_new_name_keeps_the_old_one(mirror: Mirror, repository: Path) -> None:
    sha = commit(mirror, "work")
    mirror.set_ref("refs/gastown/wip/gt-1/1", sha)
    mirror.push("refs/gastown/wip/gt-1/1:refs/gastown/wip/gt-1/1")
    hook = repository / "hooks" / "update"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text('#!/bin/sh\ncase "$1" in */archive/*) exit 1;; esac\n')
    hook.chmod(0o755)
    assert archive.archive_remote(mirror, archive.find_remote(mirror), always) == 0
    assert refs(repository) == {"refs/gastown/wip/gt-1/1": sha}


def test_another_node_archives_what_it_never_had_and_starts_from_it(
    mirror: Mirror, repository: Path, tmp_path: Path
) -> None:
    sha = commit(mirror, "work")
    mirror.set_ref("refs/gastown/wip/gt-1/1", sha)
    mirror.push("refs/gastown/wip/gt-1/1:refs/gastown/wip/gt-1/1")
    other = Mirror.open(tmp_path / "elsewhere", 1, str(repository))
    other.fetch()
    assert archive.archive_remote(other, archive.find_remote(other), always) == 1
    assert refs(repository) == {"refs/gastown/archive/gt-1/1": sha}
    third = Mirror.open(tmp_path / "third", 1, str(repository))
    fetch(third, "gt-1", [1], None)
    assert starting_point(third, "gt-1", 2, None, third.target("main") or "") == sha


def test_a_ref_that_moved_since_it_was_read_is_left(mirror: Mirror) -> None:
    sha, newer = commit(mirror, "work"), commit(mirror, "newer")
    mirror.set_ref("refs/gastown/wip/gt-1/1", sha)
    found = archive.find(mirror)
    mirror.set_ref("refs/gastown/wip/gt-1/1", newer)
    with pytest.raises(GitError):
        archive.archive(mirror, found, always)
    with pytest.raises(GitError):
        archive.drop(mirror, found, always)
    assert refs(mirror.path)["refs/gastown/wip/gt-1/1"] == newer


@pytest.fixture
def rig_mirror(clock: Clock, tmp_path: Path, repository: Path) -> Mirror:
    """The same, of a rig in the database."""
    with transaction() as session:
        rig_id = a_rig(session, repository=str(repository)).id
    mirror = Mirror.open(tmp_path / "home", rig_id, str(repository))
    mirror.fetch()
    return mirror


def an_attempt_with_work(mirror: Mirror, status: DispatchStatus, bead: str | None = None) -> tuple[str, int, str]:
    """(bead, epoch, commit), in the mirror and on the remote."""
    with transaction() as session:
        made = an_attempt(session, status, bead=session.get(Bead, bead) if bead else None)
        bead_id, epoch = made.bead_id, made.epoch
    sha = commit(mirror, f"work-{bead_id}-{epoch}")
    for kind in ("wip", "head") if status == DispatchStatus.SUCCEEDED else ("wip",):
        name = f"refs/gastown/{kind}/{bead_id}/{epoch}"
        mirror.set_ref(name, sha)
        mirror.push(f"{name}:{name}")
    return bead_id, epoch, sha


def close(bead_id: str, clock: Clock, resolution: Resolution = Resolution.CANCELED) -> None:
    with transaction() as session:
        bead = session.get_one(Bead, bead_id)
        bead.status, bead.resolution, bead.closed_at, bead.wake_at = "closed", resolution, clock.now, None
        for merge in session.query(MergeRequest).filter_by(bead_id=bead_id):
            merge.status = MergeStatus.CLOSED


def tidy(mirror: Mirror) -> None:
    tidy_repositories(mirror.path.parents[1], 30)


def test_superseded_attempts_are_archived_and_the_last_of_an_unfinished_bead_is_not(
    rig_mirror: Mirror, repository: Path, clock: Clock
) -> None:
    bead, _, first = an_attempt_with_work(rig_mirror, DispatchStatus.FAILED)
    _, _, second = an_attempt_with_work(rig_mirror, DispatchStatus.FAILED, bead)
    _, _, third = an_attempt_with_work(rig_mirror, DispatchStatus.RUNNING, bead)
    expected = {
        f"refs/gastown/archive/{bead}/1": first,
        f"refs/gastown/archive/{bead}/2": second,
        f"refs/gastown/wip/{bead}/3": third,
    }
    for _ in range(2):
        tidy(rig_mirror)
        assert refs(rig_mirror.path) == refs(repository) == expected
    clock.advance(400 * DAY_S)
    tidy(rig_mirror)
    assert refs(rig_mirror.path) == refs(repository) == expected, "its bead is unfinished"


def test_the_head_of_an_open_merge_request_stays_where_the_merge_looks_for_it(
    rig_mirror: Mirror, repository: Path, clock: Clock
) -> None:
    bead, _, sha = an_attempt_with_work(rig_mirror, DispatchStatus.SUCCEEDED)
    clock.advance(400 * DAY_S)
    tidy(rig_mirror)
    wanted = {f"refs/gastown/head/{bead}/1": sha, f"refs/gastown/wip/{bead}/1": sha}
    assert refs(rig_mirror.path) == refs(repository) == wanted


def test_kept_for_30_days_after_the_bead_is_over_and_then_dropped(
    rig_mirror: Mirror, repository: Path, clock: Clock
) -> None:
    bead, _, sha = an_attempt_with_work(rig_mirror, DispatchStatus.FAILED)
    rig_mirror.set_ref(f"refs/gastown/left/{bead}/1/heads/other", commit(rig_mirror, "left"))
    rig_mirror.set_ref(f"refs/gastown/merging/{bead}/7", commit(rig_mirror, "merging"))
    clock.advance(DAY_S)
    close(bead, clock)
    tidy(rig_mirror)
    assert refs(repository) == {f"refs/gastown/archive/{bead}/1": sha}
    clock.advance(30 * DAY_S - 1)
    tidy(rig_mirror)
    assert len(refs(rig_mirror.path)) == 3
    clock.advance(1)
    tidy(rig_mirror)
    assert refs(rig_mirror.path) == refs(repository) == {}


def test_refs_of_strangers_are_never_touched(rig_mirror: Mirror, repository: Path, clock: Clock) -> None:
    """Two installations may share a remote."""
    sha = commit(rig_mirror, "theirs")
    for name in ("refs/gastown/wip/gt-theirs/1", "refs/gastown/archive/gt-theirs/2", "refs/gastown/merged/main"):
        rig_mirror.set_ref(name, sha)
        rig_mirror.push(f"{name}:{name}")
    before = refs(repository)
    clock.advance(400 * DAY_S)
    tidy(rig_mirror)
    assert refs(rig_mirror.path) == refs(repository) == before


def test_a_remote_that_is_away_holds_up_nothing_here(rig_mirror: Mirror, repository: Path, clock: Clock) -> None:
    bead, _, sha = an_attempt_with_work(rig_mirror, DispatchStatus.FAILED)
    close(bead, clock)
    repository.rename(repository.with_name("away"))
    tidy(rig_mirror)
    assert refs(rig_mirror.path) == {f"refs/gastown/archive/{bead}/1": sha}


def test_the_worktree_of_a_canceled_bead_whose_supervisor_was_killed_goes_when_its_work_is_safe(
    rig_mirror: Mirror, clock: Clock
) -> None:
    home, target = rig_mirror.path.parents[1], rig_mirror.target("main") or ""
    with transaction() as session:
        running = an_attempt(session, DispatchStatus.RUNNING)
        bead = running.bead_id
        dispatch_id = running.id
    work = Workspace(home, rig_mirror, bead, 1, PERSON, lambda _: None)
    work.make("main", target, target)
    (work.path / "unsaved").write_text("hours of work\n")
    tidy(rig_mirror)
    assert work.path.is_dir(), "an attempt is at work on it"
    with transaction() as session:
        dispatch = session.get_one(Dispatch, dispatch_id)
        dispatch.status, dispatch.code, dispatch.ended_at = DispatchStatus.STOPPED, "canceled", clock.now
    close(bead, clock)
    tidy(rig_mirror)
    assert not work.path.parent.exists()
    name = f"refs/gastown/archive/{bead}/1"
    assert git("show", f"{name}:unsaved", cwd=rig_mirror.path) == "hours of work"


def worktree_of_a_failed_attempt(mirror: Mirror) -> tuple[str, Workspace]:
    with transaction() as session:
        bead = an_attempt(session, DispatchStatus.FAILED).bead_id
    work = Workspace(mirror.path.parents[1], mirror, bead, 1, PERSON, lambda _: None)
    target = mirror.target("main") or ""
    work.make("main", target, target)
    return bead, work


def test_a_worktree_of_a_node_that_was_away_for_longer_than_work_is_kept(rig_mirror: Mirror, clock: Clock) -> None:
    bead, work = worktree_of_a_failed_attempt(rig_mirror)
    (work.path / "unsaved").write_text("hours of work\n")
    close(bead, clock)
    clock.advance(31 * DAY_S)
    for _ in range(2):
        tidy(rig_mirror)
        assert not work.path.exists()
        assert git("show", f"refs/gastown/archive/{bead}/1:unsaved", cwd=rig_mirror.path) == "hours of work"


def test_a_worktree_that_cannot_be_saved_stays(rig_mirror: Mirror, clock: Clock) -> None:
    bead, work = worktree_of_a_failed_attempt(rig_mirror)
    git("init", "-q", "nested", cwd=work.path)
    (work.path / "nested" / "file").write_text("x")
    close(bead, clock)
    tidy(rig_mirror)
    assert (work.path / "nested" / "file").exists()


def test_beads_that_failed_are_over_as_well(rig_mirror: Mirror, clock: Clock) -> None:
    with transaction() as session:
        bead = a_bead(session, status=BeadStatus.FAILED, closed_at=clock.now).id
    rig_mirror.set_ref(f"refs/gastown/merging/{bead}/1", commit(rig_mirror, "merging"))
    clock.advance(30 * DAY_S)
    tidy(rig_mirror)
    assert refs(rig_mirror.path) == {}


def test_many_at_once(mirror: Mirror) -> None:
    sha = commit(mirror, "work")
    mirror.update_refs([f"create refs/gastown/wip/gt-{n}/1 {sha}" for n in range(2 * archive.REFS_AT_ONCE + 1)])
    assert archive.archive(mirror, archive.find(mirror), always) == 2 * archive.REFS_AT_ONCE + 1
    assert archive.drop(mirror, archive.find(mirror), always) == 2 * archive.REFS_AT_ONCE + 1
    assert not refs(mirror.path)
    assert not [name for _, _, names in os.walk(mirror.path / "refs") for name in names if name.endswith(".lock")]
    shutil.rmtree(mirror.path)
