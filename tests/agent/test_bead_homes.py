"""What attempts in containers keep in their bead's home reaches the node's mirror; nothing else there is believed."""

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gastown.agent import beadhomes, salvaging, upkeep
from gastown.agent.beadhomes import Untrusted
from gastown.agent.git import GitError, succeeds
from gastown.agent.mirror import Mirror
from gastown.agent.starting import starting_point
from gastown.db import transaction
from gastown.models import Bead, Rig
from gastown.refinery.remote import has_commit
from gastown.runtimes import CommandResult, CommandSpec, registry
from gastown.states import BeadStatus, DispatchStatus, Resolution
from gastown.store import escalations
from gastown.tasks import bead_homes
from gastown.tasks.repositories import tidy_repositories
from tests.agent.containers import Foreground, home_of, run_here
from tests.agent.town import Attempt, Town, git
from tests.builders import an_attempt
from tests.conftest import Clock

DAY_S = 86_400


@pytest.fixture
def node(town: Town) -> Mirror:
    mirror = Mirror.open(town.home, 7, str(town.repository))
    mirror.fetch()
    return mirror


def refs(repository: Path) -> dict[str, str]:
    listed = git("for-each-ref", "--format=%(refname) %(objectname)", "refs/gastown", cwd=repository)
    return dict(line.split() for line in listed.splitlines())  # type: ignore[misc]


def failing(
    town: Town, script: str = "echo mine > work.txt; git stash -q -u; echo more > more.txt", **more: object
) -> Attempt:
    return run_here(town, f"{script}; exit 1", **more)[0]  # type: ignore[arg-type]


def test_all_that_an_attempt_left_is_taken_once(town: Town, node: Mirror) -> None:
    attempt = failing(town)
    own = refs(home_of(town, attempt) / "mirrors" / "7.git")
    assert beadhomes.take(node, "gt-1") == len(own) == 2
    assert refs(node.path) == own
    assert {name.rsplit("/", 1)[0] for name in own} == {"refs/gastown/wip/gt-1", "refs/gastown/left/gt-1/1"}
    shutil.rmtree(home_of(town, attempt))
    assert succeeds("rev-list", "--objects", "--quiet", *own.values(), cwd=node.path)
    assert beadhomes.take(node, "gt-1") == 0


def test_what_is_archived_here_is_not_taken_again(town: Town, node: Mirror) -> None:
    attempt = failing(town, "echo mine > work.txt")
    beadhomes.take(node, "gt-1")
    sha = refs(node.path)["refs/gastown/wip/gt-1/1"]
    node.update_refs([f"update refs/gastown/archive/gt-1/1 {sha}", f"delete refs/gastown/wip/gt-1/1 {sha}"])
    assert beadhomes.take(node, "gt-1") == 0
    assert beadhomes.holds_more(node, "gt-1") == ""
    assert home_of(town, attempt).is_dir()


def test_the_refinery_finds_a_head_without_the_network(town: Town, node: Mirror) -> None:
    attempt = run_here(town, "echo mine > work.txt")[0]
    assert attempt.done is not None
    town.repository.rename(town.repository.with_name("away"))
    assert node.resolve(attempt.done["head_sha"]) is None
    assert has_commit(node, attempt.done["head_sha"], "refs/gastown/head/gt-1/1")


def test_the_next_attempt_goes_on_although_the_home_is_gone(town: Town, node: Mirror) -> None:
    attempt = failing(town, "echo mine > work.txt")
    beadhomes.take(node, "gt-1")
    for name in refs(town.repository):
        git("update-ref", "-d", name, cwd=town.repository)
    shutil.rmtree(home_of(town, attempt))
    again, code = run_here(town, "cat work.txt", epoch=2)
    assert (code, again.output) == (0, b"mine\n")


def test_a_ref_that_moves_back_hides_nothing(town: Town, node: Mirror) -> None:
    attempt = failing(town, "echo mine > work.txt")
    beadhomes.take(node, "gt-1")
    before = refs(node.path)["refs/gastown/wip/gt-1/1"]
    own = home_of(town, attempt) / "mirrors" / "7.git"
    other = git("commit-tree", f"{before}^{{tree}}", "-m", "another", cwd=own)
    git("update-ref", "refs/gastown/wip/gt-1/1", other, cwd=own)
    assert beadhomes.take(node, "gt-1") == 1
    assert set(refs(node.path).values()) == {before, other}
    assert refs(node.path)["refs/gastown/wip/gt-1/1"] == other


def test_it_cannot_speak_for_another_bead(town: Town, node: Mirror) -> None:
    attempt = failing(town, "echo mine > work.txt")
    own = home_of(town, attempt) / "mirrors" / "7.git"
    sha = git("commit-tree", "refs/gastown/wip/gt-1/1^{tree}", "-m", "another", cwd=own)
    names = ("wip/gt-2/1", "head/gt-2/1", "merged/main", "left/gt-1/1/mine")
    for name in names:
        git("update-ref", f"refs/gastown/{name}", sha, cwd=own)
    git("update-ref", "refs/heads/main", sha, cwd=own)
    git("update-ref", "refs/remotes/origin/main", sha, cwd=own)
    target = node.target("main")
    beadhomes.take(node, "gt-1")
    assert all(name.startswith(("refs/gastown/wip/gt-1/1", "refs/gastown/left/gt-1/")) for name in refs(node.path))
    assert sha in refs(node.path).values()
    assert node.target("main") == target
    assert beadhomes.holds_more(node, "gt-1") == ""


def test_no_program_of_its_configuration_runs(town: Town, node: Mirror, tmp_path: Path) -> None:
    attempt = failing(town, "echo mine > work.txt")
    own = home_of(town, attempt) / "mirrors" / "7.git"
    ran = tmp_path / "ran"
    program = tmp_path / "program"
    program.write_text(f"#!/bin/sh\ntouch {ran}\n")
    program.chmod(0o755)
    keys = ("core.fsmonitor", "core.sshCommand", "core.askPass", "core.pager", "uploadpack.packObjectsHook")
    for key in (*keys, "core.alternateRefsCommand", "credential.helper"):
        git("config", key, str(program), cwd=own)
    for hook in ("post-update", "pre-receive", "reference-transaction", "post-checkout"):
        shutil.copy(program, own / "hooks" / hook) if (own / "hooks").is_dir() else None
    assert beadhomes.take(node, "gt-1") == 1
    assert not ran.exists()


@pytest.mark.parametrize("how", ["link", "pipe", "lender", "mirror", "linked lender"])
def test_what_leads_elsewhere_is_not_believed(town: Town, node: Mirror, tmp_path: Path, how: str) -> None:
    """Another rig's mirror may hold what this bead's agents must not see."""
    attempt = failing(town, "echo mine > work.txt")
    own = home_of(town, attempt) / "mirrors" / "7.git"
    secret = Mirror.open(town.home, 8, str(town.repository))
    secret.fetch()
    if how == "link":
        (own / "objects" / "pack" / "more").symlink_to(secret.path / "objects")
    elif how == "pipe":
        os.mkfifo(own / "refs" / "gastown" / "pipe")
    elif how == "mirror":
        shutil.rmtree(own)
        own.symlink_to(secret.path)
    elif how == "lender":
        (own / "objects" / "info" / "alternates").write_text(f"{secret.path / 'objects'}\n")
    else:
        (home_of(town, attempt) / "x").symlink_to(secret.path / "objects")
        (own / "objects" / "info" / "alternates").write_text(f"{home_of(town, attempt) / 'x'}\n")
    with pytest.raises(Untrusted):
        beadhomes.take(node, "gt-1")
    assert refs(node.path) == {}
    beadhomes.bring(node, "refs/gastown/wip/gt-1/1")


def test_objects_that_are_not_what_they_say_are_refused(town: Town, node: Mirror) -> None:
    attempt = failing(town, "echo mine > work.txt")
    own = home_of(town, attempt) / "mirrors" / "7.git"
    sha = refs(own)["refs/gastown/wip/gt-1/1"]
    damaged = own / "objects" / sha[:2] / sha[2:]
    damaged.chmod(0o644)
    damaged.write_bytes(b"")
    with pytest.raises(GitError):
        beadhomes.take(node, "gt-1")
    assert beadhomes.holds_more(node, "gt-1")
    assert node.resolve(sha) is None


def test_large_files_are_taken_by_what_they_hold(town: Town, node: Mirror) -> None:
    failing(town, "echo mine > work.txt")
    store = town.home / "beads" / "gt-1" / "mirrors" / "7.git" / "lfs" / "objects" / "ab" / "cd"
    store.mkdir(parents=True)
    content = b"large"
    name = hashlib.sha256(content).hexdigest()
    (store / name).write_bytes(content)
    (store / ("0" * 64)).write_bytes(b"not what it says")
    beadhomes.take(node, "gt-1")
    found = [path for path in (node.path / "lfs").rglob("*") if path.is_file()]
    assert [(path.name, path.read_bytes()) for path in found] == [(name, content)]


class Containers:
    """Of a runtime that isolates: what there is of attempts, and a command run as it is on this machine."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.ran: list[CommandSpec] = []
        self.before_run: Callable[[], object] = lambda: None

    def list_names(self) -> list[str]:
        return self.names

    def run(self, spec: CommandSpec, *, should_stop: Callable[[], bool] | None = None) -> CommandResult:
        self.ran.append(spec)
        *_, own, home, rig, bead, epoch = spec.command.split()
        self.before_run()
        salvaging.run(Path(own), Path(home), int(rig), bead, int(epoch))
        return CommandResult(0, b"", 0.0)


@pytest.fixture
def containers(monkeypatch: pytest.MonkeyPatch) -> Iterator[Containers]:
    made = Containers()
    monkeypatch.setitem(registry.FACTORIES, "docker", lambda: made)
    registry.get.cache_clear()
    yield made
    registry.get.cache_clear()


@pytest.fixture
def over(town: Town, clock: Clock) -> tuple[str, str, Mirror]:
    """A bead with a failed attempt, that one's name, and the node's mirror."""
    with transaction() as session:
        attempt = an_attempt(session, DispatchStatus.FAILED)
        bead = session.get_one(Bead, attempt.bead_id)
        session.get_one(Rig, bead.rig_id).repository = str(town.repository)
        found = bead.id, str(attempt.id), bead.rig_id
    mirror = Mirror.open(town.home, found[2], str(town.repository))
    mirror.fetch()
    return found[0], found[1], mirror


def end(bead_id: str, clock: Clock) -> None:
    with transaction() as session:
        bead = session.get_one(Bead, bead_id)
        bead.status, bead.closed_at, bead.wake_at = BeadStatus.CLOSED, clock.now, None
        bead.resolution = Resolution.CANCELED


def tidy(town: Town) -> None:
    bead_homes.tidy_bead_homes(town.home, 30)


def test_a_home_goes_when_its_bead_is_over_and_its_work_is_here(
    town: Town, over: tuple[str, str, Mirror], clock: Clock, containers: Containers
) -> None:
    bead, name, mirror = over
    attempt = failing(town, "echo mine > work.txt", bead=bead, rig_id=int(mirror.path.stem))
    home = home_of(town, attempt)
    tidy(town)
    assert home.is_dir(), "its bead is not over"
    kept = refs(mirror.path)[f"refs/gastown/wip/{bead}/1"]
    end(bead, clock)
    containers.names = [name]
    tidy(town)
    assert home.is_dir(), "its container is still there"
    containers.names = []
    tidy(town)
    assert not home.exists()
    assert git("show", f"{kept}:work.txt", cwd=mirror.path) == "mine"
    assert starting_point(mirror, bead, 2, None, "") == kept
    assert containers.ran == []


def test_work_of_a_supervisor_that_was_killed_is_saved_in_a_container(
    town: Town, over: tuple[str, str, Mirror], clock: Clock, containers: Containers
) -> None:
    bead, _, mirror = over
    attempt = town.sling("echo hours > work.txt; echo up; sleep 300", bead=bead, rig_id=int(mirror.path.stem))
    with Foreground(town, attempt) as supervisor:
        town.wait_output(attempt, b"up")
        supervisor.process.kill()
    end(bead, clock)
    tidy(town)
    (spec,) = containers.ran
    assert spec.container.network == "none"
    assert not home_of(town, attempt).joinpath("work").exists()
    assert git("show", f"refs/gastown/wip/{bead}/1:work.txt", cwd=mirror.path) == "hours"


def test_an_attempt_that_begins_meanwhile_keeps_its_worktree(
    town: Town, over: tuple[str, str, Mirror], clock: Clock, containers: Containers
) -> None:
    """Somebody retries the bead while housekeeping is at it."""
    bead, _, mirror = over
    attempt = town.sling("echo hours > work.txt; echo up; sleep 300", bead=bead, rig_id=int(mirror.path.stem))
    with Foreground(town, attempt) as supervisor:
        town.wait_output(attempt, b"up")
        supervisor.process.kill()
    end(bead, clock)
    work = home_of(town, attempt) / "work" / bead

    def begin() -> None:
        shutil.copytree(work / "1", work / "2")
        (work / ".new-3").mkdir()
        with transaction() as session:
            found = session.get_one(Bead, bead)
            found.status, found.resolution, found.closed_at = BeadStatus.OPEN, None, None

    containers.before_run = begin
    tidy(town)
    assert not (work / "1").exists()
    assert (work / "2" / "work.txt").read_text() == "hours\n"
    assert (work / ".new-3").is_dir()


def test_half_a_home_is_nobodys_home(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its removal takes longer than housekeeping may, and the bead is retried."""
    own = town.home / "beads" / "gt-1"
    (own / "mirrors").mkdir(parents=True)
    remove = shutil.rmtree

    def cut_short(path: Path, *_: object, **__: object) -> None:
        if path.is_dir():
            (path / "mirrors").rmdir()
            raise KeyboardInterrupt

    monkeypatch.setattr(shutil, "rmtree", cut_short)
    with pytest.raises(KeyboardInterrupt):
        beadhomes.remove(town.home, "gt-1", lambda: True)
    monkeypatch.setattr(shutil, "rmtree", remove)
    assert beadhomes.names(town.home) == []
    assert list(own.parent.iterdir()) == []


def test_what_cannot_be_taken_stays_for_as_long_as_work_is_kept(
    town: Town, over: tuple[str, str, Mirror], clock: Clock, containers: Containers
) -> None:
    bead, _, mirror = over
    attempt = failing(town, "echo mine > work.txt", bead=bead, rig_id=int(mirror.path.stem))
    home = home_of(town, attempt)
    aside = home / "mirrors" / f"{mirror.path.stem}.damaged-1"
    aside.mkdir()
    (aside / "gastown-lost-refs").write_text(f"{'a' * 40} refs/gastown/wip/{bead}/1\n")
    end(bead, clock)
    tidy(town)
    assert home.is_dir()
    clock.advance(30 * DAY_S)
    for _ in range(2):
        tidy(town)
        assert home.is_dir(), "a person is told first"
    with transaction() as session:
        [told] = escalations.list_inbox(session, session.get_one(Bead, bead).town_id)
        assert f"work of {bead} on node local cannot be saved: {aside}" in told.message
        escalations.settle_by_hand(session, session.get_one(Bead, bead).town_id, told.id)
    os.utime(mirror.path / upkeep.LATE / bead, (0, 0))
    tidy(town)
    assert not home.exists()
    with transaction() as session:
        assert escalations.list_inbox(session, session.get_one(Bead, bead).town_id) == []


@pytest.mark.parametrize("saved", [True, False], ids=["committed", "in its worktree"])
def test_work_of_a_node_that_was_away_for_longer_than_work_is_kept(
    town: Town, over: tuple[str, str, Mirror], clock: Clock, containers: Containers, saved: bool
) -> None:
    """Nobody has seen it yet: it is kept for as long as any work, from now on."""
    bead, _, mirror = over
    rig_id = int(mirror.path.stem)
    if saved:
        attempt = failing(town, "echo hours > work.txt", bead=bead, rig_id=rig_id)
    else:
        attempt = town.sling("echo hours > work.txt; echo up; sleep 300", bead=bead, rig_id=rig_id)
        with Foreground(town, attempt) as supervisor:
            town.wait_output(attempt, b"up")
            supervisor.process.kill()
    home = home_of(town, attempt)
    for name in refs(town.repository):
        git("update-ref", "-d", name, cwd=town.repository)  # its time is over, and other nodes are there
    end(bead, clock)
    clock.advance(31 * DAY_S)
    for _ in range(2):
        tidy_repositories(town.home, 30)
        assert not home.exists()
        assert git("show", f"refs/gastown/archive/{bead}/1:work.txt", cwd=mirror.path) == "hours"
    os.utime(mirror.path / upkeep.LATE / bead, (0, 0))
    tidy_repositories(town.home, 30)
    assert refs(mirror.path) == {}
    assert list((mirror.path / upkeep.LATE).iterdir()) == []


def test_the_next_container_finds_a_mirror_to_borrow_from(
    town: Town, over: tuple[str, str, Mirror], containers: Containers
) -> None:
    """On a node without merges nobody else makes one."""
    bead, _, mirror = over
    failing(town, "echo mine > work.txt", bead=bead, rig_id=int(mirror.path.stem))
    shutil.rmtree(mirror.path)
    bead_homes.follow_remotes(town.home)
    assert mirror.target("main")
    town.repository.rename(town.repository.with_name("away"))
    bead_homes.follow_remotes(town.home)


def test_a_start_at_the_last_moment_keeps_the_home(town: Town, node: Mirror) -> None:
    own = town.home / "beads" / "gt-1"
    (own / "work").mkdir(parents=True)
    assert not beadhomes.remove(town.home, "gt-1", lambda: False)
    assert (own / "work").is_dir()
    own.rename(own.with_name(".gone-gt-1"))
    assert beadhomes.names(town.home) == ["gt-1"], "a removal that was cut short begins anew"
    assert beadhomes.remove(town.home, "gt-1", lambda: True)
    assert beadhomes.names(town.home) == []
