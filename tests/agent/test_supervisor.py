"""The supervisor from start to exit code, with a real town, real git and real processes."""

import os
import signal
from pathlib import Path

import pytest

from gastown.agent import processes
from tests.agent.town import Town, eventually, git, make_repository


def test_what_is_uncommitted_becomes_the_candidate(town: Town) -> None:
    attempt = town.run("echo new > new.txt; echo more >> README; echo said")
    assert town.files(attempt).exit_code() == 0
    assert attempt.done is not None
    assert attempt.done["outcome"] == "succeeded"
    head, base = attempt.done["head_sha"], attempt.done["base_sha"]
    assert base == git("rev-parse", "main", cwd=town.repository)
    assert git("rev-parse", "refs/gastown/head/gt-1/1", cwd=town.repository) == head
    assert git("rev-parse", f"{head}^", cwd=town.mirror) == base
    assert town.show(head, "README") == "hello\nmore"
    assert git("log", "-1", "--format=%an|%s|%(trailers:key=Gastown-Bead,valueonly)", head, cwd=town.mirror) == (
        "toast|Do the thing|gt-1"
    )
    assert attempt.output == b"said\n"
    assert not town.worktree(attempt).exists()
    assert not town.files(attempt).spool.exists()


def test_commits_of_the_agent_are_kept_as_they_are(town: Town) -> None:
    attempt = town.run("echo 1 > a; git add a; git commit -qm mine; echo 2 > b")
    assert attempt.done is not None
    log = git("log", "--format=%s", f"{attempt.done['base_sha']}..{attempt.done['head_sha']}", cwd=town.mirror)
    assert log.splitlines() == ["Do the thing", "mine"]


@pytest.mark.parametrize("script", ["true", "echo x > f; git add f; git commit -qm 1; git rm -q f; git commit -qm 2"])
def test_no_changes_is_said_by_equal_heads(town: Town, script: str) -> None:
    """S57."""
    attempt = town.run(script)
    assert attempt.done is not None
    assert attempt.done["outcome"] == "succeeded"
    assert attempt.done["head_sha"] == attempt.done["base_sha"]


def test_a_failing_agent_is_reported_with_its_last_words_and_its_work(town: Town) -> None:
    attempt = town.run("echo half > half.txt; echo cannot go on; exit 3")
    done = attempt.done
    assert done is not None
    assert (done["outcome"], done["code"], done["exit_code"]) == ("failed", "agent_failed", 3)
    assert "exited with 3" in done["message"]
    assert "cannot go on" in done["message"]
    assert town.show(done["wip_sha"], "half.txt") == "half"
    assert git("rev-parse", "refs/gastown/wip/gt-1/1", cwd=town.repository) == done["wip_sha"]


def test_an_agent_ended_by_a_signal_says_which(town: Town) -> None:
    done = town.run("kill -9 $$").done
    assert done is not None
    assert (done["code"], done["exit_code"]) == ("agent_failed", -9)
    assert "SIGKILL" in done["message"]


@pytest.mark.parametrize(
    ("argv", "words"),
    [(["not-an-agent", "-x"], "not found"), (["/etc/passwd"], "may not be executed"), ([], "command")],
)
def test_an_agent_that_cannot_be_started_is_a_matter_of_configuration(town: Town, argv: list[str], words: str) -> None:
    done = town.run("", argv=argv).done
    assert done is not None
    assert (done["outcome"], done["code"]) == ("failed", "command_not_found")
    assert words in done["message"]


def test_the_prompt_reaches_the_agent_and_no_commit(town: Town) -> None:
    """S63."""
    argv = ["/bin/sh", "-c", 'cat; echo "$0"; cat "$1"; ls -A > listing', "{prompt}", "{prompt_file}"]
    attempt = town.run("the {prompt_file} body", argv=argv, prompt_on_stdin=True, notes="a gate was red")
    prompt = b"# Do the thing\n\nthe {prompt_file} body\n\n## What happened before\n\na gate was red\n"
    assert attempt.output == prompt + prompt + b"\n" + prompt
    assert attempt.done is not None
    assert town.paths(attempt.done["head_sha"]) == {"README", ".gitignore", "listing"}
    assert town.show(attempt.done["head_sha"], "listing").split() == [".git", ".gitignore", "README", "listing"]


def test_no_secret_of_ours_reaches_the_agent(town: Town) -> None:
    """S75. Neither by environment and command line, nor in any process, file or log that the agent could read."""
    environment = {"PATH": os.environ["PATH"], "GASTOWN_SECRET_KEY": "k", "CELERY_BROKER_URL": "redis://x", "MINE": "1"}
    attempt = town.sling("env; cat; git config --list; echo up; sleep 300", environment=environment)
    pid = town.start(attempt)
    town.wait_output(attempt, b"up\n")
    token = attempt.token.encode()
    for process in (pid, *processes.descendants(pid)):
        for name in ("environ", "cmdline"):
            assert token not in Path(f"/proc/{process}/{name}").read_bytes()
    assert token not in attempt.output
    assert b"MINE=1" in attempt.output
    assert b"SECRET" not in attempt.output
    assert b"CELERY" not in attempt.output
    names = {line.split(b"=")[0] for line in attempt.output.splitlines() if line.startswith(b"GASTOWN_")}
    assert names == {f"GASTOWN_{each}".encode() for each in ("DISPATCH", "BEAD", "EPOCH", "PLACE", "AGENT", "SELF")}
    for folder, _, files in os.walk(town.home):
        for path in (Path(folder, file) for file in files):
            assert path.is_socket() or token not in path.read_bytes()


def test_superseded_it_saves_the_work_and_ends_with_75(town: Town) -> None:
    attempt = town.sling("echo precious > work.txt; (setsid sleep 300 &) ; echo up; sleep 300")
    pid = town.start(attempt)
    town.wait_output(attempt, b"up")
    tree = processes.descendants(pid)
    attempt.fenced = True
    assert town.wait_gone(attempt) == 75
    assert attempt.done is None
    assert town.show("refs/gastown/wip/gt-1/1", "work.txt") == "precious"
    assert git("cat-file", "-p", "refs/gastown/wip/gt-1/1:work.txt", cwd=town.repository) == "precious"
    assert not [pid for pid in tree if (left := processes.look(pid)) and not left.zombie]
    assert not town.worktree(attempt).exists()


def test_superseded_before_it_began_it_starts_no_agent(town: Town) -> None:
    attempt = town.sling("echo ran")
    attempt.fenced = True
    town.start(attempt)
    assert town.wait_gone(attempt) == 75
    assert attempt.output == b""
    assert not (town.home / "work").exists()


def test_a_repeated_answer_of_409_to_heartbeats_after_done_is_no_fence(town: Town) -> None:
    attempt = town.run("true")
    assert town.files(attempt).exit_code() == 0


def test_asked_to_stop_it_asks_the_agent_and_saves_its_work(town: Town) -> None:
    script = "trap 'echo asked > asked.txt; exit 0' TERM; echo work > work.txt; echo up; while :; do sleep 0.05; done"
    attempt = town.sling(script)
    pid = town.start(attempt)
    town.wait_output(attempt, b"up")
    os.kill(pid, signal.SIGTERM)
    assert town.wait_gone(attempt) == 0
    done = attempt.done
    assert done is not None
    assert (done["outcome"], done["code"]) == ("stopped", "drained")
    assert town.paths(done["wip_sha"]) >= {"asked.txt", "work.txt"}


def test_it_stops_in_bounded_time_with_a_dead_api(town: Town) -> None:
    attempt = town.sling("echo work > work.txt; echo up; sleep 300")
    pid = town.start(attempt)
    town.wait_output(attempt, b"up")
    town.down = True
    os.kill(pid, signal.SIGTERM)
    town.wait_gone(attempt)
    assert town.show("refs/gastown/wip/gt-1/1", "work.txt") == "work"


def test_an_api_that_is_away_for_a_while_costs_nothing(town: Town) -> None:
    go = town.home / "go"
    attempt = town.sling(f"echo early; echo work > work.txt; until test -e {go}; do sleep 0.05; done; echo late")
    town.down = True
    pid = town.start(attempt)
    eventually(lambda: "assignment: HTTP 503" in town.supervisor_log(attempt))
    town.down = False
    town.wait_output(attempt, b"early")
    town.down = True
    go.touch()
    eventually(lambda: "done: HTTP 503" in town.supervisor_log(attempt))
    assert processes.look(pid)
    town.down = False
    assert town.wait_gone(attempt) == 0
    assert attempt.output == b"early\nlate\n"
    assert attempt.done is not None
    assert town.show(attempt.done["head_sha"], "work.txt") == "work"


def test_a_token_that_nobody_knows_ends_it(town: Town) -> None:
    attempt = town.sling("echo ran")
    known, attempt.token = attempt.token, "nobody's"
    spec = town.spec(attempt)
    attempt.token = known
    town.runtime.start(spec)
    assert town.wait_gone(attempt) == 1
    assert attempt.output == b""
    assert "token" in town.supervisor_log(attempt)


def test_heartbeats_flow_while_it_clones(town: Town, tmp_path: Path) -> None:
    """S10: a clone that takes long; here it waits for another fetch into the same mirror."""
    import fcntl

    town.run("true", bead="gt-0")
    attempt = town.sling("echo ran")
    with (town.home / "mirrors" / "7.lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        town.start(attempt)
        eventually(lambda: len(attempt.of("heartbeat")) >= 4)
        assert {beat["phase"] for beat in attempt.of("heartbeat")} == {"workspace"}
    town.wait_gone(attempt)
    assert attempt.output == b"ran\n"


def test_a_stop_interrupts_a_clone(town: Town) -> None:
    import fcntl

    town.run("true", bead="gt-0")
    attempt = town.sling("echo ran")
    with (town.home / "mirrors" / "7.lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        pid = town.start(attempt)
        eventually(lambda: len(attempt.of("heartbeat")) >= 2)
        os.kill(pid, signal.SIGTERM)
        town.wait_gone(attempt)  # while the lock is held
    assert attempt.done is not None
    assert attempt.done["outcome"] == "stopped"


def test_heartbeats_say_whether_it_gets_anywhere(town: Town) -> None:
    attempt = town.sling("echo up; sleep 300")
    town.start(attempt)
    town.wait_output(attempt, b"up")
    eventually(lambda: [b["progressed"] for b in attempt.of("heartbeat")][-3:] == [False] * 3)
    (town.worktree(attempt) / "README").write_text("changed\n")
    seen = len(attempt.of("heartbeat"))
    eventually(lambda: any(b["progressed"] for b in attempt.of("heartbeat")[seen:]))
    eventually(lambda: [b["progressed"] for b in attempt.of("heartbeat")][-3:] == [False] * 3)


def test_an_empty_repository_and_a_missing_branch_are_told_apart(town: Town, tmp_path: Path) -> None:
    git("init", "-q", "--bare", str(tmp_path / "empty.git"), cwd=tmp_path)
    done = town.run("true", repository=str(tmp_path / "empty.git"), rig_id=8).done
    assert done is not None
    assert (done["outcome"], done["code"]) == ("failed", "repository_empty")
    done = town.run("true", bead="gt-2", branch="nope").done
    assert done is not None
    assert done["code"] == "branch_missing"
    assert "'nope'" in done["message"]
    assert "main" in done["message"]


def test_a_repository_that_is_gone_is_a_failure_of_the_workspace(town: Town, tmp_path: Path) -> None:
    done = town.run("true", repository=str(tmp_path / "gone.git"), rig_id=9).done
    assert done is not None
    assert (done["outcome"], done["code"]) == ("failed", "workspace_failed")
    assert "gone.git" in done["message"]


def test_a_remote_that_takes_no_refs_of_ours_costs_no_work(town: Town) -> None:
    """S36."""
    hook = town.repository / "hooks" / "pre-receive"
    hook.write_text("#!/bin/sh\necho protected\nexit 1\n")
    hook.chmod(0o755)
    attempt = town.run("echo work > work.txt")
    assert attempt.done is not None
    assert attempt.done["outcome"] == "succeeded"
    assert town.show(attempt.done["head_sha"], "work.txt") == "work"
    assert "did not take refs/gastown/head/gt-1/1" in town.supervisor_log(attempt)


def test_two_attempts_on_different_beads_run_side_by_side(town: Town) -> None:
    attempts = [town.sling(f"echo {n} > {n}.txt", bead=f"gt-{n}") for n in range(3)]
    for attempt in attempts:
        town.start(attempt)
    for attempt in attempts:
        town.wait_gone(attempt)
        assert attempt.done is not None
        assert attempt.done["outcome"] == "succeeded"


def test_a_checkout_of_the_user_works_as_repository(town: Town, tmp_path: Path) -> None:
    make_repository(tmp_path / "other.git")
    checkout = tmp_path / "other.git.work"
    attempt = town.run("echo work > work.txt", repository=str(checkout), rig_id=11)
    assert attempt.done is not None
    assert attempt.done["outcome"] == "succeeded"
    assert git("status", "--porcelain", cwd=checkout) == ""


def test_orphans_of_the_agent_do_not_pile_up_as_zombies(town: Town) -> None:
    enough = town.home / "enough"
    attempt = town.sling(f"echo up; until test -e {enough}; do (setsid sleep 0.1 &) ; sleep 0.1; done; sleep 300")
    pid = town.start(attempt)
    town.wait_output(attempt, b"up")

    def zombies() -> list[int]:
        return [process.pid for process in processes.processes() if process.zombie and process.parent == pid]

    eventually(zombies)
    enough.touch()
    eventually(lambda: not zombies())
