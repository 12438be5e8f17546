"""Seeds run one after another, in a place of their own, with what a person wants to know of it."""

import os
import secrets
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from gastown import settings
from gastown.sim.database import Server, server
from gastown.sim.runs import STEPS, Outcome, replay, run_seed, shorten

Say = Callable[[str], None]


@contextmanager
def place() -> Iterator[Server]:
    """A server and an empty home; no setting of the person's is in force meanwhile."""
    kept = {name: value for name, value in os.environ.items() if name.startswith("GASTOWN_")}
    with tempfile.TemporaryDirectory(prefix="gastown-sim-") as home:
        for name in kept:
            del os.environ[name]
        os.environ["GASTOWN_HOME"] = home
        settings.get_settings.cache_clear()
        try:
            with server() as made:
                yield made
        finally:
            del os.environ["GASTOWN_HOME"]
            os.environ.update(kept)
            settings.get_settings.cache_clear()


@dataclass
class Totals:
    """What was simulated, and what failed first."""

    seeds: list[int] = field(default_factory=list)
    steps: int = 0  # those that were drawn, and those of settling
    seconds: float = 0.0
    failure: Outcome | None = None

    @property
    def steps_per_s(self) -> float:
        return self.steps / self.seconds if self.seconds else 0.0

    def add(self, outcome: Outcome) -> None:
        self.seeds.append(outcome.seed)
        self.steps += len(outcome.labels) + outcome.settled
        if not outcome.passed:
            self.failure = outcome


def fresh_seed() -> int:
    return secrets.randbelow(1_000_000_000)


def run(made: Server, seed: int | None, seeds: int, steps: int = STEPS, say: Say = lambda _: None) -> Totals:
    """One seed after another, until one fails. A given seed is followed by the next numbers."""
    totals, began = Totals(), time.monotonic()
    for number in range(seeds):
        outcome = run_seed(made, fresh_seed() if seed is None else seed + number, steps)
        totals.add(outcome)
        totals.seconds = time.monotonic() - began
        say(_line(outcome, totals))
        if not outcome.passed:
            break
    return totals


def run_again(made: Server, seed: int, labels: list[str]) -> Totals:
    totals, began = Totals(), time.monotonic()
    totals.add(replay(made, seed, labels))
    totals.seconds = time.monotonic() - began
    return totals


def shortest(made: Server, outcome: Outcome, within_s: float = 60.0) -> Outcome:
    return shorten(made, outcome, within_s)


def _line(outcome: Outcome, totals: Totals) -> str:
    ended = f"settled after {outcome.settled}" if outcome.passed else f"BROKEN: {outcome.invariant}: {outcome.detail}"
    return f"seed {outcome.seed}: {len(outcome.labels)} steps, {ended} ({totals.steps_per_s:.0f} steps/s)"


def default_file(outcome: Outcome) -> Path:
    return Path(f"gastown-sim-{outcome.seed}.json")
