"""An engine that is killed, restarted, stopped or full: what is under way has one typed end, and the bead goes on."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gastown.agent.apart import keeps_signals
from gastown.errors import StartMisconfigured, StartRefused
from gastown.models import Bead
from gastown.runtimes import docker_images as images
from gastown.runtimes import registry
from gastown.runtimes.docker import DockerRuntime
from gastown.runtimes.docker_engine import Engine
from gastown.settings import get_settings
from gastown.states import Verdict
from tests.agent.town import eventually, make_repository
from tests.builders import now
from tests.conftest import Clock
from tests.docker import own_engine
from tests.docker.own_engine import OwnEngine
from tests.docker.registry import Registry
from tests.docker.yard import Served, Yard
from tests.races import Thread

# Whoever works on the bead holds a lock for as long; a second one at the same time would say so.
ALONE = "exec 9> $HOME/lock; flock -n 9 || echo doubled >> $HOME/epochs; echo $GASTOWN_EPOCH >> $HOME/epochs"
WORK = f"{ALONE}; until test -e $HOME/finish; do sleep 0.1; done; echo done > result"
ROLLED_BACK = ("rolled_back", "start_error", "infra")
LIVES = ("running", None, None)
DONE = ("succeeded", None, None)


@pytest.fixture(scope="module")
def second_engine(short_dir: Path, agent_image: str) -> Iterator[OwnEngine]:
    reason = own_engine.why_not()
    if reason is not None:
        pytest.skip(reason)
    engine = OwnEngine(short_dir / "engine")
    try:
        engine.start()
        engine.load(agent_image)
        yield engine
    finally:
        engine.close()


@pytest.fixture
def engine(second_engine: OwnEngine) -> Iterator[OwnEngine]:
    """It runs, with no live restore, no containers and a disk with room, however the test leaves it."""
    yield second_engine
    second_engine.resume()
    second_engine.empty()
    second_engine.start()
    second_engine.clear()


@pytest.fixture
def yard(
    engine: OwnEngine, clock: Clock, tmp_path: Path, agent_image: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Yard]:
    api = Served(engine)
    home = engine.disk / "home"
    monkeypatch.setenv("GASTOWN_API__BIND", f"0.0.0.0:{api.port}")
    monkeypatch.setenv("GASTOWN_HOME", str(home))
    get_settings.cache_clear()
    yard = Yard(engine, home, make_repository(tmp_path / "origin.git"), agent_image)
    monkeypatch.setitem(registry.FACTORIES, "docker", yard.runtime)
    registry.get.cache_clear()
    yield yard
    registry.get.cache_clear()
    engine.resume()
    engine.empty()
    engine.start()
    engine.clear()
    yard.close()
    api.close()
    shutil.rmtree(home)


def finish(yard: Yard, bead: Bead) -> None:
    """Its agent may come to its end, which is the first that any of them does."""
    eventually(yard.agents_home(bead).is_dir)
    (yard.agents_home(bead) / "finish").touch()
    eventually(lambda: yard.last(bead).status == "succeeded")


# --- killed while an attempt runs


def test_with_live_restore_an_attempt_outlives_its_engine(yard: Yard, engine: OwnEngine) -> None:
    engine.start(live_restore=True)
    bead = yard.sling(WORK)
    yard.start(bead)
    yard.runs(bead)
    assert yard.wrote(bead, "epochs") == "1\n"
    engine.kill()
    yard.look(sweep=False)
    assert yard.ends(bead) == [LIVES], "who cannot look knows nothing"
    engine.start(live_restore=True)
    yard.look(sweep=True)
    assert yard.ends(bead) == [LIVES]
    finish(yard, bead)
    assert yard.ends(bead) == [DONE]
    assert yard.wrote(bead, "epochs") == "1\n"


def test_without_it_an_attempt_ends_with_its_engine_and_the_bead_is_started_again(
    yard: Yard, engine: OwnEngine
) -> None:
    """The engine asks its containers to stop when it comes back: their work is saved."""
    bead = yard.sling(f"echo half > half; {WORK}")
    yard.start(bead)
    yard.runs(bead)
    assert yard.wrote(bead, "epochs") == "1\n"
    engine.kill()
    yard.look()
    assert yard.ends(bead) == [LIVES]
    engine.start()
    eventually(lambda: yard.look() or yard.ends(bead)[0] != LIVES)
    known = ("stopped_outside", "infra") if keeps_signals() else ("stopped_unasked", "agent")
    assert yard.ends(bead)[0] in [("failed", *known), ("lost", "vanished", "agent")]  # whether it could say so
    yard.start(bead)
    yard.runs(bead)
    yard.look(sweep=True)
    finish(yard, bead)
    assert [status for status, _, _ in yard.ends(bead)] == ["failed", "succeeded"]
    assert yard.wrote(bead, "epochs") == "1\n2\n"
    assert yard.containers() == {str(yard.last(bead).id)}, "of the first nothing is left"


# --- killed inside of a start


def kills(engine: OwnEngine, step: Callable[..., Any]) -> Callable[..., Any]:
    def killed(*args: Any) -> Any:
        engine.kill()
        return step(*args)

    return killed


@pytest.mark.parametrize(
    ("on", "step"), [(DockerRuntime, "_make"), (Engine, "attached"), (DockerRuntime, "_start_container")]
)
def test_an_engine_that_dies_before_the_start_refuses_it(
    yard: Yard, engine: OwnEngine, monkeypatch: pytest.MonkeyPatch, on: type, step: str
) -> None:
    """Nothing was started, for certain: that is known at once, whatever is left of it."""
    bead = yard.sling(WORK)
    with monkeypatch.context() as patch:
        patch.setattr(on, step, kills(engine, getattr(on, step)))
        yard.start(bead)
    assert yard.ends(bead) == [ROLLED_BACK]
    assert "the Docker Engine cannot be reached to" in str(yard.last(bead).message)
    assert "docker version" in yard.why(bead).reason or yard.why(bead).verdict is Verdict.READY
    engine.start()
    yard.start(bead)
    yard.runs(bead)
    yard.look(sweep=True)
    finish(yard, bead)
    assert yard.ends(bead) == [ROLLED_BACK, DONE]
    assert yard.wrote(bead, "epochs") == "2\n"
    assert yard.containers() == {str(yard.last(bead).id)}, "what was only made is gone"


def test_an_engine_that_dies_in_a_start_leaves_it_open_until_it_is_back(
    yard: Yard, engine: OwnEngine, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The container may have begun. Nobody has told it who it is, so it does nothing, and then it is gone."""
    bead, start, made = yard.sling(WORK), DockerRuntime._start_container, []

    def kill_in(container: str) -> None:
        eventually(lambda: engine.begins(container))
        engine.kill()

    def started(runtime: DockerRuntime, container: str, *args: Any) -> None:
        made.append(container)
        killer = Thread(lambda: kill_in(container))
        try:
            start(runtime, container, *args)
        finally:
            killer.value()

    with monkeypatch.context() as patch, engine.stuck_starts():
        patch.setattr(DockerRuntime, "_start_container", started)
        yard.start(bead)
    assert yard.ends(bead) == [("starting", None, None)]
    yard.look()
    assert yard.ends(bead) == [("starting", None, None)]
    engine.start()
    clock.advance(1)

    def settled() -> bool:
        yard.look()
        return yard.ends(bead)[0] == ROLLED_BACK

    eventually(settled)
    yard.start(bead)
    yard.runs(bead)
    yard.look(sweep=True)
    assert not any("gastown.agent" in each for each in engine.processes(made[0]))
    assert yard.containers() == {str(yard.last(bead).id)}
    finish(yard, bead)
    assert yard.ends(bead) == [ROLLED_BACK, DONE]
    assert yard.wrote(bead, "epochs") == "2\n"


# --- slow


def test_a_start_that_comes_after_everybody_stopped_waiting_does_nothing(
    yard: Yard, engine: OwnEngine, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine stands still for longer than a call may take, and then does what it was asked for."""
    bead, start = yard.sling(WORK), DockerRuntime._start_container

    def slow(*args: Any) -> None:
        yard.wait_at_most(1.0)
        engine.pause()
        start(*args)

    with monkeypatch.context() as patch:
        patch.setattr(DockerRuntime, "_start_container", slow)
        yard.start(bead)
    assert yard.ends(bead) == [("starting", None, None)]
    yard.look()
    assert yard.ends(bead) == [("starting", None, None)]
    engine.resume()
    yard.wait_at_most(30.0)
    first = yard.last(bead)
    eventually(lambda: engine.state_of(f"gastown-{first.id}") == "exited")
    clock.advance(1)
    yard.look()
    assert yard.ends(bead)[0] == ROLLED_BACK
    yard.start(bead)
    yard.runs(bead)
    finish(yard, bead)
    assert yard.wrote(bead, "epochs") == "2\n"


# --- full


def test_a_full_disk_of_the_engine_closes_the_node_and_not_the_beads(
    yard: Yard, engine: OwnEngine, clock: Clock
) -> None:
    engine.fill()
    beads = [yard.sling(WORK) for _ in range(4)]
    for bead in beads:
        yard.start(bead)
    clock.advance(20)
    yard.beat()
    yard.start(beads[0])
    ends = [end for bead in beads for end in yard.ends(bead)]
    assert set(ends) == {ROLLED_BACK}
    for bead in beads:
        why = yard.why(bead)
        assert "no space left on device" in why.reason
        assert "docker system df" in why.reason
    assert Verdict.NO_NODE in {yard.why(bead).verdict for bead in beads}
    before = len(ends)
    for _ in range(3):
        yard.start(beads[0])
    assert sum(len(yard.ends(bead)) for bead in beads) == before, "no loop"
    engine.empty()
    clock.advance(300)
    yard.beat()
    yard.start(beads[0])
    assert any(yard.ends(bead)[-1][0] in ("starting", "running") for bead in beads)


def test_a_full_disk_of_the_node_is_nobodys_fault(yard: Yard, clock: Clock) -> None:
    bead = yard.sling("cat /dev/zero > $HOME/zeros")
    yard.start(bead)
    eventually(lambda: yard.last(bead).ended_at is not None)
    assert yard.ends(bead) == [("failed", "workspace_failed", "infra")]
    assert f"the disk of {yard.home}/beads/{bead.id} is full" in str(yard.last(bead).message)
    assert "No space left on device" in str(now(bead).failure_message), "and what the agent said of it"
    yard.start(bead)  # there is no room for a supervisor either
    assert yard.ends(bead)[1:] == [ROLLED_BACK]
    why = yard.why(bead)
    assert why.verdict is Verdict.COOLDOWN
    assert "No space left on device" in why.reason
    assert f"df {yard.home}" in why.reason
    (yard.agents_home(bead) / "zeros").unlink()
    clock.advance(40)
    yard.beat()
    yard.start(bead)
    yard.runs(bead)


def test_an_image_that_the_disk_does_not_hold_may_be_had_later(yard: Yard, engine: OwnEngine) -> None:
    """One that is nowhere is for a person; a full disk is not."""
    asked = yard.runtime().engine
    with Registry(engine.listener(), layer_mb=4) as image:
        engine.fill()
        with pytest.raises(StartRefused, match="no space left on device") as caught:
            images.require(asked, image, supervised=False)
        assert not isinstance(caught.value, StartMisconfigured)
        assert "docker system df" in caught.value.hint
        engine.empty()
        assert images.require(asked, image, supervised=False).startswith("sha256:")
