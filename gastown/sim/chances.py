"""What may happen next: each possible step is a label with a weight, and each label can be carried out again."""

import math
from collections.abc import Iterator
from datetime import datetime, timedelta
from random import Random
from typing import TYPE_CHECKING

from gastown.sim.moods import Mood, Theme

if TYPE_CHECKING:
    from gastown.sim.agents import SimAgent
    from gastown.sim.world import World

Chance = tuple[float, str]

# what is worth a step: most of a history would be upkeep otherwise
ACTORS = {"tick": 3.0, "inspect": 1.5, "resync": 1.5}
BEATS = {"reconcile": 0.5, "inspect": 0.15, "sweep": 0.3, "resync": 0.03, "housekeeping": 0.0, "tidying": 0.0}
SWEEP = (" *", " True")
MESSAGES = {"tick": 1.2, "inspect": 0.5, "resync": 0.3}
STATEMENTS = (1, 2, 3, 4, 5, 6, 8, 10, 13, 17, 22)
MAY_PAUSE = ("run ", "deliver ", "agent ", "user ", "lease ")  # what begins, or goes on with, a transaction


class Chances:
    def __init__(self, world: "World") -> None:
        self.world = world
        self.mood = Mood.of(world.seed)

    # ---- drawing -------------------------------------------------------------------------------------

    def draw(self, rng: Random) -> str:
        """The label of the next step."""
        chances = list(self.all())
        often = 0.3 if self.world.oracles.unfinished < 6 else self.mood.wishes
        if self.world.faults_on and rng.random() < often:
            wish = self.world.users.draw(rng)
            if wish is not None:
                return self._with_pause(rng, wish)
        [label] = rng.choices([label for _, label in chances], [weight for weight, _ in chances])
        return self._with_pause(rng, self._with_option(rng, label) if label.startswith("run ") else label)

    def _with_option(self, rng: Random, label: str) -> str:
        actor = self.world.stage.actors[label.removeprefix("run ")]
        faults = self.mood.faults if self.world.faults_on else 0.0
        weights = [each.weight * (faults if each.fault else 1.0) for each in actor.options]
        [option] = rng.choices(actor.options, weights)
        return f"{label}: {option.name}"

    def _with_pause(self, rng: Random, label: str) -> str:
        """Perhaps stopped between two statements, when what others do with the same rows is worth the most."""
        pauses = self.world.faults_on and label.startswith(MAY_PAUSE) and rng.random() < self.mood.within
        return f"{label} ~{rng.choice(STATEMENTS)}" if pauses else label

    def all(self) -> Iterator[Chance]:
        """Everything that can happen now. Without faults: what a fair world owes."""
        yield from self._actors()
        yield from self._messages()
        yield from self._agents()
        yield from self._upkeep()
        yield from self._clock()
        if self.world.faults_on:
            yield from self._faults()

    def _actors(self) -> Iterator[Chance]:
        for actor in self.world.stage.actors.values():
            kind = actor.name.partition(" ")[0]
            weight = ACTORS.get(kind, 6.0)
            if kind == "merge" and self.world.faults_on:
                weight = self.mood.merging
            yield (self.mood.resuming * weight if actor.in_transaction else weight), f"run {actor.name}"

    def _messages(self) -> Iterator[Chance]:
        for message in self.world.broker.waiting():
            for worker in self.world.fleet.takers(message)[:2]:
                weight = 4.0 if message.label.endswith(SWEEP) else MESSAGES.get(message.label.partition(" ")[0], 4.0)
                if self.mood.twice and self._is_under_way(message.label):
                    weight = 0.3  # later is worth more
                yield weight, f"deliver {message.label} to {worker.name}"
            if self.world.faults_on and self.mood.twice and message.label.startswith("merge "):
                yield self.mood.twice, f"double {message.label}"
            if self.world.faults_on and self.mood.losses:
                yield 0.04 * self.mood.losses, f"drop {message.label}"
                yield 0.06 * self.mood.losses, f"double {message.label}"

    def _is_under_way(self, label: str) -> bool:
        return any(name.startswith(f"{label} on ") for name in self.world.stage.actors)

    def _agents(self) -> Iterator[Chance]:
        for node in self.world.nodes.values():
            for agent in node.agents.values():
                for weight, what in agent.choices():
                    if weight:
                        yield 2 * weight, f"agent {agent.name} {what}"
            for spec in node.late:
                yield 1.0, f"late {self.world.name_of(spec.bead_id)}/{spec.epoch}"

    def _upkeep(self) -> Iterator[Chance]:
        world = self.world
        if world.broker.up:
            for (beat, entry), at in world.due.items():
                weight = BEATS[entry]
                if weight and at <= world.now and (world.faults_on or entry != "resync"):
                    yield weight, f"beat {beat} {entry}"
        for worker in world.fleet.workers.values():
            there = worker.up and worker.node.connected and not worker.shutting_down
            due = not worker.joined or (
                worker.takes_starts and worker.beat_at is not None and worker.beat_at <= world.now
            )
            if there and due and self._idle(f"beat of {worker.name}"):
                yield 0.7, f"worker {worker.name} beats"
            if worker.shutting_down and not any(job.worker is worker for job in world.fleet.jobs.values()):
                yield 2.0, f"crash {worker.name}"
            if not worker.up and worker.node.up and worker.node.joined:
                yield (0.6 if world.faults_on else 5.0), f"revive {worker.name}"
        if world.api_up and world.api_beat_at <= world.now and self._idle("beat of api"):
            yield 1.5, "api beats"
        for lease in world.leases:
            if lease.due_at <= world.now and self._idle(f"lease {lease.name}") and lease.worker is not None:
                yield (self.mood.leases if self.world.faults_on else 4.0), f"lease {lease.name} beats"

    def _idle(self, name: str) -> bool:
        return name not in self.world.stage.actors

    def _clock(self) -> Iterator[Chance]:
        """Time goes slowly while much is to be done, and not at all past the limits of an open transaction."""
        world = self.world
        open_since = [actor.paused_at for actor in world.stage.actors.values() if actor.in_transaction]
        if any(world.now - at > timedelta(seconds=5) for at in open_since):
            return
        busy = len(world.stage.actors) + sum(len(queue) for queue in world.broker.queues.values())
        pace = 2.0 / (2 + busy)
        due = self.next_due()
        if due is not None and due > world.now:
            wait_s = math.ceil((due - world.now).total_seconds() * 1000) / 1000
            if not open_since or wait_s <= 5:
                yield pace, f"clock +{wait_s:.3f}"
                yield pace, f"clock +{min(wait_s + 1, max(wait_s, 5)):.3f}"
        if world.faults_on:
            for seconds, weight in self.mood.far:
                if not open_since or seconds <= 5:
                    yield pace * weight * 0.4 * self.mood.jumps, f"clock +{seconds}"

    def next_due(self) -> datetime | None:
        """The earliest moment at which something more can happen."""
        world = self.world
        times = [at for (_beat, entry), at in world.due.items() if BEATS[entry] > 0.1]
        times += [agent.next_beat_at for agent in self._living() if not agent.silent]
        times += [lease.due_at for lease in world.leases]
        beating = [each for each in world.fleet.workers.values() if each.up and each.takes_starts]
        times += [each.beat_at for each in beating if each.beat_at is not None]
        if world.api_up:
            times.append(world.api_beat_at)
        for row in world.oracles.now.tables["beads"].values():
            if row["wake_at"] is not None:
                times.append(datetime.fromisoformat(row["wake_at"]))
        later = [each for each in times if each > world.now]
        return min(later, default=None)

    def _living(self) -> Iterator["SimAgent"]:
        for node in self.world.nodes.values():
            yield from node.agents.values()

    def _faults(self) -> Iterator[Chance]:
        world, deaths, outages = self.world, self.mood.deaths, self.mood.outages
        for actor in world.stage.actors.values():
            yield 0.05 * deaths, f"kill {actor.name}"
        for worker in world.fleet.workers.values():
            if worker.up:
                yield 0.01 * deaths, f"crash {worker.name}"
                yield 0.005 * deaths, f"shut down {worker.name}"
        for node in world.nodes.values():
            if not node.joined:
                yield (0.0 if world.theme is Theme.CONTENTION else 0.02), f"join {node.name}"
            elif node.up:
                yield (
                    (0.02 * outages, f"cut off {node.name}")
                    if node.connected
                    else (self.mood.back, f"connect {node.name}")
                )
                yield 0.01 * deaths, f"reboot {node.name}"
        yield (0.03 * outages, "api goes") if world.api_up else (self.mood.back, "api comes")
        yield (0.03 * outages, "broker goes") if world.broker.up else (0.5, "broker comes")
        yield 0.01 * self.mood.losses, "flush"
        for rig in world.rigs:
            yield 0.02, f"stranger {rig}"

    # ---- carrying out --------------------------------------------------------------------------------

    def perform(self, label: str) -> bool:
        """Do what a label says. False: that is not possible now."""
        label, _, pause = label.partition(" ~")
        self.world.pause_in = int(pause) if pause else None
        verb, _, rest = label.partition(" ")
        match verb:
            case "run":
                return self._run(rest)
            case "deliver" | "drop" | "double":
                return self._message(verb, rest)
            case "agent" | "late":
                return self._agent(verb, rest)
            case "beat" | "worker" | "api" | "lease":
                return self._beat(label, rest)
            case "clock":
                return self._move_clock(float(rest.removeprefix("+")))
            case "user":
                return self.world.users.perform(label)
            case "kill":
                return self._kill(rest)
            case "crash" | "revive" | "shut":
                return self._worker(verb, rest.removeprefix("down "))
            case _:
                return self._outage(label, rest.removeprefix("off "))

    def _run(self, rest: str) -> bool:
        name, _, chosen = rest.rpartition(": ")
        actor = self.world.stage.actors.get(name)
        if actor is None or chosen not in {each.name for each in actor.options}:
            return False
        self.world.advance(actor, chosen)
        return True

    def _message(self, verb: str, rest: str) -> bool:
        world = self.world
        label, _, taker = rest.rpartition(" to ") if verb == "deliver" else (rest, "", "")
        message = world.broker.find(label)
        if message is None:
            return False
        if verb == "drop":
            world.broker.remove(message)
        elif verb == "double":
            world.broker.queues[message.queue].append(message.again())
        else:
            worker = next((each for each in world.fleet.takers(message) if each.name == taker), None)
            if worker is None:
                return False
            world.fleet.deliver(message, worker)
        return True

    def _agent(self, verb: str, rest: str) -> bool:
        name, _, what = rest.partition(" ")
        if verb == "late":
            for node in self.world.nodes.values():
                for spec in [spec for spec in node.late if f"{self.world.name_of(spec.bead_id)}/{spec.epoch}" == name]:
                    node.late.remove(spec)
                    self.world.boot(node, spec)
                    return True
            return False
        agent = next((each for each in self._living() if each.name == name), None)
        if agent is None or what not in {each for weight, each in agent.choices() if weight}:
            return False
        agent.perform(what)
        return True

    def _beat(self, label: str, rest: str) -> bool:
        if label not in {each for _, each in self._upkeep()} and not label.startswith("api "):
            return False
        world = self.world
        match label.split(" "):
            case ["beat", beat, entry]:
                world.tick(beat, entry)
            case ["worker", name, _]:
                world.beat_node(world.fleet.workers[name])
            case ["api", "beats"]:
                if "api beats" not in {each for _, each in self._upkeep()}:
                    return False
                world.beat_api()
            case ["api", way]:
                world.api_up = way == "comes"
            case ["lease", name, _]:
                next(each for each in world.leases if each.name == name).beat()
        return True

    def _move_clock(self, seconds: float) -> bool:
        if any(actor.in_transaction for actor in self.world.stage.actors.values()) and seconds > 5:
            return False
        self.world.move_clock(seconds)
        return True

    def _kill(self, name: str) -> bool:
        actor = self.world.stage.actors.get(name)
        if actor is None:
            return False
        job = self.world.fleet.jobs.get(name)
        if job is not None:
            self.world.fleet.kill(job)
        else:
            self.world.kill(actor)
        return True

    def _worker(self, verb: str, name: str) -> bool:
        worker = self.world.fleet.workers[name]
        if verb == "revive":
            if worker.up or not worker.node.up or not worker.node.joined:
                return False
            self.world.fleet.revive(worker)
        elif not worker.up:
            return False
        elif verb == "shut":
            worker.shutting_down = True
        else:
            self.world.fleet.crash(worker)
        return True

    def _outage(self, label: str, name: str) -> bool:
        world = self.world
        match label.split(" ")[0]:
            case "cut":
                world.nodes[name].connected = False
            case "connect":
                world.nodes[name].connected = True
            case "join":
                world.nodes[name].joined = True
            case "reboot":
                node = world.nodes[name]
                for worker in [each for each in world.fleet.workers.values() if each.node is node and each.up]:
                    world.fleet.crash(worker)
                for agent in list(node.agents.values()):
                    agent.leave()
                node.late.clear()
            case "broker":
                world.broker.up = name == "comes"
            case "flush":
                world.broker.flush()
            case "stranger":
                world.targets.stranger(world.rigs[name][1])
            case _:
                return False
        return True
