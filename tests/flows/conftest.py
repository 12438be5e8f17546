"""A whole stack for flow tests: real Postgres, Redis, workers, beat, API and agents; only faults are scripted."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.flows.town import Town, run_town

# backoffs and a merge lease that a test can wait for; the leases of attempts stay as they are
QUICK = {"backoff_s": [0, 0.5], "inspect_start_s": 1, "merge_lease_s": 15}


@pytest.fixture(scope="module")
def shared_town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    """One stack for the tests of a module that leave it as they found it."""
    with run_town(tmp_path_factory.mktemp("flow"), policy=QUICK) as town:
        yield town


@pytest.fixture
def town(shared_town: Town, monkeypatch: pytest.MonkeyPatch) -> Iterator[Town]:
    """The shared stack, with a repository and a rig of this test's own."""
    with shared_town.entered(monkeypatch):
        shared_town.new_rig()
        yield shared_town


@pytest.fixture
def own_town(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Town]:
    """A stack of this test alone, to be broken."""
    with run_town(tmp_path, policy=QUICK) as town, town.entered(monkeypatch):
        town.new_rig()
        yield town


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker("flow")
            if item.get_closest_marker("timeout") is None:
                item.add_marker(pytest.mark.timeout(600))
