"""What the engine is asked for, and by whom: no engine is needed to say it."""

from pathlib import Path

import pytest

from gastown.agent.protocol import PROTOCOL
from gastown.containers import Container
from gastown.errors import StartMisconfigured
from gastown.runtimes import docker_images, docker_making, registry
from gastown.settings import Settings


@pytest.mark.parametrize(("said", "right"), [(PROTOCOL, True), (PROTOCOL - 1, True), (PROTOCOL + 1, False), (0, False)])
def test_a_supervisor_of_another_protocol_is_refused(said: int, right: bool) -> None:
    found = {"Config": {"Labels": {docker_making.SUPERVISOR: str(said)}}}
    if right:
        docker_images.check_supervisor("acme/agent:1", found)
    else:
        with pytest.raises(StartMisconfigured, match=f"speaks protocol {said}"):
            docker_images.check_supervisor("acme/agent:1", found)


def test_processes_are_no_runtime_for_a_worker_in_a_container(monkeypatch: pytest.MonkeyPatch) -> None:
    registry.get.cache_clear()
    monkeypatch.setenv(registry.CONTAINERISED, "1")
    with pytest.raises(StartMisconfigured, match="in a container itself") as caught:
        registry.get("process")
    assert "GASTOWN_RUNTIME=docker" in caught.value.hint
    monkeypatch.delenv(registry.CONTAINERISED)
    assert registry.get("process") is registry.get("process")
    registry.get.cache_clear()


def test_who_made_a_container_is_told_from_who_has_its_pid_now() -> None:
    assert not docker_making.is_dead(docker_making.me())
    assert docker_making.is_dead(docker_making.me() + "0")
    assert not docker_making.is_dead("4026531836000/1/elsewhere")  # nobody can look there
    assert not docker_making.is_dead("")


def test_what_is_mounted_is_mounted_once() -> None:
    """No folder is mounted twice: not inside of another, and not to be read where it may be written."""
    plan = docker_making.Plan(
        command=("true",),
        environment={},
        labels={},
        container=Container(mounts=("/data:/data", "cache:/cache:rw")),
        folder=Path("/"),
        writable=(Path("/home/w"), Path("/home/w/inner")),
        readable=(Path("/home/w/lent"), Path("/srv/git"), Path("/srv/git")),
        network="bridge",
    )
    assert [(each["Type"], each["Source"], each["ReadOnly"]) for each in docker_making.mounts(plan)] == [
        ("bind", "/home/w", False),
        ("bind", "/srv/git", True),
        ("bind", "/data", True),
        ("volume", "cache", False),
    ]


@pytest.mark.parametrize(
    ("runtime", "usual", "wanted", "url"),
    [
        ("process", "bridge", "bridge", "http://10.0.0.1:9000"),
        ("docker", "bridge", "bridge", "http://host.docker.internal:9000"),
        ("docker", "bridge", "host", "http://127.0.0.1:9000"),
        ("docker", "host", "none", "http://127.0.0.1:9000"),
        ("docker", "fleet", "none", "http://host.docker.internal:9000"),
        ("docker", "none", "none", "http://host.docker.internal:9000"),
    ],
)
def test_where_an_attempt_finds_the_api(runtime: str, usual: str, wanted: str, url: str) -> None:
    settings = Settings(api={"bind": "10.0.0.1:9000"}, docker={"container": {"network": usual}})
    assert settings.agent_url_from(runtime, settings.network_of(wanted)) == url
    named = settings.model_copy(update={"api": settings.api.model_copy(update={"agent_url": "https://api.acme"})})
    assert named.agent_url_from(runtime, wanted) == "https://api.acme"
