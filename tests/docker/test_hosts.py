"""S32: three hosts with agents at work: one is cut off, one killed, one sleeps through its lease. Nothing is doubled.

Each host is a container with its own name, address, disk and worker; its agents are processes in it. The rig's remote
is reached by the network as well, so that a host that is cut off is cut off from everything.
"""

import time
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pytest

from gastown.db import transaction
from gastown.models import Rig
from tests import tables
from tests.docker.fleet import GIVE_UP_S, SHARED, Fleet, state_of, until
from tests.docker.litter import Session, docker
from tests.docker.town import CELERY

CUT_S = 60
LEASES = {
    "heartbeat_s": 2,
    "heartbeat_lease_s": 15,
    "node_silence_s": 20,
    "api_silence_s": 10,
    "republish_s": [3, 6],
    "queued_timeout_s": 12,
    "backoff_s": [0, 0.5],
    "inspect_start_s": 2,
}
TABLE = "hosts: what happened, seconds until its attempt was given up, the next one queued, merged; how the first ended"
# The first attempt on a bead works until somebody ends it; each says what it is in the file and in what it commits.
WORK = (
    "echo by-$GASTOWN_EPOCH > $GASTOWN_BEAD.txt; "
    f"test $GASTOWN_EPOCH != 1 || {{ touch {SHARED}/begun-$GASTOWN_BEAD; sleep 900; }}"
)


class Hosts:
    """Three of them, a spare one that comes later, and a center with database, broker, API, beat and ticks."""

    def __init__(self, fleet: Fleet, litter: Session, agent_image: str) -> None:
        self.fleet, self.names = fleet, litter
        self.containers: list[str] = []
        redis = ("redis-server", "--protected-mode", "no", "--bind", "0.0.0.0", "--save", "")
        daemon = ("git", "daemon", "--export-all", "--enable=receive-pack", f"--base-path={SHARED}")
        self.redis, self.remote = self._run("redis", "redis:7", *redis), self._run("remote", agent_image, *daemon)
        with transaction() as session:
            session.query(Rig).one().repository = f"git://{self.remote}/repository.git"
        self._add(fleet.api, "center", "api")
        self._add(litter.name("beat"), "center", "beat")
        self._worker("center", "control,upkeep,merge")

    def _run(self, name: str, image: str, *command: str) -> str:
        container = self.names.name(name)
        self.containers.append(container)
        other = Fleet(folder=self.fleet.folder, database="", image=image, network=self.fleet.network)
        return other.run(container, {"HOME": "/tmp"}, *command[1:], entrypoint=command[0])

    def _add(self, container: str, node: str, *command: str, entrypoint: str = "gastown", **more: str) -> str:
        self.containers.append(container)
        environment = self.fleet.environment(f"redis://{self.redis}:6379/0", node, **more)
        return self.fleet.run(container, environment, *command, entrypoint=entrypoint)

    def _worker(self, node: str, queues: str, **more: str) -> str:
        name = self.names.name(node)
        worker = (*CELERY[1:], "worker", f"--hostname=all@{name}", f"--queues={queues}", "--concurrency=2")
        return self._add(name, node, *worker, "--without-gossip", "--without-mingle", entrypoint="python", **more)

    def add(self, node: str, capacity: int) -> str:
        """Its container. The node is there when it beats."""
        return self._worker(node, f"node.{node},watch.{node}", GASTOWN_NODE_CAPACITY=str(capacity))

    def supervised(self, host: str) -> list[str]:
        """What runs there of attempts."""
        return [line for line in docker("top", host, "-eo", "pid,args").splitlines() if "gastown.agent" in line]

    def end(self) -> None:
        docker("rm", "--force", "--volumes", *self.containers)


@pytest.fixture
def hosts(fleet: Fleet, litter: Session, agent_image: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hosts]:
    fleet.set_policy(LEASES, monkeypatch)
    hosts = Hosts(fleet, litter, agent_image)
    try:
        yield hosts
        fleet.check()
    finally:
        hosts.end()


@pytest.mark.timeout(900)
def test_hosts_are_cut_off_killed_and_put_to_sleep(hosts: Hosts) -> None:
    fleet = hosts.fleet
    host = {node: hosts.add(node, 1) for node in ("cut", "killed", "asleep")}
    until("the hosts are there", lambda: fleet.beating(*host))
    beads = [fleet.sling(WORK) for _ in host]
    until("an agent works on each", lambda: all((fleet.folder / f"begun-{each}").exists() for each in beads))
    bead = {fleet.places(each)[0]: each for each in beads}
    assert bead.keys() == host.keys()

    hosts.add("spare", 4)
    until("the spare host is there", lambda: fleet.beating("spare"))
    struck_at, cut = fleet.now(), time.monotonic()
    docker("network", "disconnect", fleet.network, host["cut"])
    docker("kill", host["killed"])
    docker("pause", host["asleep"])

    fleet.merged(*beads, timeout_s=2 * GIVE_UP_S)
    assert state_of(host["asleep"])["Paused"]
    docker("unpause", host["asleep"])
    until("it has been cut off for a minute", lambda: time.monotonic() - cut >= CUT_S)
    docker("network", "connect", fleet.network, host["cut"])
    for node in ("cut", "asleep"):
        until(f"the attempt on {node} was told and has ended", lambda node=node: not hosts.supervised(host[node]))  # type: ignore[misc]
    until("both take work again", lambda: fleet.beating("cut", "asleep", "spare"))

    for node, each in bead.items():
        lost, *_, done = fleet.attempts(each)
        assert (lost.status, done.status) == ("lost", "succeeded"), fleet.ends(each)
        assert fleet.merge_commits(each) == 1
        assert fleet.read(f"{each}.txt") == f"by-{done.epoch}", "merged is the work of the attempt that was served"
        report(fleet, node, each, struck_at)
    for node in ("cut", "asleep"):
        kept = fleet.git("show", f"refs/gastown/wip/{bead[node]}/1:{bead[node]}.txt")
        assert kept == "by-1", "the work of the attempt that was superseded is archived"
    late = [fleet.sling("echo late > $GASTOWN_BEAD.txt") for _ in range(6)]
    fleet.merged(*late, timeout_s=2 * GIVE_UP_S)


def report(fleet: Fleet, node: str, bead: str, struck_at: datetime) -> None:
    lost, *_, done = fleet.attempts(bead)

    def after(moment: Any) -> str:
        return f"{(moment - struck_at).total_seconds():6.1f}"

    tables.add(
        TABLE, f"{node:8} {after(lost.ended_at)} {after(done.queued_at)} {after(fleet.merged_at(bead))}  {lost.code}"
    )
