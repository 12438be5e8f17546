"""A worker of a node with containers is gone, and another one comes: it looks what runs there, and what does not."""

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from gastown.models import Town
from gastown.runtimes import registry
from gastown.states import DispatchStatus
from gastown.tasks import containers, fleet
from tests.agent.town import make_repository
from tests.builders import a_node, an_attempt, attempts_on, now
from tests.conftest import Clock
from tests.races import committed
from tests.runtimes.containers import ContainerTown
from tests.ticks import take_messages, tick

pytestmark = pytest.mark.docker

STARTING, RUNNING = DispatchStatus.STARTING, DispatchStatus.RUNNING
KILLED = 137


@pytest.fixture
def there(tmp_path: Path, agent_image: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[ContainerTown]:
    """Real containers. The runtime that the tasks have is another one than that which starts them."""
    found = ContainerTown(tmp_path, make_repository(tmp_path / "origin.git"), agent_image)
    monkeypatch.setitem(registry.FACTORIES, "docker", found.new_runtime)
    registry.get.cache_clear()
    yield found
    registry.get.cache_clear()
    found.close()


@pytest.mark.parametrize(("status", "end"), [(STARTING, "rolled_back"), (RUNNING, "lost")])
def test_what_outlives_its_worker_goes_on(
    town: Town, clock: Clock, there: ContainerTown, status: DispatchStatus, end: str
) -> None:
    attempt = there.sling("echo up; sleep 300")
    there.start(attempt)
    there.wait_output(attempt, b"up")
    node = committed(lambda session: a_node(session, "docks", runtime="docker"))
    row = committed(
        lambda session: an_attempt(
            session, status, node=node, id=uuid.UUID(attempt.name), claimed_by="worker@a/0123456789ab"
        )
    )
    fleet.rejoin("worker@a", "docks")
    if status is STARTING:  # nobody is inside its start any more, so its node is asked at once
        assert ("gastown.inspect_containers", ["docks"]) in take_messages("watch.docks")
    containers.inspect_containers("docks", True)
    tick()
    assert (now(row).status, now(row).seen) == (status, "present")
    assert take_messages("node.docks") == []  # what is not fenced is not swept

    with there.runtime.engine.asked("kill it") as client:
        client.kill(there.look(attempt)["Id"])
    clock.advance(1)
    containers.inspect_containers("docks")
    tick()
    assert (now(row).status, now(row).seen_exit_code) == (end, KILLED)
    assert [each.status for each in attempts_on(row.bead_id)] == [end, "queued"]
    take_messages("node.docks")
    containers.inspect_containers("docks", True)  # replaced, so it is fenced, and its container is removed
    assert take_messages("node.docks") == [("gastown.stop_container", [attempt.name])]
    containers.stop_container(attempt.name)
    assert there.runtime.engine.look(f"gastown-{attempt.name}") is None


def test_what_this_database_does_not_know_is_left_alone(town: Town, there: ContainerTown) -> None:
    """It may be of another one, on the same engine with the same home."""
    attempt = there.sling("echo up; sleep 300")
    there.start(attempt)
    committed(lambda session: a_node(session, "docks", runtime="docker"))
    containers.inspect_containers("docks", True)
    assert take_messages("node.docks") == []
    containers.stop_container(attempt.name)
    assert there.look(attempt)["State"]["Status"] == "running"
