"""Gates in containers, on a real engine."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from gastown.containers import Container
from gastown.errors import StartMisconfigured
from gastown.gates import Gate
from gastown.refinery.gates import check_base
from gastown.runtimes import CommandResult, CommandSpec, docker_making
from tests.agent.town import make_repository
from tests.runtimes.containers import ContainerTown

pytestmark = pytest.mark.docker


@pytest.fixture
def town(tmp_path: Path, agent_image: str) -> Iterator[ContainerTown]:
    town = ContainerTown(tmp_path, make_repository(tmp_path / "origin.git"), agent_image)
    yield town
    town.close()


@pytest.fixture
def place(tmp_path: Path) -> Path:
    place = tmp_path / "place"
    place.mkdir()
    return place


def run(town: ContainerTown, place: Path, command: str, container: Container | None = None) -> CommandResult:
    container = container or town.container
    return town.runtime.run(CommandSpec(command=command, cwd=place, environment={}, container=container))


def gates_there(town: ContainerTown) -> int:
    return len(town.runtime.engine.listed(**{docker_making.HOME: town.mark, docker_making.ROLE: docker_making.GATE}))


def test_a_gate_may_write_to_its_worktree_and_nowhere_else(town: ContainerTown, place: Path) -> None:
    tries = 'touch made; for each in /x /etc/x; do touch $each 2>/dev/null && echo "wrote $each"; done; id -u; '
    result = run(town, place, tries + 'echo "$PYTHONPATH."; python3 -c "import gastown" 2>&1 | tail -n 1')
    assert result.passed
    assert result.output == b"1000\n.\nModuleNotFoundError: No module named 'gastown'\n"
    assert (place / "made").exists()
    assert gates_there(town) == 0


def test_a_gate_without_network_has_none(town: ContainerTown, place: Path) -> None:
    offline = town.container.model_copy(update={"network": "none"})
    assert run(town, place, "ls /sys/class/net", offline).output == b"lo\n"


def test_a_gate_that_runs_out_of_memory_says_so(town: ContainerTown, place: Path) -> None:
    small = town.container.model_copy(update={"memory_mb": 64})
    result = run(town, place, "python3 -c 'x = b\"x\" * (1 << 32)'", small)
    assert not result.passed
    assert b"out of memory: its container may have 64 MB" in result.output


def test_a_gate_without_its_image_is_for_a_person(town: ContainerTown, place: Path) -> None:
    with pytest.raises(StartMisconfigured, match="no image is set"):
        run(town, place, "true", Container())
    with pytest.raises(StartMisconfigured, match="no-such-net not found"):
        run(town, place, "true", town.container.model_copy(update={"network": "no-such-net"}))
    assert gates_there(town) == 0


def test_gates_of_a_worker_that_died_are_removed_by_the_next_one(
    town: ContainerTown, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead = subprocess.Popen(["true"])
    dead.wait()
    engine, mine = town.runtime.engine, docker_making.me
    monkeypatch.setattr(docker_making, "me", lambda: mine().replace(mine().split("/")[1], str(dead.pid)))
    place_of_node = town.runtime._place
    plan = docker_making.gate(
        place_of_node,
        town.container,
        "sleep 300",
        folder=place,
        environment={},
        writable=(),
        readable=(),
        until=2**40,
    )
    with engine.asked("make one") as client:
        image = str(town.container.image)
        wanted = docker_making.configuration(client, place_of_node, plan, image=image, cpus=1)
        client.start(client.create_container(**wanted)["Id"])
    monkeypatch.undo()
    assert gates_there(town) == 1
    assert run(town, place, "true").passed
    assert gates_there(town) == 0


def test_a_rigs_gates_find_its_history_its_cache_and_its_scratch(town: ContainerTown, tmp_path: Path) -> None:
    """Setup and gates as `rig add` and merges run them: in a clone that borrows from the mirror."""
    town.home.joinpath("checks").mkdir()
    origin = make_repository(tmp_path / "mine.git")
    results = check_base(
        home=town.home / "checks",
        rig_id=0,
        repository=str(origin),
        branch="main",
        setup='echo cached > "$GASTOWN_CACHE/note" && touch "$HOME/one"',
        gates=(Gate(name="log", command='git log --format=%s && cat "$GASTOWN_CACHE/note" && touch "$TMPDIR/x"'),),
        environment={},
        runtime=town.runtime,
        container=town.container,
        on_step=lambda step: None,
    )
    assert [(each.step, each.passed, each.output) for each in results] == [
        ("setup", True, ""),
        ("gate", True, "first\ncached\n"),
    ]
