"""One simulated installation: towns, machines, workers, agents, people, a clock, and all that may happen next.

Each step is one label, such as `deliver start B3/2 to w1`. What is enabled is drawn by weights; a label alone says what
to do, so that a list of labels is a history that can be replayed, in part or whole.
"""

import sys
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import structlog

from gastown.beat_schedule import BEAT_SCHEDULE
from gastown.commands import towns
from gastown.db import in_transaction, transaction
from gastown.errors import DatabaseUnavailable
from gastown.models import Town
from gastown.reconcile.policy import Policy
from gastown.runtimes import RunSpec
from gastown.sim import seams
from gastown.sim.actors import Actor, Killed, Stage
from gastown.sim.agents import SimAgent
from gastown.sim.broker import SimBroker
from gastown.sim.chances import Chances
from gastown.sim.database import Server
from gastown.sim.moods import THEMES, Mood, Theme, policies_of
from gastown.sim.nodes import Node, SimRuntime
from gastown.sim.oracles import Oracles, Row, Snapshot
from gastown.sim.target import SimTargets, sha
from gastown.sim.users import Users
from gastown.sim.workers import Fleet, SimLease, Worker
from gastown.store import services, workers
from gastown.store.views import API
from gastown.tasks import fleet

NOON = datetime(2026, 1, 5, 12, tzinfo=UTC)
NODE_BEAT_S, API_BEAT_S = fleet.NODE_BEAT_S, services.API_BEAT_S
BEATS = ("beat-1", "beat-2")


class Broken(Exception):
    """An invariant does not hold."""

    def __init__(self, invariant: str, detail: str) -> None:
        super().__init__(f"{invariant}: {detail}")
        self.invariant, self.detail = invariant, detail


class World:
    """Everything of one seed. `perform` does what a label says; `Chances` draws labels."""

    def __init__(self, server: Server, seed: int) -> None:
        self.server, self.seed = server, seed
        self.now = NOON
        self.step = 0
        self.stage = Stage()
        self.broker = SimBroker(self.stage, lambda: self.now, self.name_of_argument)
        self.targets = SimTargets(self.stage, mends=Mood.of(seed).mends)
        self.runtime = SimRuntime(self.stage, self.boot, self)
        self.fleet = Fleet(self)
        self.oracles = Oracles(self)
        self.broker.on_publish = self.oracles.note_published
        self.broker.is_read, self.broker.on_pile = self.fleet.is_read, self.oracles.note_pile
        self.users = Users(self)
        self.chances = Chances(self)
        self.theme = self.chances.mood.theme
        self.failing = self.theme is Theme.FAILING  # the rig or the node on which nothing starts
        self.api = SimpleNamespace(name="api", node=None)
        self.api_up = self.faults_on = True
        self.api_beat_at = self.now
        self.nodes: dict[str, Node] = {}
        self.towns: dict[str, int] = {}
        self.rigs: dict[str, tuple[int, int]] = {}
        self.beads: dict[str, tuple[str, int]] = {}  # name -> id and town
        self.names: dict[str, str] = {}  # id -> name
        self.leases: list[SimLease] = []
        self.stands: dict[str, frozenset[str]] = {}  # bead -> the commits below the work of its attempts
        self.ended: dict[str, str] = {}  # attempt -> outcome of its accepted report
        self.due: dict[tuple[str, str], datetime] = {}  # of each beat and entry
        self.broken: Broken | None = None
        self.pause_in: int | None = None  # statements until the actor of this step stops within its transaction
        self.policies: list[tuple[int, Snapshot]] = []

    # ---- set-up --------------------------------------------------------------------------------------

    @contextmanager
    def running(self) -> Iterator["World"]:
        """In a database of its own, with the product's outside replaced."""
        with self.server.fresh(self.stage, self.now), seams.installed(self):
            self._populate()
            self.oracles.connect()
            try:
                self.oracles.look(None)
                yield self
            finally:
                self.oracles.close()
                for actor in list(self.stage.actors.values()):
                    self.kill(actor)

    def _populate(self) -> None:
        """Two towns that share machines; workers for starts, for ticks and inspections, for merges, as in a fleet."""
        with transaction() as session:
            for name, rigs in (("town", ("r1", "r2")), ("other", ("r3",))):
                self.towns[name] = town_id = towns.ensure_town(session, name)
                for rig in rigs:
                    review = "shell" if self.chances.mood.reviews and rig != "r2" else None
                    new = towns.NewRig(
                        name=rig, repository=f"/srv/{rig}", branch="main", agent="shell", review_agent=review
                    )
                    self.rigs[rig] = (town_id, towns.add_rig(session, town_id, new).id)
            services.beat(session, API)
            for name, policy in policies_of(self.theme).items():
                session.get_one(Town, self.towns[name]).policy = policy
            batch = {"merge_batch": self.chances.mood.batch}
            for town_id in self.towns.values() if batch["merge_batch"] > 1 else ():
                town = session.get_one(Town, town_id)
                town.policy = town.policy | batch
        crowded = self.theme is Theme.CONTENTION
        for name, capacity in (("a", 1 if crowded else 2), ("b", 2), ("c", 1)):
            self.nodes[name] = Node(name, capacity, joined=name == "a" or (name == "b" and not crowded))
        for name, node, queues in (
            ("w1", "a", ("node.a",)),
            ("v1", "a", ("control",)),
            ("u1", "a", ("watch.a", "upkeep")),
            ("w2", "b", ("node.b",)),
            ("v2", "b", ("control",)),
            ("w3", "b", ("node.b", "watch.b", "upkeep")),
            ("w4", "c", ("control", "node.c", "watch.c")),
            ("m1", "a", ("merge",)),
            ("m2", "b", ("merge",)),
        ):
            self.fleet.workers[name] = Worker(name, self.nodes[node], queues, up=self.nodes[node].joined)
        for beat in BEATS:
            for entry in BEAT_SCHEDULE:
                self.due[beat, entry] = self.now
        self.api_back_at = self.now
        self.now += timedelta(minutes=2)  # the API has been there for a lease: silence says something
        self.server.now = self.now
        with transaction() as session:
            services.beat(session, API)

    # ---- what the product meets ----------------------------------------------------------------------

    def before_transaction(self, actor: Actor) -> None:
        if actor.where != "begins":
            self.stage.pause("before a transaction")
        elif actor.killed:
            raise Killed
        actor.where = "in a transaction"
        actor.began_at_step = self.step
        node = actor.home.node
        if node is not None and not node.connected:
            raise DatabaseUnavailable("the network is gone")

    def is_shutting_down(self) -> bool:
        actor = self.stage.current
        return actor is not None and getattr(actor.home, "shutting_down", False)

    def on_log(self, _logger: Any, method: str, event: MutableMapping[str, Any]) -> Any:
        """An error in the log is a fault of the product; nothing else is printed."""
        ours = isinstance(sys.exception(), OSError)  # the simulation's own: a full disk, say
        if method in ("error", "exception", "critical") and not ours:
            words = " ".join(f"{key}={value}" for key, value in event.items() if key != "exc_info")
            self.fail("an error was logged", words)
        raise structlog.DropEvent

    def boot(self, node: Node, spec: RunSpec) -> None:
        if spec.name not in node.agents and node.up:
            node.agents[spec.name] = SimAgent(self, node, spec)

    def starts_fail(self, node: Node, spec: RunSpec) -> bool:
        """Nothing starts on one rig, or on one node, by the number of the seed."""
        if not self.failing:
            return False
        if self.seed // len(THEMES) % 2:
            return node.name == "b"
        return self.is_of_failing_rig(self.oracles.now.tables["beads"][spec.bead_id]["rig_id"])

    def is_of_failing_rig(self, rig_id: int) -> bool:
        return self.failing and self.seed // len(THEMES) % 2 == 0 and rig_id == self.rigs["r1"][1]

    def name_of(self, key: Any) -> str:
        """What an id is called in labels: the same in every run, whatever the ids are."""
        text = str(key)
        if text in self.names:
            return self.names[text]
        now = self.oracles.now.tables
        if text in now["dispatches"]:
            row = now["dispatches"][text]
            self.names[text] = f"{self.name_of(row['bead_id'])}/{row['epoch']}"
        elif text in now["beads"] and now["beads"][text]["mr_id"] is not None:
            source = self.name_of(now["merge_requests"][now["beads"][text]["mr_id"]]["bead_id"])
            made = sum(name.startswith(f"{source}.") for name in self.names.values() if "/" not in name)
            self.names[text] = f"{source}.{made + 1}"
        elif text in now["beads"] and now["beads"][text]["purpose"] == "landing":
            row = now["beads"][text]
            rig = next(name for name, (_town_id, rig_id) in self.rigs.items() if rig_id == row["rig_id"])
            self.names[text] = f"{now['convoys'][row['convoy_id']]['name']}-{rig}"
        return self.names.get(text, text)

    def name_of_merge(self, row: Row) -> str:
        """That of the attempt which made its head; a landing's has none."""
        return self.name_of(row["dispatch_id"] or row["bead_id"])

    def name_of_argument(self, task: str, value: Any) -> str:
        """Of a task's message: a town's, a merge request's, or that of what an id means everywhere."""
        if task == "gastown.reconcile":
            return next((name for name, key in self.towns.items() if key == value), str(value))
        if task == "gastown.merge":
            row = self.oracles.now.tables["merge_requests"].get(value)
            return str(value) if row is None else self.name_of_merge(row)
        return self.name_of(value)

    def promise_bead(self, name: str, key: str, town_id: int) -> None:
        """It is being slung. Until its transaction is there, nobody can speak of it."""
        self.names[key] = name
        self.promised = (name, key, town_id)

    def wip_of(self, agent: SimAgent) -> str:
        return sha("wip", agent.name, agent.work)

    def fail(self, invariant: str, detail: str) -> None:
        """Kept until the step ends: an actor's thread must not be torn. The first one counts."""
        if self.broken is None and not (self.stage.current is not None and self.stage.current.killed):
            self.broken = Broken(invariant, detail)

    # ---- steps ---------------------------------------------------------------------------------------

    def take(self, label: str) -> bool:
        """Do what the label says, then look at everything. False: it is not possible now. Raises Broken."""
        self.step += 1
        self.moved: Actor | None = None
        if not self.chances.perform(label):
            return False
        self.look()
        return True

    def look(self) -> None:
        self.oracles.look(self.moved)
        rows = self.oracles.now.tables["beads"]
        new = {self.name_of(key): key for key, row in rows.items() if row["purpose"] is not None or key in self.names}
        for name in sorted(new.keys() - self.beads.keys()):
            self.beads[name] = (new[name], rows[new[name]]["town_id"])
        self._note_policies()
        if self.broken is not None:
            raise self.broken

    def advance(self, actor: Actor, chosen: str = "go") -> None:
        """Let an actor run to where something else may happen; within a transaction where the label said so."""
        pause_in, self.pause_in = self.pause_in, None
        workers.this_life = getattr(actor.home, "this_life", "0" * 12)
        self.moved = actor
        self.stage.resume(actor, chosen, pause_in)
        actor.paused_at = self.now
        if actor.done and actor.on_end is not None:
            actor.on_end(actor)

    def kill(self, actor: Actor) -> None:
        self.server.generation += 1
        self.stage.kill(actor)
        if actor.on_end is not None:
            actor.on_end(actor)

    def move_clock(self, seconds: float) -> None:
        """Time goes by. The API goes on beating meanwhile, or nothing could be said about silence after it."""
        until = self.now + timedelta(seconds=seconds)
        while self.now < until:
            self.now = min(until, self.now + timedelta(seconds=API_BEAT_S))
            self.server.now = self.now
            if seconds > API_BEAT_S and self.api_up:
                in_transaction(lambda session: services.beat(session, API))
                self.api_beat_at = self.now + timedelta(seconds=API_BEAT_S)
        self.fleet.enforce_limits()

    def do(self, name: str, work: Callable[[], Any], home: Any) -> None:
        """Some upkeep, as an actor of its own."""
        self.advance(self.stage.add(name, work, home=home))

    def beat_node(self, worker: Worker) -> None:
        worker.beat_at = self.now + timedelta(seconds=NODE_BEAT_S)
        node = worker.node if worker.takes_starts else None

        def beat() -> None:
            if node is not None:
                in_transaction(lambda session: towns.beat_node(session, node.name, "process", node.capacity))
            if not worker.joined:
                fleet.rejoin(worker.hostname, node.name if node else None)
                worker.joined = True

        self.do(f"beat of {worker.name}", beat, worker)

    def beat_api(self) -> None:
        self.api_beat_at = self.now + timedelta(seconds=API_BEAT_S)
        self.do("beat of api", lambda: in_transaction(lambda session: services.beat(session, API)), self.api)

    def tick(self, beat: str, entry: str) -> None:
        each = BEAT_SCHEDULE[entry]
        self.due[beat, entry] = self.now + timedelta(seconds=each["schedule"])
        options = each["options"]
        self.broker.put(each["task"], each["args"], options["queue"], options["expires"])

    # ---- limits in force -----------------------------------------------------------------------------

    def _note_policies(self) -> None:
        now, last = self.oracles.now, self.policies[-1][1] if self.policies else None
        if last is None or any(now.tables[table] != last.tables[table] for table in ("towns", "rigs", "nodes")):
            self.policies.append((self.step, now))

    def limits_since(self, step: int, new: Row, before: Snapshot, after: Snapshot) -> dict[str, int]:
        """The widest limits that were in force since that step: a change may be a moment old."""
        from_then = [snapshot for at, snapshot in self.policies if at >= step]
        earlier = [snapshot for at, snapshot in self.policies if at < step][-1:]
        all_of_them = (*earlier, *from_then, before, after)
        found = [self._limits(snapshot, new) for snapshot in all_of_them if snapshot.tables["towns"]]
        return {what: max(limits[what] for limits in found) for what in found[0]}

    @staticmethod
    def _limits(snapshot: Snapshot, new: Row) -> dict[str, int]:
        town = snapshot.tables["towns"][new["town_id"]]
        rig = snapshot.tables["rigs"][new["rig_id"]]
        policy = Policy.of(town["policy"], rig["policy"])
        closed = town["paused"] or rig["paused"]
        node = snapshot.tables["nodes"].get(new["node_id"])
        return {
            "town_id": 0 if closed else Policy.of(town["policy"]).max_running,
            "rig_id": policy.rig_max_running,
            "node_id": 0 if node is None or node["draining"] else node["capacity"],
        }

    def budget_since(self, step: int, town_id: int) -> float | None:
        """The widest budget of a town that was in force since that step, in USD. None: there was none."""
        earlier = [snapshot for at, snapshot in self.policies if at < step][-1:]
        found = [
            Policy.of(snapshot.tables["towns"][town_id]["policy"]).budget_usd_per_day
            for snapshot in (*earlier, *(each for at, each in self.policies if at >= step), self.oracles.now)
        ]
        return None if 0 in found else max(found)
