"""A mirror stays small, gets over killed processes and damaged files, and loses no commit that is not merged."""

import os
import subprocess
import threading
import time
from pathlib import Path

import pytest

from gastown.agent import locks, remaking, upkeep
from gastown.agent.git import GitError, git, succeeds
from gastown.agent.mirror import MARK, Mirror
from gastown.agent.snapshot import Person, commit_tree
from gastown.agent.starting import starting_point
from gastown.agent.workspace import Workspace

PERSON = Person("toast", "toast@localhost")


@pytest.fixture
def mirror(tmp_path: Path, repository: Path) -> Mirror:
    mirror = Mirror.open(tmp_path / "home", 1, str(repository))
    mirror.fetch()
    return mirror


def commit(mirror: Mirror, name: str, *parents: str) -> str:
    blob = mirror._git("hash-object", "-w", "--stdin", stdin=name.encode()).strip()
    tree = mirror._git("mktree", stdin=f"100644 blob {blob}\t{name}\n".encode()).strip()
    return commit_tree(mirror.path, tree, parents or [mirror.target("main") or ""], name, PERSON)


def whole(mirror: Mirror, *shas: str) -> bool:
    """Everything that these commits refer to is there."""
    return succeeds("rev-list", "--objects", "--quiet", *shas, cwd=mirror.path) and succeeds(
        "fsck", "--full", "--no-progress", cwd=mirror.path
    )


def age(mirror: Mirror, days: float) -> None:
    """All its object files were last written so long ago."""
    then = time.time() - days * upkeep.DAY_S
    for folder, _, names in os.walk(mirror.path / "objects"):
        for name in names:
            os.utime(os.path.join(folder, name), (then, then))


def test_what_exceeds_the_bounds_is_packed_and_nothing_else(mirror: Mirror, monkeypatch: pytest.MonkeyPatch) -> None:
    assert upkeep.tend(mirror) == []
    unnamed = commit(mirror, "unnamed")
    for n in range(5):
        mirror.set_ref(f"refs/gastown/wip/gt-{n}/1", commit(mirror, f"work-{n}"))
    monkeypatch.setattr(upkeep, "LOOSE_OBJECTS", 5)
    monkeypatch.setattr(upkeep, "LOOSE_REFS", 3)
    assert upkeep.tend(mirror) == ["refs", "objects"]
    assert upkeep.counts(mirror)[0] == 0
    assert upkeep.tend(mirror) == []
    assert whole(mirror, unnamed, *(f"refs/gastown/wip/gt-{n}/1" for n in range(5)))


def test_no_commit_is_lost_however_old_when_it_was_unreachable_for_a_short_time(mirror: Mirror) -> None:
    old = commit(mirror, "unmerged")
    mirror.set_ref("refs/gastown/wip/gt-1/1", old)
    age(mirror, 400)
    upkeep.repack(mirror)
    age(mirror, 400)
    mirror.update_refs([f"delete refs/gastown/wip/gt-1/1 {old}"])
    for _ in range(3):
        upkeep.prune(mirror)
        assert whole(mirror, old)
    upkeep.prune(mirror, keep_days=0)
    assert mirror.resolve(old) is None
    assert whole(mirror, "refs/remotes/origin/main")


def test_what_nobody_reached_for_30_days_goes(mirror: Mirror) -> None:
    gone = commit(mirror, "gone")
    upkeep.prune(mirror)
    packs = mirror.path / "objects" / "pack"
    (times,) = packs.glob("*.mtimes")
    assert times.exists(), "the time since when it is set aside is written down"
    upkeep.prune(mirror, keep_days=1)
    assert mirror.resolve(gone) == gone
    upkeep.prune(mirror, keep_days=0)
    assert mirror.resolve(gone) is None


def test_a_running_attempt_keeps_what_it_borrows_when_the_remote_rewrites_its_branch(
    mirror: Mirror, repository: Path, tmp_path: Path
) -> None:
    target = mirror.target("main") or ""
    work = Workspace(tmp_path / "home", mirror, "gt-1", 1, PERSON, lambda _: None)
    work.make("main", target, target)
    age(mirror, 400)
    rewritten = commit_tree(repository, f"{target}^{{tree}}", [], "rewritten", PERSON)
    git("update-ref", "refs/heads/main", rewritten, cwd=repository)
    mirror.fetch()
    assert mirror.target("main") == rewritten
    upkeep.prune(mirror)
    (work.path / "file").write_text("work\n")
    sha = work.save()
    assert sha
    assert whole(mirror, sha)
    assert succeeds("fsck", "--full", cwd=work.path)


def test_pruning_waits_for_refs_that_were_dropped_and_for_old_clones(mirror: Mirror, tmp_path: Path) -> None:
    home, target = tmp_path / "home", mirror.target("main") or ""
    assert not upkeep.is_due(mirror, home)
    upkeep.note_dropped(mirror)
    assert upkeep.is_due(mirror, home)
    mirror.clone(home / "work" / "gt-1" / "1", target, "gt/gt-1")
    assert upkeep.is_due(mirror, home)
    lender = home / "work" / "gt-1" / "1" / ".git" / "objects" / "info" / "alternates"
    os.utime(lender, (0, 0))
    assert not upkeep.is_due(mirror, home)
    lender.unlink()
    upkeep.prune(mirror)
    assert not upkeep.is_due(mirror, home), "once a week"


def test_packing_beside_attempts_at_work_loses_nothing(mirror: Mirror, tmp_path: Path) -> None:
    target, saved, failed = mirror.target("main") or "", [], []

    def attempt(number: int) -> None:
        try:
            work = Workspace(tmp_path / "home", mirror, f"gt-{number}", 1, PERSON, lambda _: None)
            work.make("main", target, target)
            for n in range(6):
                (work.path / "file").write_text(f"{number} {n}\n" * 50)
                saved.append(work.save())
            work.remove()
        except (GitError, OSError) as error:
            failed.append(error)

    threads = [threading.Thread(target=attempt, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        upkeep.repack(mirror)
        upkeep.prune(mirror)
    for thread in threads:
        thread.join()
    assert not failed
    assert len(saved) == 18
    assert whole(mirror, *saved)


@pytest.mark.parametrize("how", ["empty object", "HEAD", "config", "packed-refs"])
def test_a_damaged_mirror_is_made_anew_with_all_that_can_be_read(
    mirror: Mirror, repository: Path, tmp_path: Path, how: str
) -> None:
    kept = commit(mirror, "kept")
    mirror.set_ref("refs/gastown/wip/gt-1/1", kept)
    target = mirror.target("main") or ""
    mirror.clone(tmp_path / "running", kept, "gt/gt-1")
    if how == "empty object":
        damaged = mirror.path / "objects" / target[:2] / target[2:]
        damaged.chmod(0o644)
        damaged.write_bytes(b"")
    elif how == "packed-refs":
        mirror._git("pack-refs", "--all")
        packed = mirror.path / "packed-refs"
        packed.write_text(packed.read_text() + "half a li")
    else:
        (mirror.path / how).write_text("[nonsense\n")
    news = commit_tree(repository, f"{target}^{{tree}}", [target], "news", PERSON)
    git("update-ref", "refs/heads/other", news, cwd=repository)
    mirror.fetch()
    assert mirror.target("other") == news
    assert mirror.target("main") == target
    assert whole(mirror, news, kept)
    (aside,) = mirror.path.parent.glob("*.damaged-1")
    assert (aside / "gastown-lost-refs").read_text() == ""
    assert mirror.resolve("refs/gastown/wip/gt-1/1") == kept
    assert starting_point(mirror, "gt-1", 2, None, target) == kept
    assert git("status", "--porcelain", cwd=tmp_path / "running") == ""


def test_a_broken_pack_of_what_the_remote_has_is_fetched_again(mirror: Mirror) -> None:
    target = mirror.target("main") or ""
    mirror._git("pack-objects", "--revs", "objects/pack/pack", stdin=f"{target}\n".encode())
    mirror._git("prune-packed")
    (pack,) = (mirror.path / "objects" / "pack").glob("*.pack")
    pack.chmod(0o644)
    os.truncate(pack, pack.stat().st_size // 2)
    mirror.fetch()
    assert succeeds("rev-list", "--objects", "--quiet", target, cwd=mirror.path)


def test_what_cannot_be_read_is_named_and_set_aside(mirror: Mirror, repository: Path) -> None:
    kept, pushed, lost = (commit(mirror, name) for name in ("kept", "pushed", "lost"))
    names = {sha: f"refs/gastown/wip/gt-{n}/1" for n, sha in enumerate((kept, pushed, lost))}
    for sha, name in names.items():
        mirror.set_ref(name, sha)
    mirror.push(names[pushed])
    for sha in (pushed, lost):
        damaged = mirror.path / "objects" / sha[:2] / sha[2:]
        damaged.chmod(0o644)
        damaged.write_bytes(b"")
    with mirror.locked():
        aside = remaking.remake(mirror)
    assert (aside / "gastown-lost-refs").read_text() == f"{lost} {names[lost]}\n"
    assert whole(mirror, kept, pushed)
    assert (aside / "objects" / lost[:2] / lost[2:]).exists()


def test_damage_that_only_a_checkout_meets(mirror: Mirror, repository: Path, tmp_path: Path) -> None:
    target = mirror.target("main") or ""
    blob = mirror._git("rev-parse", f"{target}:README").strip()
    damaged = mirror.path / "objects" / blob[:2] / blob[2:]
    damaged.chmod(0o644)
    damaged.write_bytes(damaged.read_bytes()[:-3])
    mirror.clone(tmp_path / "tree", target, "main")
    assert (tmp_path / "tree" / "README").read_text() == "hello\n"


@pytest.mark.parametrize("killed_after", ["complete", "aside"])
def test_remaking_that_was_killed(mirror: Mirror, tmp_path: Path, killed_after: str, repository: Path) -> None:
    sha = commit(mirror, "kept")
    mirror.set_ref("refs/gastown/wip/gt-1/1", sha)
    with mirror.locked():
        remaking.remake(mirror)
    mirror.path.rename(mirror.path.with_suffix(remaking.REMADE))
    if killed_after == "complete":
        mirror.path.with_suffix(".damaged-1").rename(mirror.path)
    again = Mirror.open(tmp_path / "home", 1, str(repository))
    assert again.resolve("refs/gastown/wip/gt-1/1") == sha


def test_a_healthy_mirror_stays_whatever_the_remote_says(mirror: Mirror, repository: Path, tmp_path: Path) -> None:
    before = mirror.path.stat().st_ino
    (repository / "HEAD").write_text("nonsense\n")
    with pytest.raises(GitError):
        mirror.fetch()
    with pytest.raises(GitError):
        mirror.clone(tmp_path / "tree", "a" * 40, "main")
    assert mirror.path.stat().st_ino == before


@pytest.mark.parametrize("name", ["packed-refs.lock", "shallow.lock", "refs/gastown/wip/gt-1/1.lock"])
def test_lock_files_of_killed_processes_are_removed(mirror: Mirror, tmp_path: Path, name: str) -> None:
    lock = mirror.path / name
    lock.parent.mkdir(parents=True, exist_ok=True)
    lock.write_text("")
    error = GitError("push", f"remote: fatal: Unable to create './{name}': File exists.", 128)
    assert locks.named_in(error.output, mirror.path) == lock
    assert mirror._remove_stale_lock(error)
    assert not lock.exists()


def test_a_lock_of_a_living_git_is_waited_for(mirror: Mirror) -> None:
    """Its maker is alive when we look, and gives it back as it ends."""
    lock = mirror.path / "packed-refs.lock"
    lock.write_text("")
    script = f"read _; rm '{lock}'"
    environment = {**os.environ, MARK: str(mirror.path)}
    holder = subprocess.Popen(["/bin/sh", "-c", script], env=environment, stdin=subprocess.PIPE)
    assert holder.stdin
    answers: list[bool] = []
    thread = threading.Thread(target=lambda: answers.append(locks.remove_own(lock, MARK, str(mirror.path))))
    thread.start()
    thread.join(0.2)
    assert lock.exists()
    assert not answers
    holder.stdin.write(b"\n")
    holder.stdin.close()
    assert holder.wait(60) == 0
    thread.join(60)
    assert answers == [True]


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="elsewhere nobody says what a process has open")
def test_a_persons_lock_is_left_while_it_may_be_alive(tmp_path: Path) -> None:
    checkout = tmp_path / "checkout"
    git("init", "--quiet", str(checkout))
    lock = checkout / ".git" / "index.lock"
    lock.write_text("")
    assert not locks.remove_abandoned(lock, checkout), "it is fresh"
    os.utime(lock, (0, 0))
    waiting = subprocess.Popen(
        ["git", "cat-file", "--batch"], cwd=checkout, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
    )
    try:
        assert not locks.remove_abandoned(lock, checkout), "a git is at work there"
    finally:
        waiting.communicate()
    with lock.open() as opened:
        holder = subprocess.Popen(["sleep", "60"], stdin=opened)
    try:
        assert not locks.remove_abandoned(lock, checkout), "a program has it open"
    finally:
        holder.kill()
        holder.wait()
    assert locks.remove_abandoned(lock, checkout)
    assert not lock.exists()
