from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.agent.town import Town, make_repository


@pytest.fixture
def town(tmp_path: Path) -> Iterator[Town]:
    town = Town(tmp_path, make_repository(tmp_path / "origin.git"))
    yield town
    town.close()
