"""The project's own worker image on a real engine, against real brokers: whatever is killed, no bead is lost.

What became of it is read in Postgres.
"""

import pytest

from tests.docker.conftest import BROKERS
from tests.docker.fleet import stop, until
from tests.docker.litter import docker
from tests.docker.town import Town

WRITE = "echo done > $GASTOWN_BEAD.txt"

both_brokers = pytest.mark.parametrize("celery_broker_cluster", BROKERS, indirect=True)


@both_brokers
def test_failed_starts_are_given_up_by_the_callbacks(town: Town) -> None:
    """S01, S02, S05: the codes tell who did it: on_failure, on_success of a falsy result, and the parent's signal."""
    raises, falsy = town.fleet.sling(WRITE, {1: "raise"}), town.fleet.sling(WRITE, {1: "refuse"})
    killed, works = town.fleet.sling(WRITE, {1: "kill_child"}), town.fleet.sling(WRITE)
    town.fleet.merged(raises, falsy, killed, works)
    assert town.fleet.ends(raises) == [("rolled_back", "start_error"), ("succeeded", None)]
    assert town.fleet.ends(falsy) == [("rolled_back", "start_refused"), ("succeeded", None)]
    assert [status for status, _ in town.fleet.ends(killed)] == ["rolled_back", "succeeded"]
    assert town.fleet.ends(works) == [("succeeded", None)]
    for bead in (raises, falsy, killed):
        first, second = town.fleet.attempts(bead)
        assert first.started_at is None
        assert first.agent_id == second.agent_id, "the agent kept its hook"


@both_brokers
def test_worker_is_killed_inside_a_start(town: Town) -> None:
    """S05: its container is gone with all that ran in it. The next one asks after what was claimed."""
    at_work = town.fleet.sling(f"{WRITE}; test $GASTOWN_EPOCH != 1 || sleep 300")
    until("its agent works", lambda: [each.started_at for each in town.fleet.attempts(at_work) if each.started_at])
    bead = town.fleet.sling(WRITE, {1: "kill_worker"})
    until("the worker is dead", lambda: not town.runs(town.worker))
    later = town.fleet.sling(WRITE)
    town.start_again(town.worker)
    town.fleet.merged(bead, at_work, later)
    assert [status for status, _ in town.fleet.ends(bead)] == ["rolled_back", "succeeded"]
    assert [status for status, _ in town.fleet.ends(at_work)] == ["lost", "succeeded"]


@both_brokers
def test_broker_is_killed_and_comes_back_empty(town: Town) -> None:
    """G5: the worker reconnects, and what was queued is published again."""
    at_work = town.fleet.sling(f"sleep 5; {WRITE}")
    until("its agent works", lambda: [each.started_at for each in town.fleet.attempts(at_work) if each.started_at])
    worker = town.since(town.worker)
    docker("kill", town.broker)
    meanwhile = [town.fleet.sling(WRITE) for _ in range(2)]
    town.start_again(town.broker)
    town.fleet.merged(at_work, *meanwhile)
    assert town.since(town.worker) == worker, "the worker was not started again"
    assert [len(town.fleet.attempts(each)) for each in (at_work, *meanwhile)] == [1, 1, 1]


def test_broker_is_paused(town: Town) -> None:
    """It answers nobody for a while, and refuses nobody either."""
    at_work = town.fleet.sling(f"sleep 2; {WRITE}")
    until("its agent works", lambda: [each.started_at for each in town.fleet.attempts(at_work) if each.started_at])
    worker = town.since(town.worker)
    docker("pause", town.broker)
    bead = town.fleet.sling(WRITE)
    until("its agent has ended", lambda: town.fleet.attempts(at_work)[0].status == "succeeded")
    docker("unpause", town.broker)
    town.fleet.merged(at_work, bead)
    assert town.since(town.worker) == worker
    assert [len(town.fleet.attempts(each)) for each in (at_work, bead)] == [1, 1]


def test_warm_shutdown_ends_the_start_first(town: Town) -> None:
    """SIGTERM, as `docker stop` sends it: the start that is under way comes to its end, and the exit code is 0."""
    bead = town.fleet.sling(WRITE, {1: "slow 6"})
    until("it is starting", lambda: [each for each in town.fleet.attempts(bead) if each.status == "starting"])
    assert stop(town.worker, "TERM") == 0
    [first] = town.fleet.attempts(bead)
    assert first.call_ended_at is not None, "the call did not come to its end"
    town.start_again(town.worker)
    town.fleet.merged(bead)


def test_cold_shutdown_leaves_the_start_to_inspection(town: Town) -> None:
    """SIGQUIT: no hook is called anywhere. The next worker finds nothing there, and gives the start up."""
    bead = town.fleet.sling(WRITE, {1: "slow 50"})
    until("it is starting", lambda: [each for each in town.fleet.attempts(bead) if each.status == "starting"])
    stop(town.worker, "QUIT")
    [first] = town.fleet.attempts(bead)
    assert (first.status, first.call_ended_at) == ("starting", None)
    town.start_again(town.worker)
    town.fleet.merged(bead)
    assert [status for status, _ in town.fleet.ends(bead)] == ["rolled_back", "succeeded"]


def test_two_beats_do_nothing_twice(town: Town) -> None:
    """Each fires everything: the lock of a town, and the claim of a start, let one of two through."""
    town.add_beat()
    beads = [town.fleet.sling(f"{WRITE}; echo $GASTOWN_EPOCH >> epochs-$GASTOWN_BEAD") for _ in range(6)]
    for _ in range(3):
        town.call("gastown.reconcile")
    town.fleet.merged(*beads)
    assert [town.fleet.ends(each) for each in beads] == [[("succeeded", None)]] * len(beads)
    assert [town.fleet.read(f"epochs-{each}") for each in beads] == ["1"] * len(beads)
