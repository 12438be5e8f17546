"""One server for all simulations of the session, and what they came to, at the end of the run."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from gastown.sim.database import Server, server


@pytest.fixture(scope="session")
def sim_server() -> Iterator[Server]:
    with server() as made:
        yield made


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.timeout(3600))
