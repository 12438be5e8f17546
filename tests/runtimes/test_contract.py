"""What every runtime promises. A new one is a parameter of the fixture `runtime`."""

import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from gastown.errors import RuntimeUnavailable
from gastown.runtimes import CommandSpec, Runtime
from tests.agent.town import Town, eventually, make_repository
from tests.runtimes.containers import ContainerTown, is_held

SPREAD = """
(setsid flock "$HOME/one" sleep 300 &)
(env -i setsid flock "$HOME/two" sleep 300 &)
echo spread
sleep 300
"""
LONG_S = 60  # a fifth of the sleeps in here: what takes less was not waited for
Command = Callable[..., CommandSpec]


@pytest.fixture(params=["process", pytest.param("docker", marks=pytest.mark.docker("agent_image"))])
def town(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Town]:
    repository = make_repository(tmp_path / "origin.git")
    if request.param == "docker":
        town: Town = ContainerTown(tmp_path, repository, request.getfixturevalue("agent_image"))
    else:
        town = Town(tmp_path, repository)
    yield town
    town.close()


@pytest.fixture
def runtime(town: Town) -> Runtime:
    return town.runtime


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Where commands run."""
    place = tmp_path / "place"
    place.mkdir()
    return place


@pytest.fixture
def command(town: Town, place: Path) -> Command:
    given: dict[str, object] = {"cwd": place, "environment": {"PATH": "/usr/bin:/bin"}}
    if isinstance(town, ContainerTown):
        given["container"] = town.container
    return partial(_command, given)


def _command(given: dict[str, object], text: str, **changes: object) -> CommandSpec:
    return CommandSpec(**{**given, "command": text, **changes})  # type: ignore[arg-type]


def test_an_attempt_is_present_until_it_is_stopped(town: Town, runtime: Runtime) -> None:
    attempt = town.sling("sleep 300 & wait")
    runtime.start(town.spec(attempt))
    town.wait_phase(attempt)
    assert runtime.inspect(attempt.name).present
    assert runtime.list_names() == [attempt.name]
    runtime.stop(attempt.name, grace_s=20)
    assert not runtime.inspect(attempt.name).present
    assert runtime.list_names() == []


def test_the_exit_code_of_one_that_ended_by_itself_is_known(town: Town, runtime: Runtime) -> None:
    attempt = town.run("true")
    found = runtime.inspect(attempt.name)
    assert (found.present, found.exit_code, found.oom) == (False, 0, False)


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
    town.start(attempt)
    town.wait_output(attempt, b"spread")
    home = town.files(attempt).folder.parents[1] / "homes" / attempt.assignment.bead_id
    locks = [home / name for name in ("one", "two")]
    for lock in locks:
        eventually(lambda lock=lock: is_held(lock))  # type: ignore[misc]
    runtime.stop(attempt.name, grace_s=grace_s)
    assert not runtime.inspect(attempt.name).present
    assert not [lock for lock in locks if is_held(lock)]
    assert not town.left(attempt)


def test_a_command_ends_with_its_exit_code_and_output(command: Command, place: Path, runtime: Runtime) -> None:
    result = runtime.run(command("printf 'a\\000\\377'; echo err >&2; exit 3"))
    assert (result.exit_code, result.output, result.passed) == (3, b"a\x00\xfferr\n", False)
    assert runtime.run(command("cat; pwd")).output == f"{place}\n".encode()


def test_a_command_that_hangs_is_ended_with_its_tree(command: Command, place: Path, runtime: Runtime) -> None:
    """S56. The double fork with a session of its own is found as well."""
    text = "(setsid flock lock sh -c 'touch held; exec sleep 300' &) ; while [ ! -e held ]; do sleep 0.01; done; "
    result = runtime.run(command(text + "echo started; sleep 300", timeout_s=3.0))
    assert (result.exit_code, result.timed_out) == (None, True)
    assert b"started\n".startswith(result.output)  # nothing, where three seconds are not enough
    assert not is_held(place / "lock")


def test_a_daemon_that_keeps_the_output_open_does_not_keep_the_command(command: Command, runtime: Runtime) -> None:
    result = runtime.run(command("setsid sleep 300 & echo done"))
    assert (result.exit_code, result.output) == (0, b"done\n")
    assert result.duration_s < LONG_S


def test_output_is_bounded_with_head_and_tail(command: Command, runtime: Runtime) -> None:
    """S56."""
    text = "echo first; head -c 20000000 /dev/zero; echo last"
    result = runtime.run(command(text, max_output_bytes=1_000_000))
    assert result.passed
    assert result.truncated
    assert result.output.startswith(b"first\n")
    assert result.output.endswith(b"last\n")
    assert len(result.output) < 1_000_100
    assert b"bytes left out" in result.output


def test_a_command_that_closes_its_output_is_still_waited_for(command: Command, runtime: Runtime) -> None:
    assert runtime.run(command("exec >&- 2>&-; sleep 0.5; exit 4")).exit_code == 4


def test_waiting_for_a_command_can_be_interrupted(command: Command, runtime: Runtime) -> None:
    stop_at = time.monotonic() + 0.3
    result = runtime.run(command("sleep 300"), should_stop=lambda: time.monotonic() > stop_at)
    assert (result.exit_code, result.timed_out) == (None, False)
    assert result.duration_s < LONG_S


def test_a_command_without_its_directory_is_an_error_of_ours(command: Command, place: Path, runtime: Runtime) -> None:
    with pytest.raises(RuntimeUnavailable, match="not-there"):
        runtime.run(command("true", cwd=place / "not-there"))
