"""The whole fleet of docker-compose.yml: from nothing to a merged bead, and a new worker while an agent works."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.docker import compose
from tests.docker.engine import NoEngine, environment
from tests.docker.fleet import until
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
# Asked more often than every 15 seconds, services are told to be well sooner; and nothing is wrong with slow ones
OFTEN = {"healthcheck": {"interval": "5s", "start_period": "400s"}}
OVERRIDE = {"services": dict.fromkeys(("api", "beat", "worker", "flower"), OFTEN)}
WAIT = "touch begun; until test -e go; do sleep 0.2; done; rm begun go; echo on > on.txt"


class Fleet:
    """The project, with a folder of its own for its secrets and for the home of its workers."""

    def __init__(self, command: tuple[str, ...], project: str, folder: Path, images: dict[str, str]) -> None:
        self.command, self.project, self.folder, self.home = command, project, folder, folder / "home"
        self.server = f"{project}-git"
        self.environment = environment() | images | {"GASTOWN_HOME": str(self.home)}
        self.override = folder / "override.json"
        self.override.write_text(json.dumps(OVERRIDE))

    def compose(self, *arguments: str, timeout_s: float = COMMAND_TIMEOUT_S) -> str:
        """Fails the test with what compose said."""
        files = ("--file", str(ROOT / "docker-compose.yml"), "--file", str(self.override))
        project = ("--project-name", self.project, "--project-directory", str(self.folder))
        command = (*self.command, *project, *files, *arguments)
        done = subprocess.run(
            command, env=self.environment, timeout=timeout_s, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{' '.join(arguments)}: {done.stdout[-2000:]} {done.stderr[-4000:]}"
        return done.stdout

    def gastown(self, *arguments: str) -> str:
        return self.compose("exec", "-T", "worker", "gastown", *arguments)

    def sling(self, title: str, body: str) -> str:
        """The id of a new bead."""
        made = json.loads(self.gastown("sling", title, "--rig=hello", f"--body={body}", "--json"))
        return str(made["id"])

    def attempts(self, bead: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.gastown("attempts", bead, "--json"))
        return found

    def worktree(self, bead: str, name: str) -> str:
        """A path in that of its first attempt, as the attempt has it."""
        return str(self.home / "beads" / bead / "work" / bead / "1" / name)

    def attempt_at_work(self, bead: str) -> str:
        """The container of its attempt, once the agent in it has begun."""
        listing = ("ps", "--quiet", "--filter", f"label=dev.gastown.bead={bead}")
        container = until(f"{bead} has a container", lambda: docker(*listing), MERGED_WITHIN_S)
        inside(container, f"test -e {self.worktree(bead, 'begun')}")
        return container

    def merged(self, bead: str) -> None:
        """Waits until the remote has it merged, and then until it is closed as that."""

        def closed_as() -> str | None:
            found: str | None = json.loads(self.gastown("bead", "show", bead, "--json"))["bead"]["resolution"]
            return found

        try:
            inside(self.server, f"git -C /tmp/hello.git log --merges main | grep -q 'Gastown-Bead: {bead}$'")
            assert until(f"{bead} is over", closed_as) == "merged"
        except (AssertionError, NoEngine) as error:
            raise AssertionError(f"{error}: {self.gastown('why', bead)} {self.gastown('events')}") from None

    def git(self, *arguments: str) -> str:
        """What the remote has."""
        return docker("exec", self.server, "git", "-C", "/tmp/hello.git", *arguments)

    def workers(self) -> set[str]:
        """The ids of their containers."""
        return set(self.compose("ps", "--quiet", "worker").split())

    def serve_repository(self, label: str, image: str) -> None:
        networks = (f"{self.project}-agents", f"{self.project}_front")
        docker(
            *("run", "--detach", f"--name={self.server}", f"--label={label}", f"--network={networks[0]}"),
            *("--network-alias=git", image, "sh", "-c", REPOSITORY),
        )
        docker("network", "connect", "--alias=git", networks[1], self.server)

    def end(self) -> None:
        network = f"network={self.project}-agents"
        there = docker("ps", "--all", "--quiet", "--filter", network, "--filter", "label=dev.gastown.role=attempt")
        docker("rm", "--force", self.server, *there.split())
        self.compose("down", "--volumes", "--timeout", "1")


def inside(container: str, condition: str) -> None:
    """Wait for it there, which costs less than to ask from outside. Raises NoEngine when it does not come in time."""
    loop = f"until {condition}; do sleep 0.2; done"
    docker("exec", container, "timeout", f"{MERGED_WITHIN_S}", "sh", "-c", loop, timeout_s=MERGED_WITHIN_S + 30)


@pytest.fixture(scope="module")
def compose_command() -> tuple[str, ...]:
    """Skips without compose; but one that `python -m tests.docker up` has fetched has to work."""
    try:
        return compose.ensure().command
    except compose.NoCompose as error:
        if os.environ.get(NEEDED) and compose.kept().exists():
            pytest.fail(f"{NEEDED} is set, and compose does not run: {error}", pytrace=False)
        pytest.skip(f"no docker compose: {error}")


@pytest.fixture(scope="module")
def fleet(
    compose_command: tuple[str, ...],
    tmp_path_factory: pytest.TempPathFactory,
    litter: Session,
    control_image: str,
    agent_image: str,
) -> Iterator[Fleet]:
    """Up, with a rig, and gone at the end with all that it made."""
    project, folder = litter.name("compose"), tmp_path_factory.mktemp("compose")
    images = {
        "GASTOWN_IMAGE": control_image,
        "GASTOWN_AGENT_IMAGE": agent_image,
        "GASTOWN_AGENT_BASE_IMAGE": agent_image,
        "GASTOWN_AGENT_NETWORK": f"{project}-agents",
        "GASTOWN_API_PORT": "0",  # any that is free
        "FLOWER_PORT": "0",
        "DOCKER_GID": str(os.stat("/var/run/docker.sock").st_gid),
    }
    secrets = folder / "secrets"
    secrets.mkdir()
    for name in ("database_password", "broker_password", "grafana_password", "git_token"):
        (secrets / name).write_text(f"{name}-/@:%")
    (secrets / "flower_login").write_text("admin:secret")
    made = Fleet(compose_command, project, folder, images)
    try:
        made.compose("up", "--detach", "--wait", "--scale", "worker=2", timeout_s=UP_TIMEOUT_S)
        made.serve_repository(litter.label, agent_image)
        made.gastown("rig", "add", "git://git/hello.git", "--name=hello", "--agent=shell", "--gate=test -d .")
        yield made
    finally:
        made.end()


@pytest.mark.timeout(900)
def test_from_nothing_to_merged_work(fleet: Fleet) -> None:
    bead = fleet.sling("Greet", "echo hello > hello.txt")
    fleet.merged(bead)
    assert fleet.git("show", "main:hello.txt") == "hello"


@pytest.mark.timeout(900)
def test_workers_are_replaced_while_an_agent_works(fleet: Fleet, control_image: str) -> None:
    """An upgrade loses no attempt, since none runs in a worker: the new one finds it, and it ends as it began."""
    bead = fleet.sling("Go on", WAIT)
    attempt = fleet.attempt_at_work(bead)
    newer, before = f"{control_image}-{fleet.project}", fleet.workers()
    docker("tag", control_image, newer)
    try:
        fleet.environment["GASTOWN_IMAGE"] = newer
        upgrade = ("up", "--detach", "--wait", "--no-deps", "--scale", "worker=1", "worker")
        fleet.compose(*upgrade, timeout_s=UP_TIMEOUT_S)
        [new] = fleet.workers()
        assert new not in before
        docker("exec", attempt, "touch", fleet.worktree(bead, "go"))
        fleet.merged(bead)
        [only] = fleet.attempts(bead)
        assert (only["status"], only["adopted_at"]) == ("succeeded", None)
        assert fleet.git("show", "main:on.txt") == "on"
    finally:
        fleet.environment["GASTOWN_IMAGE"] = control_image
        docker("image", "rm", newer)
