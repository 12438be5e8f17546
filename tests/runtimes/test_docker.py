"""What is particular to attempts that are containers, on a real engine."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gastown.agent.protocol import PROTOCOL
from gastown.errors import RuntimeUnavailable, StartMisconfigured, StartRefused
from gastown.runtimes import RunSpec, docker_making
from gastown.runtimes.docker import DockerRuntime
from gastown.runtimes.docker_engine import Engine
from tests.agent.town import Attempt, eventually, make_repository
from tests.runtimes.containers import NODE, ContainerTown
from tests.runtimes.proxy import Proxy

pytestmark = pytest.mark.docker
RECORD = "import json,sys;from gastown.agent.protocol import Launch;from gastown.agent.runs import RunFiles;"
RECORD += "m=Launch.from_json(json.load(sys.stdin));f=RunFiles(__import__('pathlib').Path(m.home),m.dispatch_id);"
RECORD += "f.folder.mkdir(parents=True);f.record_supervisor(1);"


@pytest.fixture
def town(tmp_path: Path, agent_image: str) -> Iterator[ContainerTown]:
    town = ContainerTown(tmp_path, make_repository(tmp_path / "origin.git"), agent_image)
    yield town
    town.close()


@pytest.fixture
def proxy(short_dir: Path) -> Iterator[Proxy]:
    path = short_dir / f"engine-{os.urandom(4).hex()}"
    proxy = Proxy(path)
    yield proxy
    proxy.close()
    path.unlink()


def spec(town: ContainerTown, attempt: Attempt, **changes: Any) -> RunSpec:
    return replace(town.spec(attempt), container=town.container.model_copy(update=changes))


def nothing_made(town: ContainerTown) -> bool:
    return not town.runtime.engine.listed(**{"dev.gastown.home": town.mark})


def test_its_container_may_do_little_and_tells_nothing_of_the_token(town: ContainerTown) -> None:
    attempt = town.sling("echo up; sleep 300")
    town.start(attempt)
    town.wait_output(attempt, b"up")
    found = town.look(attempt)
    host, config = found["HostConfig"], found["Config"]
    assert attempt.token not in json.dumps(found)
    assert attempt.token not in town.runtime.engine.output(found["Id"])
    assert config["User"] == "1000:1000"
    assert (host["ReadonlyRootfs"], host["Privileged"], host["CapDrop"]) == (True, False, ["ALL"])
    assert host["SecurityOpt"] == ["no-new-privileges"]
    assert (host["Memory"], host["MemorySwap"], host["PidsLimit"]) == (256 << 20, 256 << 20, 128)
    assert host["RestartPolicy"]["Name"] == "no"
    assert {each["Target"]: each.get("ReadOnly", False) for each in host["Mounts"]} == {
        str(town.home / "beads" / "gt-1"): False,
        str(town.repository): True,
    }
    labels = {key: value for key, value in config["Labels"].items() if key.startswith("dev.gastown.")}
    assert labels.pop("dev.gastown.starter")
    assert labels.pop("dev.gastown.supervisor") == str(PROTOCOL)
    named = {"dispatch": attempt.name, "bead": "gt-1", "epoch": "1", "node": NODE, "home": town.mark, "role": "attempt"}
    assert {key: labels[f"dev.gastown.{key}"] for key in named} == named


def test_an_agent_can_write_to_its_beads_home_and_nowhere_else(town: ContainerTown) -> None:
    other = town.home / "beads" / "gt-2"
    other.mkdir(parents=True)
    (other / "secret").write_text("of another bead")
    tries = f"""
    for place in /x /etc/x /opt/gastown/x {town.repository}/x {town.home}/x; do
        touch $place 2>/dev/null && echo "wrote $place"
    done
    cat {other}/secret 2>/dev/null && echo "read it"
    touch ~/x "$TMPDIR/x" x || echo "may not write"
    echo "$PATH"; echo "$PYTHONPATH."; echo "$COLOUR"
    """
    attempt = town.sling(tries, environment={"COLOUR": "blue"})
    town.runtime.start(spec(town, attempt, environment={"COLOUR": "red"}))
    town.wait_gone(attempt)
    said = attempt.output.decode().splitlines()
    assert said[0].startswith("/usr/local"), said
    assert said[1:] == [".", "blue"]
    assert attempt.done is not None
    assert attempt.done["outcome"] == "succeeded"


def test_an_image_that_is_not_there_is_named_with_what_to_do(town: ContainerTown) -> None:
    attempt = town.sling("true")
    with pytest.raises(
        StartMisconfigured, match=r"no-such-agent:1 is not on this node and cannot be pulled: "
    ) as caught:
        town.runtime.start(spec(town, attempt, image="127.0.0.1:1/no-such-agent:1"))
    assert "docker pull 127.0.0.1:1/no-such-agent:1" in caught.value.hint
    with pytest.raises(StartMisconfigured, match="no image is set"):
        town.runtime.start(spec(town, attempt, image=None))
    with pytest.raises(StartMisconfigured, match="is no image"):
        town.runtime.start(spec(town, attempt, image="NOT an image"))
    assert nothing_made(town)


def test_an_image_without_a_supervisor_is_refused(town: ContainerTown) -> None:
    attempt = town.sling("true")
    with pytest.raises(StartMisconfigured, match="has no supervisor"):
        town.runtime.start(spec(town, attempt, image="debian:bookworm-slim"))
    assert nothing_made(town)


@pytest.mark.parametrize(
    ("changes", "words", "hint"),
    [
        ({"network": "no-such-net"}, "no-such-net not found", "docker network ls"),
        ({"mounts": ("/no/such/folder:/data",)}, "/no/such/folder", "a mount of the rig"),
    ],
)
def test_what_the_engine_will_never_make_is_for_a_person(
    town: ContainerTown, changes: dict[str, Any], words: str, hint: str
) -> None:
    attempt = town.sling("true")
    with pytest.raises(StartMisconfigured, match=words) as caught:
        town.runtime.start(spec(town, attempt, **changes))
    assert hint in caught.value.hint
    assert nothing_made(town)


def test_without_network_it_is_the_agent_that_has_none(town: ContainerTown) -> None:
    attempt = town.sling("python3 -c 'import socket; socket.socket()' 2>&1 | tail -n 1; ls /sys/class/net")
    town.runtime.start(spec(town, attempt, network="none"))
    town.wait_gone(attempt)
    assert b"Permission denied" in attempt.output
    assert attempt.done is not None
    named = town.new_runtime(network="of-the-node")
    plan = docker_making.attempt(named._place, spec(town, attempt, network="none"), town.home, town.home, ("true",))
    assert plan.network == "of-the-node"


def test_more_processors_than_there_are_means_all_of_them(town: ContainerTown) -> None:
    attempt = town.sling("true")
    assert town.runtime.start(spec(town, attempt, cpus=1000.0)) is not None
    assert town.look(attempt)["HostConfig"]["NanoCpus"] == town.runtime.engine.cpus * 10**9


def test_a_foreign_container_of_that_name_is_left_alone(town: ContainerTown) -> None:
    attempt = town.sling("true")
    with town.runtime.engine.asked("make one") as client:
        client.create_container(town.container.image, ["true"], name=f"gastown-{attempt.name}")
    try:
        with pytest.raises(StartRefused, match="not of this installation"):
            town.runtime.start(town.spec(attempt))
        assert not town.runtime.inspect(attempt.name).present
        town.runtime.stop(attempt.name, grace_s=0)
        assert town.runtime.engine.look(f"gastown-{attempt.name}") is not None
    finally:
        town.runtime.engine.remove(f"gastown-{attempt.name}")


def test_out_of_memory_and_killed_are_told_apart(town: ContainerTown) -> None:
    hungry = town.new_runtime(command=("python3", "-c", f"{RECORD}x=b'x'*(1<<32)"))
    attempt = town.sling("true")
    assert hungry.start(spec(town, attempt, memory_mb=64)) is not None
    eventually(lambda: not hungry.inspect(attempt.name).present)
    found = hungry.inspect(attempt.name)
    assert (found.present, found.exit_code, found.oom) == (False, 137, True)
    killed = town.sling("sleep 300")
    town.start(killed)
    town.wait_phase(killed)
    with town.runtime.engine.asked("kill it") as client:
        client.kill(f"gastown-{killed.name}")
    eventually(lambda: not town.runtime.inspect(killed.name).present)
    found = town.runtime.inspect(killed.name)
    assert (found.present, found.exit_code, found.oom) == (False, 137, False)


def test_a_supervisor_that_ends_at_once_is_a_refusal_with_its_words(town: ContainerTown) -> None:
    attempt = town.sling("true")
    broken = town.new_runtime(command=("python3", "-c", "import sys; sys.exit('no such module')"))
    with pytest.raises(StartRefused, match="exit code 1: no such module"):
        broken.start(town.spec(attempt))
    absent = town.new_runtime(command=("/no/such/program",))
    with pytest.raises(StartMisconfigured, match="no/such/program") as caught:
        absent.start(town.spec(attempt))
    assert "agent image" in caught.value.hint
    assert nothing_made(town)


def test_what_was_made_by_a_worker_that_died_is_removed_and_absent(
    town: ContainerTown, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempt = town.sling("true")
    home = town.runtime._bead_home(town.spec(attempt))
    assert town.container.image is not None
    town.runtime._make(f"gastown-{attempt.name}", town.spec(attempt), home, town.container.image)
    assert town.runtime.inspect(attempt.name).present  # its maker lives, and may be about to start it
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    other = town.sling("true")
    monkeypatch.setattr(docker_making, "me", lambda: f"{docker_making._namespace()}/{dead.pid}/long-ago")
    town.runtime._make(f"gastown-{other.name}", town.spec(other), home, town.container.image)
    assert town.runtime.list_names() == sorted([attempt.name, other.name])
    assert not town.runtime.inspect(other.name).present
    assert town.runtime.list_names() == [attempt.name]


def test_an_engine_that_is_down_refuses_a_start_and_answers_nothing_else(town: ContainerTown) -> None:
    attempt = town.sling("true")
    gone = town.new_runtime(url=f"unix://{town.home}/no-engine")
    with pytest.raises(StartRefused, match="cannot be reached") as caught:
        gone.start(town.spec(attempt))
    assert not isinstance(caught.value, StartMisconfigured)
    for call in (lambda: gone.inspect(attempt.name), gone.list_names, lambda: gone.stop(attempt.name, grace_s=0)):
        with pytest.raises(RuntimeUnavailable, match="cannot be reached"):
            call()


def through(town: ContainerTown, proxy: Proxy, timeout_s: float = 30.0) -> DockerRuntime:
    runtime = town.new_runtime(url=proxy.url)
    runtime.engine = Engine(proxy.url, timeout_s=timeout_s)
    return runtime


def test_an_engine_that_hangs_before_anything_was_made_refuses(town: ContainerTown, proxy: Proxy) -> None:
    attempt = town.sling("true")
    proxy.deaf = True
    slow = through(town, proxy, timeout_s=0.5)
    with pytest.raises(StartRefused, match="no answer"):
        slow.start(town.spec(attempt))
    with pytest.raises(RuntimeUnavailable, match="no answer"):
        slow.inspect(attempt.name)


def test_a_container_whose_making_was_not_answered_is_undone(town: ContainerTown, proxy: Proxy) -> None:
    attempt = town.sling("true")
    proxy.lost = lambda request: b"/containers/create" in request
    with pytest.raises(StartRefused, match="no answer"):
        through(town, proxy).start(town.spec(attempt))
    assert not town.runtime.inspect(attempt.name).present
    assert nothing_made(town)


def test_a_start_that_was_not_answered_is_unknown_and_ends_by_itself(town: ContainerTown, proxy: Proxy) -> None:
    """It runs, but nobody tells it who it is."""
    attempt = town.sling("true")
    proxy.lost = lambda request: b"/start " in request.split(b"\r\n")[0]
    with pytest.raises(RuntimeUnavailable, match="no answer"):
        through(town, proxy).start(town.spec(attempt))
    eventually(lambda: not town.runtime.inspect(attempt.name).present)
    assert attempt.calls == []
    assert town.runtime.list_names() == [attempt.name]
    town.runtime.stop(attempt.name, grace_s=0)
    assert nothing_made(town)


def test_an_engine_that_comes_back_is_spoken_to_again(town: ContainerTown, proxy: Proxy) -> None:
    attempt = town.sling("echo up; sleep 300")
    runtime = through(town, proxy)
    runtime.start(town.spec(attempt))
    town.wait_output(attempt, b"up")
    proxy.cut()
    assert runtime.inspect(attempt.name).present
    runtime.stop(attempt.name, grace_s=20)
    assert attempt.done is not None


def test_what_is_inspected_in_many_processes_has_a_connection_of_its_own(town: ContainerTown) -> None:
    """The worker's pool forks after its parent has spoken to the engine."""
    attempt = town.sling("echo up; sleep 300")
    town.start(attempt)
    client = town.runtime.engine._connected()
    assert town.runtime.engine._connected() is client
    town.runtime.engine._made_by = 0
    assert town.runtime.engine._connected() is not client
    assert town.runtime.inspect(attempt.name).present
