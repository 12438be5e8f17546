"""Records the histories anew: `python -m tests.model.record`. Needs the specification; takes a minute or two."""

import itertools
import sys

from tests.model import histories
from tests.model.walks import VARIANTS, WORLDS, Walk, all_kinds, counterexample, directed_walk, kind_of, random_walk

RANDOM_WALKS = 2  # of each world
BREAKING = (
    "rollback_guarded",
    "rollback_before_running",
    "finish_accepts_running",
    "raise_inspects",
    "adopt_checks_epoch",
    "adopt_checks_hook",
    "adopt_lost",
    "adopt_only_unreported",
    "every_call_adopts",
    "done_repeatable",
    "stop_only_fenced",
    "cancel_atomic",
    "merge_fence",
)


def record() -> list[Walk]:
    """A walk to each kind of step of each world, some at random, and the ways on which a protection is missed."""
    walks, covered = [], set[str]()
    for number, world in enumerate(WORLDS):
        ways = all_kinds(world)
        wanted = ways.keys() - covered
        for kind in sorted(wanted, key=lambda kind: -len(ways[kind])):
            if kind in wanted:
                walks.append(directed_walk(world, ways[kind], len(walks), wanted))
        covered |= ways.keys()
        walks += [random_walk(world, 1000 * number + seed) for seed in range(RANDOM_WALKS)]
    walks += _with_each_variant(walks)
    for name in BREAKING:
        walk = counterexample(name)
        assert walk is not None, f"the specification holds without {name}"
        walks.append(walk)
    assert covered <= {kind_of(label) for walk in walks for label, _variant in walk.steps}
    return walks


def _with_each_variant(walks: list[Walk]) -> list[Walk]:
    """More walks at random, for what none of these has taken."""
    missing = {each for ways in VARIANTS.values() for each in ways} - _variants(walks)
    more = []
    for seed in itertools.count(100_000):
        if not missing:
            break
        walk = random_walk(WORLDS[0], seed)
        if missing & _variants([walk]):
            more.append(walk)
            missing -= _variants([walk])
    return more


def _variants(walks: list[Walk]) -> set[str | None]:
    return {variant for walk in walks for _label, variant in walk.steps}


def main() -> int:
    walks = record()
    size = histories.write(walks)
    steps = sum(len(walk.steps) for walk in walks)
    sys.stdout.write(f"{len(walks)} walks, {steps} steps, {size} bytes\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
