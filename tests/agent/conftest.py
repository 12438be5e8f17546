from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.agent.town import Town, make_repository


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return make_repository(tmp_path / "origin.git")


@pytest.fixture
def town(tmp_path: Path, repository: Path) -> Iterator[Town]:
    town = Town(tmp_path, repository)
    yield town
    town.close()
