"""What a check of `gastown doctor` comes to."""

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    GOOD = "good"
    ODD = "odd"  # it works, and somebody ought to know
    BAD = "bad"
    LEFT = "left"  # not checked: it does not apply here, or rests on something that is bad


@dataclass(frozen=True)
class Finding:
    """`next` is what to do about it; empty when there is nothing."""

    name: str
    level: Level
    what: str
    next: str = ""
