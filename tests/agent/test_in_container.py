"""The supervisor as process 1 of a real container."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from gastown.agent.mirror import Mirror
from gastown.db import transaction
from gastown.models import Bead, Rig
from gastown.runtimes import registry
from gastown.states import BeadStatus, DispatchStatus, Resolution
from gastown.tasks import bead_homes
from tests.agent.town import eventually, git, make_repository
from tests.builders import an_attempt
from tests.conftest import Clock
from tests.runtimes.containers import ContainerTown

pytestmark = pytest.mark.docker

LOOK = """
for f in environ maps fd/0; do cat /proc/1/$f > /dev/null 2>&1 && echo "read $f"; done
python3 -c 'import socket; socket.socket()' 2>&1 | tail -1
touch /new "$0/new" 2>&1 | grep -c 'Read-only'
for n in 1 2 3; do (sh -c true &) ; done
echo "parent $PPID"
"""


@pytest.fixture
def contained(tmp_path: Path, agent_image: str) -> Iterator[ContainerTown]:
    for folder in (tmp_path, *tmp_path.parents):
        if folder != Path("/") and not folder.stat().st_mode & 0o001:
            folder.chmod(folder.stat().st_mode | 0o011)
    Path(os.environ["HOME"], ".gitconfig").write_text("[safe]\n\tdirectory = *\n")  # it is the containers' user's
    town = ContainerTown(tmp_path, make_repository(tmp_path / "origin.git"), agent_image)
    yield town
    town.close()


def test_what_an_agent_gets_of_its_container(contained: ContainerTown) -> None:
    """No network, no look into the supervisor, no place to write to but its own; and the node's objects to read."""
    node = Mirror.open(contained.home, 7, str(contained.repository))
    node.fetch()
    contained.container = contained.container.model_copy(update={"network": "none"})
    argv = ["/bin/sh", "-c", LOOK, str(node.path)]
    attempt = contained.run("", argv=argv)
    denied = "PermissionError: [Errno 13] Permission denied"
    assert attempt.output.decode().splitlines() == [denied, "2", "parent 1"], contained.supervisor_log(attempt)
    assert contained.files(attempt).exit_code() == 0
    own = contained.home / "beads" / "gt-1" / "mirrors" / "7.git" / "objects"
    assert not [path for path in own.glob("*/*") if path.parent.name != "info"], "all of it is the node's"


def test_what_a_killed_container_left_is_saved_in_another(
    contained: ContainerTown, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(registry.FACTORIES, "docker", lambda: contained.runtime)
    registry.get.cache_clear()
    with transaction() as session:
        row = an_attempt(session, DispatchStatus.FAILED)
        rig = session.get_one(Rig, row.rig_id)
        rig.repository, rig.container = str(contained.repository), contained.container.model_dump(include={"image"})
        bead_id, rig_id, name = row.bead_id, row.rig_id, str(row.id)
    attempt = contained.sling(
        "echo hours > work.txt; echo up; sleep 300", bead=bead_id, rig_id=rig_id, dispatch_id=name
    )
    contained.start(attempt)
    contained.wait_output(attempt, b"up")
    contained.runtime.engine.remove(contained.look(attempt)["Id"])
    with transaction() as session:
        bead = session.get_one(Bead, bead_id)
        bead.status, bead.resolution, bead.closed_at = BeadStatus.CLOSED, Resolution.CANCELED, clock.now
        bead.wake_at = None
    home = contained.home / "beads" / bead_id
    assert home.is_dir()
    bead_homes.tidy_bead_homes(contained.home, 30)
    registry.get.cache_clear()
    eventually(lambda: not home.exists())
    mirror = contained.home / "mirrors" / f"{rig_id}.git"
    assert git("show", f"refs/gastown/wip/{bead_id}/1:work.txt", cwd=mirror) == "hours"
