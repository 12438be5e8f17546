"""What becomes of work that is not finished: snapshots, salvage, the next attempt."""

import os
import signal
from pathlib import Path

import pytest

from gastown.agent import processes
from tests.agent.town import Attempt, Town, eventually, git


def kill_supervisor(town: Town, attempt: Attempt, pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: not town.runtime.inspect(attempt.name).present)


def test_after_a_sigkill_the_next_attempt_starts_from_the_uncommitted_work(town: Town) -> None:
    """S35."""
    first = town.sling("echo 1 > a; git add a; git commit -qm one; echo half > half.txt; echo up; sleep 300")
    pid = town.start(first)
    town.wait_output(first, b"up")
    kill_supervisor(town, first, pid)
    second = town.run("git status --porcelain; git log --format=%s; cat half.txt", epoch=2)
    assert second.output.splitlines() == [b"?? half.txt", b"one", b"first", b"half"]
    assert town.show("refs/gastown/wip/gt-1/1", "half.txt") == "half"
    assert second.done is not None
    log = git("log", "--format=%s", f"{second.done['base_sha']}..{second.done['head_sha']}", cwd=town.mirror)
    assert log.splitlines() == ["Do the thing", "one"]
    assert not town.worktree(first).exists()


def test_an_attempt_that_did_nothing_leaves_the_newer_target_to_the_next(town: Town, tmp_path: Path) -> None:
    first = town.sling("echo up; sleep 300")
    pid = town.start(first)
    town.wait_output(first, b"up")
    kill_supervisor(town, first, pid)
    work = tmp_path / "origin.git.work"
    git("commit", "-q", "--allow-empty", "-m", "newer", cwd=work)
    git("push", "-q", str(town.repository), "main", cwd=work)
    second = town.run("git log --format=%s", epoch=2)
    assert second.output.splitlines() == [b"newer", b"first"]
    assert second.done is not None
    assert second.done["head_sha"] == second.done["base_sha"]


def test_the_next_attempt_ends_what_earlier_ones_left_and_nothing_else(town: Town) -> None:
    other = town.sling("echo up; sleep 300", bead="gt-2")
    other_pid = town.start(other)
    first = town.sling("(setsid sleep 300 &) ; echo up; sleep 300")
    pid = town.start(first)
    for attempt in (first, other):
        town.wait_output(attempt, b"up")
    eventually(lambda: len(town.left(first)) >= 4)
    os.kill(pid, signal.SIGKILL)
    town.run("true", epoch=2)
    assert not town.left(first)
    assert processes.look(other_pid)
    late = town.sling("true")
    late.assignment.previous_epochs.clear()
    newer = town.sling("echo up; sleep 300", epoch=3)
    town.start(newer)
    town.wait_output(newer, b"up")
    town.start(late)
    town.wait_gone(late)
    assert town.runtime.inspect(newer.name).present


def test_work_of_another_node_comes_from_the_remote(town: Town) -> None:
    first = town.run("echo from afar > far.txt; exit 1")
    assert first.done is not None
    git("update-ref", "-d", "refs/gastown/wip/gt-1/1", cwd=town.mirror)
    second = town.run("cat far.txt", epoch=2)
    assert second.output == b"from afar\n"


def test_an_agent_that_signals_its_own_supervisor_loses_no_work(town: Town) -> None:
    first = town.run("echo 1 > one; git add one; git commit -qm one; echo 2 > two; kill -TERM $PPID; sleep 300")
    assert first.done is not None
    assert first.done["outcome"] == "stopped"
    assert town.show(first.done["wip_sha"], "two") == "2"
    assert town.run("cat one two", epoch=2).output == b"1\n2\n"


def test_a_given_base_comes_first(town: Town) -> None:
    first = town.run("echo 1 > one.txt")
    assert first.done is not None
    second = town.run("ls; echo 2 > two.txt", epoch=2, base=first.done["head_sha"], base_epoch=1)
    assert b"one.txt" in second.output
    assert second.done is not None
    assert second.done["base_sha"] == first.done["base_sha"]
    assert town.paths(second.done["head_sha"]) >= {"one.txt", "two.txt"}


def test_work_done_since_a_base_was_given_comes_before_it(town: Town) -> None:
    """S35: `retry --again` gives the base once, and it stays the bead's for all attempts that follow."""
    first = town.run("echo 1 > one.txt")
    assert first.done is not None
    again = {"base": first.done["head_sha"], "base_epoch": 1}
    town.run("echo 2 > two.txt; exit 1", epoch=2, **again)
    assert town.run("cat one.txt two.txt", epoch=3, **again).output == b"1\n2\n"


def test_work_from_before_a_base_was_given_does_not_come_back(town: Town) -> None:
    first = town.run("echo 1 > one.txt")
    assert first.done is not None
    town.run("echo wrong > two.txt; exit 1", epoch=2)
    third = town.run("ls", epoch=3, base=first.done["head_sha"], base_epoch=2)
    assert third.output.split() == [b"README", b"one.txt"]


def test_a_result_that_nobody_heard_of_is_where_the_next_attempt_starts(town: Town) -> None:
    go = town.home / "go"
    first = town.sling(f"echo 1 > one.txt; echo up; until test -e {go}; do sleep 0.05; done")
    pid = town.start(first)
    town.wait_output(first, b"up")
    town.down = True
    go.touch()
    eventually(lambda: "done: HTTP 503" in town.supervisor_log(first))
    os.kill(pid, signal.SIGKILL)
    town.down = False
    second = town.run("ls", epoch=2)
    assert b"one.txt" in second.output


def test_snapshots_leave_index_and_branch_of_the_agent_alone(town: Town) -> None:
    go = town.home / "go"
    wait = f"until test -e {go}; do sleep 0.05; done"
    script = f"echo staged > s; git add s; echo loose > l; echo up; {wait}; git status --porcelain; git log --format=%s"
    attempt = town.sling(script, checkpoint_s=0.3)
    town.start(attempt)
    of_both = lambda: [c["wip_sha"] for c in attempt.of("checkpoint") if town.paths(c["wip_sha"]) >= {"s", "l"}]  # noqa: E731
    [checkpoint] = eventually(of_both)
    go.touch()
    town.wait_gone(attempt)
    assert attempt.output.splitlines() == [b"up", b"A  s", b"?? l", b"first"]
    assert of_both() == [checkpoint]
    assert git("merge-base", "--is-ancestor", checkpoint, "refs/gastown/wip/gt-1/1", cwd=town.mirror) == ""


def test_each_snapshot_keeps_the_ones_before_reachable(town: Town) -> None:
    gos = [town.home / "one", town.home / "two"]
    first, second = (f"until test -e {go}; do sleep 0.05; done" for go in gos)
    attempt = town.sling(f"echo 1 > f; {first}; echo 2 > f; {second}; exit 1", checkpoint_s=0.3)
    town.start(attempt)
    for number, go in enumerate(gos, 1):
        eventually(lambda number=number: len(attempt.of("checkpoint")) == number)  # type: ignore[misc]
        go.touch()
    town.wait_gone(attempt)
    shas = [body["wip_sha"] for body in attempt.of("checkpoint")]
    assert [town.show(sha, "f") for sha in shas] == ["1", "2"]
    git("merge-base", "--is-ancestor", shas[0], "refs/gastown/wip/gt-1/1", cwd=town.mirror)


def test_caches_ignored_and_large_files_are_left_out_and_odd_names_are_not(town: Town) -> None:
    script = """
    mkdir -p node_modules/x .venv .gastown ignored a/__pycache__ sub
    touch node_modules/x/y .venv/z .gastown/p ignored/i
    touch a/__pycache__/m a/b.pyc a/kept "with space" "$(printf 'new\\nline')" "$(printf 'latin\\351')" -- '*' ':(top)x'
    head -c 11000000 /dev/zero > large.bin; ln -s nowhere link; mkfifo pipe; git init -q sub; touch sub/inner
    echo tracked >> README; rm .gitignore; exit 1
    """
    attempt = town.run(script)
    assert attempt.done is not None
    found = town.paths(attempt.done["wip_sha"])
    assert found == {"README", "a/kept", "with space", "new\nline", "latin\udce9", "*", ":(top)x", "link", "ignored/i"}
    assert b"large.bin" in attempt.output
    assert b"will stay: sub/ (a git repository of its own)" in attempt.output
    kept = town.worktree(attempt) / "sub" / ".git"
    assert kept.is_dir(), "a repository of its own may hold commits found nowhere else"


def test_branches_and_stashes_of_the_agent_are_kept(town: Town) -> None:
    town.run(
        "git checkout -q -b side; echo s > side.txt; git add -A; git commit -qm side; git checkout -q -;"
        "echo x > README; git stash -q; exit 1"
    )
    assert town.show("refs/gastown/left/gt-1/1/heads/side", "side.txt") == "s"
    assert town.show("refs/gastown/left/gt-1/1/stash", "README") == "x"


@pytest.mark.parametrize(
    "damage", ["rm -rf .git", "rm .git/HEAD", "echo junk > .git/index", "rm -rf .git; git init -q"]
)
def test_an_agent_that_breaks_its_repository_loses_no_files(town: Town, damage: str) -> None:
    attempt = town.run(f"echo precious > p.txt; {damage}; exit 1")
    assert attempt.done is not None
    assert town.show(attempt.done["wip_sha"], "p.txt") == "precious"


def test_a_stale_lock_of_a_killed_git_does_not_hold_the_work_up(town: Town) -> None:
    attempt = town.sling("echo precious > p.txt; echo up; sleep 300")
    pid = town.start(attempt)
    town.wait_output(attempt, b"up")
    kill_supervisor(town, attempt, pid)
    lock = town.mirror / "refs/gastown/wip/gt-1/1.lock"
    lock.parent.mkdir(parents=True)
    lock.touch()
    second = town.run("cat p.txt", epoch=2)
    assert second.output == b"precious\n"


def test_half_a_worktree_is_never_taken_for_work(town: Town) -> None:
    folder = town.home / "work" / "gt-1"
    for name in (".new-1", ".gone-1"):
        (folder / name).mkdir(parents=True)
    attempt = town.run("git status --porcelain", epoch=2)
    assert attempt.output == b""
    assert not folder.exists()


def test_setup_runs_once_where_it_changes_nothing_and_each_time_where_it_does(town: Town) -> None:
    setup = "echo setting up; touch $GASTOWN_CACHE/seen"
    assert town.run("true", setup=setup).output == b"setting up\n"
    assert town.run("true", bead="gt-2", setup=setup).output == b""
    assert (town.home / "cache" / "7" / "seen").exists()
    changing = "echo again; mkdir -p ignored; touch ignored/x"
    for bead in ("gt-3", "gt-4"):
        assert town.run("true", bead=bead, setup=changing).output == b"again\n"


def test_a_setup_that_fails_says_so_and_no_agent_runs(town: Town) -> None:
    attempt = town.run("echo ran", setup="echo no such package; exit 9")
    done = attempt.done
    assert done is not None
    assert (done["code"], done["exit_code"]) == ("setup_failed", 9)
    assert "no such package" in done["message"]
    assert b"ran" not in attempt.output


def test_work_that_cannot_be_saved_stays_in_its_worktree(town: Town) -> None:
    attempt = town.sling("echo precious > p.txt; echo up; sleep 300")
    pid = town.start(attempt)
    town.wait_output(attempt, b"up")
    town.mirror.rename(town.mirror.with_suffix(".away"))
    os.kill(pid, signal.SIGTERM)
    town.wait_gone(attempt)
    assert (town.worktree(attempt) / "p.txt").read_text() == "precious\n"
    town.mirror.with_suffix(".away").rename(town.mirror)
    assert town.run("cat p.txt", epoch=2).output == b"precious\n"


def test_a_home_keeps_what_the_agent_puts_there(town: Town) -> None:
    town.run("echo session > ~/session; exit 1")
    assert town.run("cat ~/session", epoch=2).output == b"session\n"
    assert (Path(town.home) / "homes" / "gt-1" / "session").exists()
