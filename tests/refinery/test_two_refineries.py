"""G4: two hosts merge into one target, each with its own mirror; people and the remote do as they like meanwhile."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gastown.agent.git import git
from gastown.models import MergeRequest
from gastown.states import HoldCode, MergeStatus
from tests.builders import now
from tests.races import Thread
from tests.refinery import faulty
from tests.refinery.faulty import Point, When, Workers
from tests.refinery.rig import Rig, commit, head
from tests.refinery.town import Town
from tests.store.merging import asked, bead
from tests.ticks import tick

HERE, THERE = "merge@here", "merge@there"
WORK = {"new": "new\n"}
PAUSES = {
    "before gate 1": Point("gastown.runtimes.process:ProcessRuntime.run", When.PAUSED),
    "before begin_push": Point("gastown.store.merges:begin_push", When.PAUSED),
    "before the push": Point("gastown.refinery.merging:push", When.PAUSED),
    "before the record": Point("gastown.store.merges:record_merged", When.PAUSED),
}


@pytest.fixture(scope="module")
def others() -> Iterator[Workers]:
    """Of another host: its worker runs while one of `workers` does."""
    with faulty.running() as found:
        yield found


@pytest.fixture
def there(tmp_path: Path) -> Path:
    """The home of that host, which has nothing in it."""
    (tmp_path / "there").mkdir()
    return tmp_path / "there"


def held(request: MergeRequest) -> tuple[str, str | None]:
    found = now(request)
    return found.status, found.held_code


def push_by_hand(rig: Rig, name: str) -> str:
    """A person's commit on the target."""
    clone = rig.scratch / f"by-hand-{name}"
    git("clone", "--quiet", str(rig.remote), str(clone))
    sha = commit(clone, {name: "by hand\n"}, f"{name} by hand")
    git("push", "--quiet", "origin", "HEAD:main", cwd=clone)
    return sha


def rewrite(rig: Rig) -> str:
    """The target's history is replaced by one that has nothing in common with it."""
    fresh = rig.scratch / "rewritten"
    git("init", "--quiet", "--initial-branch=main", str(fresh))
    sha = commit(fresh, {"README": "all new\n"}, "first again")
    git("push", "--quiet", "--force", str(rig.remote), "main:main", cwd=fresh)
    return sha


def until_paused(file: Path, at_work: Thread) -> None:
    deadline = time.monotonic() + 60
    while not file.exists() or not file.read_text():
        assert at_work.is_alive(), "it ended before that point"
        assert time.monotonic() < deadline, "it does not reach that point"
        time.sleep(0.01)


# --- two hosts


@pytest.mark.parametrize("name", PAUSES)
def test_a_host_that_slept_through_its_lease(town: Town, others: Workers, there: Path, name: str) -> None:
    """The other has merged meanwhile. What the first does then, with its stale epoch, changes nothing."""
    town.fill([WORK])
    [request] = town.requests
    asleep = town.folder / "stuck"
    at_work = Thread(lambda: town.run(request.id, HERE, PAUSES[name], by=others))
    until_paused(asleep, at_work)
    town.later(45)
    town.go_on(THERE, home=there)
    assert now(request).status == MergeStatus.CLOSED
    merged = head(town.rig.remote, "main")
    asleep.unlink()
    assert at_work.value() == 0
    assert head(town.rig.remote, "main") == merged == now(request).merged_sha
    town.check()


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("name", ["push begun, nothing pushed", "pushed, answer lost"])
def test_the_merge_commit_was_on_a_host_that_died(town: Town, there: Path, name: str, count: int) -> None:
    """The other one cannot push what it has not: it looks at the target, and merges anew if it is not there."""
    when = When.AFTER if name.startswith("pushed") else When.BEFORE
    town.batches_of(count)
    town.fill([{f"new{number}": "new\n"} for number in range(count)])
    request = town.requests[0]
    assert town.run(request.id, HERE, Point("gastown.refinery.merging:push", when)) == -9
    lost = now(request).merge_sha
    town.later(45)
    town.go_on(THERE, home=there)
    assert when is When.BEFORE or now(request).merged_sha == lost  # made anew in the same second, it has the same SHA
    assert town.gated() == ["1", "2"] * (1 if when is When.AFTER else 2)
    town.check()


def test_both_hosts_are_asked_for_everything_at_once(town: Town, others: Workers, there: Path) -> None:
    town.fill([{f"new{number}": "new\n"} for number in range(3)])

    def all_of_them(worker: str, home: Path | None, by: Workers) -> None:
        for _ in range(30):
            for request in town.requests:
                assert town.run(request.id, worker, home=home, by=by) == 0
            if all(now(request).status == MergeStatus.CLOSED for request in town.requests):
                return

    threads = [Thread(lambda: all_of_them(HERE, None, town.workers)), Thread(lambda: all_of_them(THERE, there, others))]
    for thread in threads:
        thread.value()
    town.check()
    assert town.gated().count("2") == 3


# --- people


def test_a_person_pushes_while_gates_run(town: Town) -> None:
    """S53: merged anew on the new head. That is no failure, and nobody is asked."""
    town.folder.joinpath("once").touch()
    by_hand = town.rig.scratch / "by-hand"
    git("clone", "--quiet", str(town.rig.remote), str(by_hand))
    theirs = commit(by_hand, {"theirs": "by hand\n"}, "by hand")
    push = f"git -C {by_hand} push -q origin HEAD:main"
    town.fill([WORK], gates=[f"if rm {town.folder}/once; then {push}; fi"])
    [request] = town.requests
    town.go_on(HERE)
    assert now(request).merge_epoch == 2
    assert head(town.rig.remote, f"{now(request).merged_sha}^1") == theirs
    assert town.events(request, "merge_requeued") == 1
    town.check()


def test_a_person_takes_the_merge_back_before_it_is_recorded(town: Town) -> None:
    """The target says that it is not there, so it is pushed again: it is merged when it is recorded as that."""
    town.fill([WORK])
    [request] = town.requests
    before = head(town.rig.remote, "main")
    assert town.run(request.id, HERE, Point("gastown.refinery.merging:push", When.AFTER)) == -9
    git("update-ref", "refs/heads/main", before, cwd=town.rig.remote)
    town.later(45)
    town.go_on(THERE)
    assert head(town.rig.remote, "main") == now(request).merged_sha
    town.check()


@pytest.mark.parametrize("killed", ["never", "push begun"])
def test_the_target_is_rewritten_while_merges_wait(town: Town, killed: str) -> None:
    """No merge brings the old history back. What was made of the new one is merged, and nothing is lost."""
    town.fill([WORK])
    [old] = town.requests
    if killed == "push begun":
        assert town.run(old.id, HERE, Point("gastown.refinery.merging:push", When.BEFORE)) == -9
    fresh = rewrite(town.rig)
    new = town.add({"other": "new\n"})
    town.later(45)
    town.go_on(THERE)
    assert held(old) == (MergeStatus.OPEN, HoldCode.CONFLICT)
    assert now(old).held_reason == "the work and main have no commit in common"
    assert now(new).status == MergeStatus.CLOSED
    assert head(town.rig.remote, "main^1") == fresh
    assert town.rig.mirror.resolve(old.head_sha) == old.head_sha


# --- the recorded head


@pytest.mark.parametrize("how", ["deleted", "force-pushed", "force-pushed and collected"])
def test_the_branch_of_the_work_is_not_what_it_was(town: Town, there: Path, how: str) -> None:
    """S58: what is merged is the recorded head or nothing; the queue goes on."""
    town.fill([WORK])
    [request] = town.requests
    ref = f"refs/gastown/head/{request.bead_id}/1"
    if how == "deleted":
        git("update-ref", "-d", ref, cwd=town.rig.remote)
    else:
        clone = town.rig.scratch / request.bead_id
        git("checkout", "--quiet", "-B", "evil", "HEAD^", cwd=clone)
        git("push", "--quiet", "--force", str(town.rig.remote), f"{commit(clone, {'evil': '1'})}:{ref}", cwd=clone)
    if how != "force-pushed":
        git("gc", "--quiet", "--prune=now", cwd=town.rig.remote)
    other = town.add({"other": "new\n"})
    town.later(0)
    town.go_on(THERE, home=there)
    assert now(other).status == MergeStatus.CLOSED
    if how == "force-pushed":  # git gives a commit by its name while it has it
        assert now(request).status == MergeStatus.CLOSED
    else:
        assert held(request) == (MergeStatus.OPEN, HoldCode.HEAD_MISSING)
        assert f"commit {request.head_sha[:12]} is neither in" in (now(request).held_reason or "")
        town.rig.mirror.push(f"+{request.head_sha}:{ref}")  # from the machine that made it
        town.later(300)
        town.go_on(THERE, home=there)
    assert "evil" not in git("ls-tree", "--name-only", "main", cwd=town.rig.remote).split()
    town.check()


# --- the repository


def test_the_repository_is_away_while_merges_wait(town: Town) -> None:
    """Each is held until it is back, and then merged, by nobody's hand."""
    town.fill([WORK, {"other": "new\n"}])
    away = town.folder / "away"
    town.rig.remote.rename(away)
    town.go_on(HERE)
    for request in town.requests:
        assert held(request) == (MergeStatus.OPEN, HoldCode.UNREACHABLE)
        assert str(town.rig.remote) in (now(request).held_reason or "")
        assert bead(request).verdict == "merge_held"
    away.rename(town.rig.remote)
    town.later(10)
    town.go_on(HERE)
    assert asked() == []
    tick()
    town.check()
