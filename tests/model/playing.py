"""A walk on the product: after each step, both have to be in the same state."""

import difflib
from pathlib import Path

import pytest

from tests.conftest import Clock
from tests.model.outside import Outside, take_place
from tests.model.states import State
from tests.model.steps import Diverged, Player
from tests.model.town import ModelTown
from tests.model.walks import Walk


class Board:
    """Where walks are played, one after the other, each in a town of its own."""

    def __init__(self, clock: Clock, home: Path, patch: pytest.MonkeyPatch) -> None:
        self.clock, self.home, self.patch = clock, home, patch
        self.player: Player | None = None
        self.walks = self.steps = 0

    def play(self, walk: Walk) -> None:
        """Raises Diverged at the first step after which the product is not where the specification is."""
        player = self._new_player(walk)
        for number, ((label, variant), expected) in enumerate(zip(walk.steps, walk.states, strict=True)):
            self.steps += 1
            try:
                found = player.play(label, variant)
            except Exception as error:
                raise Diverged(self._said(walk, number, repr(error), [])) from error
            if found != expected:
                raise Diverged(self._said(walk, number, "", list(difflib.ndiff(expected, found))))
        violations = player.town.violations()
        assert violations == [], f"{walk.why}: {violations}"

    def _new_player(self, walk: Walk) -> Player:
        self.end()
        self.walks += 1
        outside = Outside()
        take_place(outside, self.patch)
        world = {"beads": 1, "agents": 1, "capacity": 1} | walk.world
        self.player = Player(ModelTown(f"town-{self.walks}", world, self.clock, self.home, outside))
        return self.player

    def end(self) -> None:
        """Nothing is left running of the last walk."""
        if self.player is not None:
            self.player.end()
            self.player = None

    @staticmethod
    def _said(walk: Walk, number: int, error: str, difference: State) -> str:
        way = [f"  {i:3} {label} {variant or ''}" for i, (label, variant) in enumerate(walk.steps[: number + 1], 1)]
        return "\n".join([f"{walk.why} in {walk.world}, step {number + 1}: {error}", *way, *difference])
