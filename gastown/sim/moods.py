"""What a seed is like. Many kinds of histories show more than one in which everything goes a little wrong.

Each seed has a theme, by its number: what it is mostly about. Races are drawn often enough only where few beads share
few places and whoever is paused stays paused for a while.
"""

from dataclasses import dataclass, replace
from enum import StrEnum
from random import Random
from typing import Any


class Theme(StrEnum):
    MIXED = "mixed"
    CONTENTION = "contention"  # two towns share one node of one place, and actors stop between two statements
    MERGING = "merging"  # much is done; leases run out, pushes have no answer, people cancel meanwhile
    OUTAGES = "outages"  # the API and machines are away for longer than a lease, and come back
    FAILING = "failing"  # nothing starts on one rig or one node
    SLOW = "slow"  # hours go by: stalls, overtime, budgets, rate limits


THEMES = tuple(Theme)
MENDING_FROM = 10_000
Jumps = tuple[tuple[int, float], ...]  # seconds, weight
NEAR: Jumps = ((1, 2.0), (5, 1.0), (20, 0.4), (60, 0.3), (400, 0.03), (4000, 0.004))
FAR: Jumps = ((1, 1.0), (20, 0.6), (60, 0.6), (600, 0.5), (1800, 0.3), (7200, 0.15))


@dataclass(frozen=True)
class Mood:
    """`of` a seed: weights, of which 1 is usual."""

    faults: float  # of calls of the outside
    deaths: float  # of processes, workers and machines
    losses: float  # of messages
    outages: float
    agents: float  # that die or hang
    within: float  # how often an actor is stopped between two statements of a transaction
    wishes: float  # how often people ask for something
    haste: float  # how soon agents are done
    jumps: float  # of the clock
    theme: Theme = Theme.MIXED
    resuming: float = 0.5  # of an actor that is stopped in a transaction, against others
    leases: float = 4.0  # how soon the lease of a merge is beaten
    merging: float = 6.0  # how soon a merge goes on
    back: float = 0.4  # how soon what is away comes back
    waking: float = 0.08  # of an agent that fell silent
    aimed: float = 0.0  # how often people ask it of a bead at which somebody is just now
    twice: float = 0.0  # how often the message of a merge that is under way comes once more
    far: Jumps = NEAR
    mends: bool = False  # agents mend what holds a merge, and merges conflict and are red more often
    batch: int = 1  # of merges, at first
    convoys: bool = False
    reviews: bool = False  # two of the three rigs want each head approved

    @classmethod
    def of(cls, seed: int) -> "Mood":
        rng = Random(seed)
        some = (0.0, 1.0, 3.0, 8.0)
        faults, deaths, losses, outages, agents = (rng.choice(some) for _ in range(5))
        mixed = cls(
            faults=faults,
            deaths=deaths,
            losses=losses,
            outages=outages,
            agents=agents,
            within=rng.choice((0.0, 0.1, 0.3)),
            wishes=rng.choice((0.03, 0.08, 0.15)),
            haste=rng.choice((0.1, 0.4, 1.0)),
            jumps=rng.choice((0.3, 1.0, 2.5)),
        )
        theme = THEMES[seed % len(THEMES)]
        mood = replace(mixed, theme=theme, **OF[theme])
        if not _mends(seed):
            return mood
        nth, batch = seed // len(THEMES) % 8, rng.choice((1, 2, 3, 4))
        return replace(mood, mends=True, batch=batch, convoys=nth in (2, 6), reviews=nth in (0, 2))


def _mends(seed: int) -> bool:
    """Every second seed of each theme; of the low ones none, by which most mutants are known."""
    return seed >= MENDING_FROM and seed // len(THEMES) % 2 == 0


OF: dict[Theme, dict[str, Any]] = {
    Theme.MIXED: {},
    Theme.CONTENTION: {
        "faults": 0.3,
        "deaths": 0.2,
        "losses": 0.3,
        "outages": 0.0,
        "agents": 1.0,
        "within": 0.6,
        "resuming": 0.15,
        "wishes": 0.15,
        "haste": 1.0,
        "aimed": 0.6,
    },
    Theme.MERGING: {
        "agents": 0.3,
        "deaths": 0.3,
        "outages": 0.3,
        "faults": 1.0,
        "losses": 0.3,
        "haste": 2.0,
        "within": 0.1,
        "wishes": 0.1,
        "leases": 0.4,
        "merging": 1.0,
        "aimed": 0.7,
        "jumps": 4.0,
        "twice": 1.0,
    },
    Theme.OUTAGES: {
        "faults": 0.3,
        "deaths": 0.3,
        "losses": 0.3,
        "outages": 2.5,
        "agents": 2.0,
        "haste": 0.2,
        "back": 0.2,
        "waking": 0.4,
        "jumps": 2.5,
        "aimed": 0.4,
    },
    Theme.FAILING: {"faults": 0.3, "deaths": 0.3, "losses": 0.3, "outages": 0.3, "jumps": 2.5},
    Theme.SLOW: {"deaths": 0.3, "outages": 0.3, "agents": 2.0, "haste": 0.1, "jumps": 2.0, "far": FAR},
}


def policies_of(theme: Theme) -> dict[str, dict[str, Any]]:
    """Of the two towns, from the beginning."""
    capped = {"attempt_cap_usd": 2.0}
    match theme:
        case Theme.SLOW:
            return {"town": capped | {"budget_usd_per_day": 9.0}, "other": capped | {"budget_usd_per_day": 5.0}}
        case Theme.MERGING:
            return {name: {"merge_lease_s": 8.0} for name in ("town", "other")}
        case Theme.FAILING:
            return {"town": {"town_breaker_failures": 6}, "other": capped}
        case _:
            return {"other": capped}


ASKED_MORE: dict[Theme, dict[str, float]] = {
    Theme.CONTENTION: {"cancel": 1.6, "hold": 1.0, "block": 0.8, "unblock": 1.6},
    Theme.MERGING: {"sling": 8.0, "cancel": 2.0, **dict.fromkeys(("hold", "pause", "drain", "close", "policy"), 0.0)},
    Theme.OUTAGES: {"cancel": 1.6, "hold": 1.2},
    Theme.SLOW: {"release": 2.0},
}
ENDED_MORE: dict[Theme, dict[str, float]] = {  # how agents end more often than usual
    Theme.MERGING: {"fails": 0.1},
    Theme.SLOW: {"fails: auth_failed": 0.3, "fails: rate_limited": 0.6},
}
