"""What every runtime promises. A new one is a parameter of the fixture `runtime`."""

import threading
import time
from pathlib import Path

import pytest

from gastown.agent import processes
from gastown.errors import RuntimeUnavailable
from gastown.runtimes import CommandSpec, Runtime
from tests.agent.town import Town, eventually

SPREAD = """
(setsid sh -c 'echo $$ > "$TMPDIR/../daemon"; exec sleep 300' &)
(env -i setsid sh -c 'sleep 300' &)
echo spread
sleep 300
"""


def command(text: str, cwd: Path, **changes: object) -> CommandSpec:
    given: dict[str, object] = {"command": text, "cwd": cwd, "environment": {"PATH": "/usr/bin:/bin"}}
    return CommandSpec(**{**given, **changes})  # type: ignore[arg-type]


def test_an_attempt_is_present_until_it_ends_and_its_exit_code_stays(town: Town, runtime: Runtime) -> None:
    attempt = town.sling("sleep 300 & wait")
    runtime.start(town.spec(attempt))
    town.wait_phase(attempt)
    assert runtime.inspect(attempt.name).present
    assert runtime.list_names() == [attempt.name]
    runtime.stop(attempt.name, grace_s=20)
    found = runtime.inspect(attempt.name)
    assert (found.present, found.exit_code) == (False, 0)
    assert runtime.list_names() == []


def test_starting_twice_starts_one(town: Town, runtime: Runtime) -> None:
    attempt = town.sling("sleep 300")
    first, second = (runtime.start(town.spec(attempt)) for _ in range(2))
    assert first is not None
    assert first == second
    town.wait_phase(attempt)
    assert len(attempt.of("assignment")) == 1


def test_starting_at_the_same_time_starts_one(town: Town, runtime: Runtime) -> None:
    """S07."""
    attempt = town.sling("sleep 300")
    handles: list[object] = []
    threads = [threading.Thread(target=lambda: handles.append(runtime.start(town.spec(attempt)))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(handles) == 4
    assert len(set(handles)) == 1
    town.wait_phase(attempt)
    assert len(attempt.of("assignment")) == 1


def test_a_name_is_never_started_again(town: Town, runtime: Runtime) -> None:
    attempt = town.run("echo once")
    again = runtime.start(town.spec(attempt))
    assert again is not None
    assert not runtime.inspect(attempt.name).present
    assert len(attempt.of("assignment")) == 1


def test_what_never_was_is_absent_and_stopping_it_is_a_success(runtime: Runtime) -> None:
    for name in ("never-was", "../../etc", ""):
        found = runtime.inspect(name)
        assert (found.present, found.exit_code) == (False, None)
        runtime.stop(name, grace_s=0)


@pytest.mark.parametrize("grace_s", [0.0, 20.0])
def test_after_stop_nothing_is_left(town: Town, runtime: Runtime, grace_s: float) -> None:
    """Not even daemons with sessions of their own, nor those that cleared their environment."""
    attempt = town.sling(SPREAD)
    pid = town.start(attempt)
    town.wait_output(attempt, b"spread")
    eventually(lambda: len(processes.descendants(pid)) >= 4)
    tree = processes.descendants(pid)
    runtime.stop(attempt.name, grace_s=grace_s)
    assert not runtime.inspect(attempt.name).present
    assert not [pid for pid in tree if (found := processes.look(pid)) and not found.zombie]
    assert not town.left(attempt)


def test_a_command_ends_with_its_exit_code_and_output(tmp_path: Path, runtime: Runtime) -> None:
    result = runtime.run(command("printf 'a\\000\\377'; echo err >&2; exit 3", tmp_path))
    assert (result.exit_code, result.output, result.passed) == (3, b"a\x00\xfferr\n", False)
    assert runtime.run(command("cat; pwd", tmp_path)).output == f"{tmp_path}\n".encode()


def test_a_command_that_hangs_is_ended_with_its_tree(tmp_path: Path, runtime: Runtime) -> None:
    """S56. The double fork with a session of its own is found by the mark in its environment."""
    pid_file = tmp_path / "pid"
    text = f"(setsid sh -c 'echo $$ > {pid_file}; exec sleep 300' &) ; echo started; sleep 300"
    result = runtime.run(command(text, tmp_path, timeout_s=1.0))
    assert (result.exit_code, result.timed_out, result.output) == (None, True, b"started\n")
    assert result.duration_s < 5
    found = processes.look(int(pid_file.read_text()))
    assert found is None or found.zombie


def test_a_daemon_that_keeps_the_output_open_does_not_keep_the_command(tmp_path: Path, runtime: Runtime) -> None:
    result = runtime.run(command("setsid sleep 300 & echo done", tmp_path))
    assert (result.exit_code, result.output) == (0, b"done\n")
    assert result.duration_s < 5


def test_output_is_bounded_with_head_and_tail(tmp_path: Path, runtime: Runtime) -> None:
    """S56."""
    text = "echo first; head -c 100000000 /dev/zero; echo last"
    result = runtime.run(command(text, tmp_path, max_output_bytes=1_000_000))
    assert result.passed
    assert result.truncated
    assert result.output.startswith(b"first\n")
    assert result.output.endswith(b"last\n")
    assert len(result.output) < 1_000_100
    assert b"bytes left out" in result.output


def test_a_command_that_closes_its_output_is_still_waited_for(tmp_path: Path, runtime: Runtime) -> None:
    assert runtime.run(command("exec >&- 2>&-; sleep 0.5; exit 4", tmp_path)).exit_code == 4


def test_waiting_for_a_command_can_be_interrupted(tmp_path: Path, runtime: Runtime) -> None:
    stop_at = time.monotonic() + 0.3
    result = runtime.run(command("sleep 300", tmp_path), should_stop=lambda: time.monotonic() > stop_at)
    assert (result.exit_code, result.timed_out) == (None, False)
    assert result.duration_s < 2


def test_a_command_without_its_directory_is_an_error_of_ours(tmp_path: Path, runtime: Runtime) -> None:
    with pytest.raises(RuntimeUnavailable, match="not-there"):
        runtime.run(command("true", tmp_path / "not-there"))
