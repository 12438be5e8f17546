"""One seed after another: drawn, settled, judged; and a failing one replayed and made short."""

import json
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from gastown.db import transaction
from gastown.sim.database import Server
from gastown.sim.rest import forgotten, misasked, replay_decisions, restless
from gastown.sim.world import Broken, World
from gastown.tasks import correcting

STEPS = 1000  # of one seed: enough for a town to be in every state, few enough to be shortened
SETTLE_STEPS = 6000
SETTLE_HOURS = 12
FAIR_STEPS, FAIR_HOURS = 4000, 6  # until what fails may keep nothing else back any more


@dataclass
class Outcome:
    """What became of one history."""

    seed: int
    labels: list[str] = field(default_factory=list)
    settled: int = 0  # steps after the faults were switched off
    invariant: str | None = None
    detail: str = ""

    @property
    def passed(self) -> bool:
        return self.invariant is None


def run_seed(server: Server, seed: int, steps: int = STEPS) -> Outcome:
    """Draw a history of this seed, then let everything settle."""
    rng = Random(seed)
    return _judged(server, seed, lambda world: (world.chances.draw(rng) for _ in range(steps)))


def replay(server: Server, seed: int, labels: Iterable[str]) -> Outcome:
    """The same history again; labels that are not possible any more are left out."""
    return _judged(server, seed, lambda world: labels)


def _judged(server: Server, seed: int, history: Callable[[World], Iterable[str]]) -> Outcome:
    outcome = Outcome(seed)
    world = World(server, seed)
    try:
        with world.running():
            for label in history(world):
                outcome.labels.append(label)
                if not world.take(label):
                    outcome.labels.pop()
            outcome.settled = settle(world)
    except Broken as broken:
        outcome.invariant, outcome.detail = broken.invariant, broken.detail
    return outcome


def settle(world: World) -> int:
    """Faults off, everything that can happen happens in turn: it must come to rest. Raises Broken. Steps it took."""
    _mend(world)
    rng = Random(world.seed)
    steps = 0
    if world.failing:
        steps += _wait(world, rng, _kept_back, FAIR_STEPS, FAIR_HOURS)
        kept_back = _kept_back(world)
        if kept_back:
            raise Broken("what fails keeps back what does not", "; ".join(kept_back))
        world.failing = False
    steps += _wait(world, rng, _restless, SETTLE_STEPS, SETTLE_HOURS)
    left = _restless(world)
    if left:
        raise Broken("it does not come to rest", "; ".join(left))
    with transaction() as session:
        _raise_any("a wake-up was forgotten", forgotten(session))
        _raise_any("a decision does not replay", replay_decisions(session))
    if correcting.correct():
        raise Broken("a wake-up was forgotten", "resync had something to wake")
    with transaction() as session:
        _raise_any("a person is asked for no reason, or not asked", misasked(session))
    return steps


def _wait(world: World, rng: Random, left: Callable[[World], list[str]], steps: int, hours: float) -> int:
    """Until nothing is left, for so many steps or hours at most. The steps that it took."""
    end = world.now.timestamp() + hours * 3600
    for step in range(steps):
        if (step % 50 == 0 and not left(world)) or world.now.timestamp() > end:
            return step
        world.take(world.chances.draw(rng))
    return steps


def _raise_any(invariant: str, found: list[str]) -> None:
    if found:
        raise Broken(invariant, "; ".join(found[:3]))


def _kept_back(world: World) -> list[str]:
    """Beads that could be done although nothing starts on that rig or node, and are not."""
    rows = world.oracles.now.tables["beads"].values()
    return restless(row for row in rows if not world.is_of_failing_rig(row["rig_id"]))


def _mend(world: World) -> None:
    """Everything is there again, and nobody asks for anything but that what is paused or drained goes on."""
    world.faults_on = False
    world.api_up = world.broker.up = True
    for node in world.nodes.values():
        node.connected = node.up = True
    for actor in [each for each in world.stage.actors.values() if each.name.startswith("user ")]:
        world.kill(actor)  # or it would pause or drain once more, after what follows
    for name in [actor.name for actor in world.stage.actors.values() if actor.in_transaction]:
        world.take(f"run {name}: go")  # or it would keep the rows that what follows needs
    for name in ("town", *world.rigs):
        world.take(f"user resume {name}")
    for name in world.nodes:
        world.take(f"user open {name}")
    world.take("user policy max_running 3")
    world.take("user policy rig_max_running 2")


def _restless(world: World) -> list[str]:
    fenced = [
        f"{agent.name} is fenced and still there"
        for node in world.nodes.values()
        for key, agent in node.agents.items()
        if key in world.oracles.fenced
    ]
    return fenced + restless(world.oracles.now.tables["beads"].values())


def save(outcome: Outcome, path: Path) -> None:
    data = {"seed": outcome.seed, "invariant": outcome.invariant, "detail": outcome.detail, "labels": outcome.labels}
    path.write_text(json.dumps(data, indent=1) + "\n")


def load(path: Path) -> tuple[int, list[str]]:
    data = json.loads(path.read_text())
    return int(data["seed"]), [str(each) for each in data["labels"]]


def shorten(server: Server, outcome: Outcome, within_s: float = 60.0) -> Outcome:
    """The shortest history found in that time that breaks the same: parts are left out, half of it first."""
    best, deadline = outcome, time.monotonic() + within_s
    size = max(1, len(best.labels) // 2)
    while time.monotonic() < deadline:
        shorter = None
        for start in range(0, len(best.labels), size):
            if time.monotonic() > deadline:
                break
            tried = replay(server, best.seed, best.labels[:start] + best.labels[start + size :])
            if tried.invariant == best.invariant and len(tried.labels) < len(best.labels):
                shorter = tried
                break
        if shorter is not None:
            best = shorter
        elif size == 1:
            break
        size = max(1, min(size, len(best.labels)) // (1 if shorter is not None else 2))
    return best
