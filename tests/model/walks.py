"""Histories out of the specification's graph of states: at random, to each kind of step, and to what it forbids."""

import random
import re
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from tests.model.specification import lines, load
from tests.model.states import State

WORLDS = (
    {"attempts": 2, "faults": 2},
    {"cancels": 1, "retries": 1},
    {"attempts": 2, "cancels": 1},
    {"agents": 2, "cancels": 1, "retries": 1},
    {"attempts": 2, "faults": 2, "capacity": 2},
    {"beads": 2, "agents": 2},
    {"beads": 2, "agents": 2, "capacity": 2},
    {"beads": 2, "agents": 2, "cancels": 1},
)
# Too many states to explore, which a walk at random does not need.
WIDE = (
    {"attempts": 4, "faults": 6, "cancels": 2, "retries": 2},
    {"beads": 3, "agents": 3, "capacity": 2, "workers": 3, "attempts": 3, "faults": 4, "cancels": 2, "retries": 2},
    {"beads": 2, "agents": 3, "capacity": 2, "workers": 3, "attempts": 2, "faults": 5, "cancels": 1, "retries": 1},
)
LENGTH = 30  # of a recorded walk at random
REFUSED = "refused: "  # the product is asked for it, and says no, or nothing comes of it
REFUSALS = 0.1  # how often, in a walk at random
AFTER = 6  # steps of a directed walk that go on at random


@dataclass
class Walk:
    """Labels, and after each the state that the specification is in. A step that it does not have is REFUSED."""

    world: dict[str, int]
    why: str
    steps: list[tuple[str, str | None]] = field(default_factory=list)
    states: list[State] = field(default_factory=list)

    def labels(self) -> list[str]:
        return [label.removeprefix(REFUSED) for label, _variant in self.steps]


def kind_of(label: str) -> str:
    """What it does and how that ends, whoever it is about."""
    return re.sub(r"\d+", "N", label)


def protocol(world: dict[str, int], off: frozenset[str] = frozenset()) -> Any:
    model = load()
    return model.Protocol(model.World(**world), set(off), set())


def options(spec: Any, state: Any) -> list[tuple[str, Any, str]]:
    """Steps that the product can take as well, with the state after each."""
    found = []
    for label, after, kind, _broken in spec.steps(state):
        if _is_possible(state, label):
            found.append((label, spec.settle(after), kind))
    return sorted(found, key=lambda step: step[0])


def _is_possible(state: Any, label: str) -> bool:
    """Merges into one target go one after another in the product: not while another may still be in its push."""
    starts = re.fullmatch(r"merge of (\d+) starts, next \w+", label)
    if starts is None:
        return True
    others = [bead.mr for bead in state.beads if bead.mr and bead.mr[0] != int(starts[1])]
    return all(phase != "pushing" for _number, phase in others)


VARIANTS = {
    r"worker start\(\d+\) dies before inspect": ("unreachable", "seen by its parent", None),
    r"worker start\(\d+\) dies before (call|finish)": ("seen by its parent", None),
    r"worker start\(\d+\) call: start_refused": ("start_refused loudly", None),
    r"tick on bead \d+: look_later": ("the API is away", None),
    r"tick on bead 0: expire (\d+) \w+": ("seen to be gone", None),
}


def _variant(state: Any, label: str, chance: random.Random) -> str | None:
    for pattern, ways in VARIANTS.items():
        found = re.fullmatch(pattern, label)
        if found and "expire" in label and not _can_be_seen(state, int(found[1])):
            return None
        if found:
            return chance.choice(ways)
    return None


def _can_be_seen(state: Any, number: int) -> bool:
    """That it is gone. An inspection looks at all there is, so only where there is nothing else to find."""
    inside = any(job and job[0] == "start" for job in state.workers)
    return len(state.beads) == 1 and state.boxes[number] in ("absent", "gone") and not inside


def extend(walk: Walk, spec: Any, state: Any, label: str, after: Any, chance: random.Random) -> Any:
    walk.steps.append((label, _variant(state, label, chance)))
    walk.states.append(lines(after))
    return after


def random_walk(world: dict[str, int], seed: int, length: int = LENGTH) -> Walk:
    """From the start until everything rests, or for as many steps. Idle steps are rare."""
    chance, spec = random.Random(seed), protocol(world)
    walk, state = Walk(world, f"random {seed}"), spec.start()
    return _wander(walk, spec, state, chance, set(), length)


def _wander(walk: Walk, spec: Any, state: Any, chance: random.Random, wanted: set[str], length: int) -> Walk:
    for _ in range(length):
        steps = options(spec, state)
        if not steps:
            break
        if (never := refused(spec, state)) and chance.random() < REFUSALS:
            _refuse(walk, chance.choice(never), state)
        weights = [_weight(state, after, kind, kind_of(label) in wanted) for label, after, kind in steps]
        [(label, after, _kind)] = chance.choices(steps, weights)
        wanted.discard(kind_of(label))
        state = extend(walk, spec, state, label, after, chance)
    return walk


def _refuse(walk: Walk, label: str, state: Any) -> None:
    walk.steps.append((REFUSED + label, None))
    walk.states.append(lines(state))


def refused(spec: Any, state: Any) -> list[str]:
    """What somebody may ask for at any time, and must not get now."""
    found, idle = [], None in state.workers
    for number, bead in enumerate(state.beads):
        over = bead.status in ("merged", "canceled")  # of one that failed it says nothing
        if over or (bead.mr and bead.mr[1] == "pushing"):
            found.append(f"user cancels bead {number}")
        if bead.status in ("in_review", "merged"):
            found.append(f"user retries bead {number}")
    for number, row in enumerate(state.rows):
        if idle and row.status != "queued":
            found.append(f"a worker takes a copy of start({number})")
        if not spec.stoppable(state, number):
            found += [f"sweep finds orphan {number}"] + [f"a worker takes a copy of stop({number})"] * idle
        elif ("beat", number) not in state.messages:
            found.append(f"held-up heartbeat of {number} arrives: 409")
    return found


def _weight(state: Any, after: Any, kind: str, wanted: bool) -> float:
    if wanted:
        return 1000.0
    if after == state:
        return 0.2
    return {"work": 6.0, "user": 2.0}.get(kind, 1.0)


def all_kinds(world: dict[str, int], limit: int = 200_000) -> dict[str, list[str]]:
    """Each kind of step that can be taken in this world, with the labels of a shortest way to it."""
    spec = protocol(world)
    first = spec.start()
    origin: dict[Any, tuple[Any, str]] = {first: (None, "")}
    queue, found = deque([first]), {}
    while queue and len(origin) < limit:
        state = queue.popleft()
        for label, after, _kind in options(spec, state):
            if kind_of(label) not in found:
                found[kind_of(label)] = [*_way(origin, state), label]
            if after not in origin:
                origin[after] = (state, label)
                queue.append(after)
    return found


def _way(origin: dict[Any, tuple[Any, str]], state: Any) -> list[str]:
    way: list[str] = []
    while origin[state][0] is not None:
        state, label = origin[state]
        way.append(label)
    return way[::-1]


def directed_walk(world: dict[str, int], way: list[str], seed: int, wanted: set[str]) -> Walk:
    """Along these labels, then on at random until everything rests."""
    chance, spec = random.Random(seed), protocol(world)
    walk, state = Walk(world, f"to {kind_of(way[-1])}"), spec.start()
    for label in way:
        after = next(after for each, after, _kind in options(spec, state) if each == label)
        wanted.discard(kind_of(label))
        state = extend(walk, spec, state, label, after, chance)
    return _wander(walk, spec, state, chance, wanted, AFTER)


def counterexample(name: str, worlds: tuple[dict[str, int], ...] = WORLDS[:3], limit: int = 60_000) -> Walk | None:
    """What the specification does on the shortest way to where it breaks without this protection, but with it.

    Where it parts from that way, it is asked for the step and answers otherwise, or the step is forbidden.
    """
    model = load()
    for world in worlds:
        _states, _steps, broken, trace = model.explore(protocol(world, frozenset({name})), limit)
        if broken and not broken.startswith("??"):
            return _followed(world, name, trace)
    return None


def _followed(world: dict[str, int], name: str, trace: list[str]) -> Walk:
    spec, walk, chance = protocol(world), Walk(world, f"without {name}"), random.Random(0)
    state = spec.start()
    for label in trace:
        steps = options(spec, state)
        same = next((step for step in steps if step[0] == label), None)
        same = same or next((step for step in steps if _asked(step[0]) == _asked(label)), None)
        if same is None:
            _refuse(walk, label, state)
            break
        state = extend(walk, spec, state, same[0], same[1], chance)
    return walk


def _asked(label: str) -> str:
    """The step without its outcome."""
    return re.sub(r": .*", "", label)
