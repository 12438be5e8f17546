"""The whole fleet of docker-compose.yml, from nothing to a merged bead."""

import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docker import compose
from tests.docker.engine import environment
from tests.docker.litter import Session, docker
from tests.docker.plugin import NEEDED

ROOT = Path(__file__).parent.parent.parent
UP_TIMEOUT_S = 420
COMMAND_TIMEOUT_S = 120
MERGED_WITHIN_S = 240
REPOSITORY = """
set -e
git init -q -b main /tmp/work && cd /tmp/work
git -c user.name=Ada -c user.email=ada@example.org commit -q --allow-empty -m Begin
git clone -q --bare . /tmp/hello.git
exec git daemon --enable=receive-pack --export-all --base-path=/tmp --reuseaddr
"""


class Fleet:
    """The project, with a folder of its own for its secrets and for the home of its workers."""

    def __init__(self, command: tuple[str, ...], project: str, folder: Path, images: dict[str, str]) -> None:
        self.command, self.project, self.folder, self.home = command, project, folder, folder / "home"
        self.environment = environment() | images | {"GASTOWN_HOME": str(self.home)}

    def compose(self, *arguments: str, timeout_s: float = COMMAND_TIMEOUT_S) -> str:
        """Fails the test with what compose said."""
        files = ("--project-directory", str(self.folder), "--file", str(ROOT / "docker-compose.yml"))
        command = (*self.command, "--project-name", self.project, *files, *arguments)
        done = subprocess.run(
            command, env=self.environment, timeout=timeout_s, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{' '.join(arguments)}: {done.stdout[-2000:]} {done.stderr[-4000:]}"
        return done.stdout

    def gastown(self, *arguments: str) -> str:
        return self.compose("exec", "-T", "worker", "gastown", *arguments)


@pytest.fixture(scope="module")
def compose_command() -> tuple[str, ...]:
    """Skips without compose; but one that `python -m tests.docker up` has fetched has to work."""
    try:
        return compose.ensure().command
    except compose.NoCompose as error:
        if os.environ.get(NEEDED) and compose.kept().exists():
            pytest.fail(f"{NEEDED} is set, and compose does not run: {error}", pytrace=False)
        pytest.skip(f"no docker compose: {error}")


@pytest.fixture
def fleet(
    compose_command: tuple[str, ...], tmp_path: Path, litter: Session, control_image: str, agent_image: str
) -> Iterator[Fleet]:
    """Up, and gone at the end with all that it made."""
    project = litter.name("compose")
    images = {
        "GASTOWN_IMAGE": control_image,
        "GASTOWN_AGENT_IMAGE": agent_image,
        "GASTOWN_AGENT_BASE_IMAGE": agent_image,
        "GASTOWN_AGENT_NETWORK": f"{project}-agents",
        "GASTOWN_API_PORT": "0",  # any that is free
        "FLOWER_PORT": "0",
        "DOCKER_GID": str(os.stat("/var/run/docker.sock").st_gid),
    }
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    for name in ("database_password", "broker_password", "grafana_password", "git_token"):
        (secrets / name).write_text(f"{name}-/@:%")
    (secrets / "flower_login").write_text("admin:secret")
    made = Fleet(compose_command, project, tmp_path, images)
    try:
        made.compose("up", "--detach", "--wait", "--scale", "worker=2", timeout_s=UP_TIMEOUT_S)
        yield made
    finally:
        attempts = docker("ps", "--all", "--quiet", "--filter", f"network={project}-agents").split()
        if attempts:
            docker("rm", "--force", *attempts)
        made.compose("down", "--volumes", "--timeout", "5")


@pytest.mark.timeout(900)
def test_from_nothing_to_merged_work(fleet: Fleet, litter: Session, agent_image: str) -> None:
    server = litter.name("git")
    networks = (f"{fleet.project}-agents", f"{fleet.project}_front")
    docker(
        *("run", "--detach", f"--name={server}", f"--label={litter.label}", f"--network={networks[0]}"),
        *("--network-alias=git", agent_image, "sh", "-c", REPOSITORY),
    )
    try:
        docker("network", "connect", "--alias=git", networks[1], server)
        fleet.gastown("rig", "add", "git://git/hello.git", "--name=hello", "--agent=shell", "--gate=test -d .")
        fleet.gastown("sling", "Greet", "--rig=hello", "--body=echo hello > hello.txt")
        bead = wait_for_merge(fleet)
        assert docker("exec", server, "git", "-C", "/tmp/hello.git", "show", "main:hello.txt") == "hello"
        assert f"Gastown-Bead: {bead}" in docker("exec", server, "git", "-C", "/tmp/hello.git", "log", "main")
    finally:
        docker("rm", "--force", server)


def wait_for_merge(fleet: Fleet) -> str:
    """The id of the only bead, once it is closed as merged."""
    until, beads = time.monotonic() + MERGED_WITHIN_S, []
    while time.monotonic() < until:
        beads = json.loads(fleet.gastown("bead", "list", "--all", "--json"))
        if beads[0]["resolution"] == "merged":
            return str(beads[0]["id"])
        time.sleep(1)
    raise AssertionError(f"not merged: {beads}; {fleet.gastown('why', beads[0]['id'])}")
