"""A product that histories can be played on."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Clock
from tests.model.playing import Board


@pytest.fixture
def board(clock: Clock, own_home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Board]:
    """Town after town in one database, each played on alone."""
    board = Board(clock, own_home, monkeypatch)
    yield board
    board.end()
