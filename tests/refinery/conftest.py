"""Rigs to merge into, merge workers that can be killed, and what the kills came to, at the end of the run."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from gastown.agent.git import git
from tests.conftest import Clock
from tests.refinery import faulty
from tests.refinery.people import gated, person, published, set_up  # noqa: F401 (fixtures)
from tests.refinery.rig import Rig, commit, rig_on
from tests.refinery.town import Town


@pytest.fixture
def checkout(tmp_path: Path, own_home: Path) -> Rig:
    """A rig that is a person's own checkout, on main."""
    remote = tmp_path / "checkout"
    git("init", "--quiet", "--initial-branch=main", str(remote))
    commit(remote, {"README": "hello\n", "code.py": "one = 1\n"}, "first")
    return rig_on(remote, tmp_path, own_home)


@pytest.fixture
def bare(tmp_path: Path, own_home: Path, checkout: Rig) -> Rig:
    """A rig that is a bare repository, as on a server."""
    remote = tmp_path / "server.git"
    git("clone", "--quiet", "--bare", str(checkout.remote), str(remote))
    return rig_on(remote, tmp_path, own_home)


@pytest.fixture(params=["checkout", "bare"])
def rig(request: pytest.FixtureRequest) -> Rig:
    found = request.getfixturevalue(request.param)
    assert isinstance(found, Rig)
    return found


@pytest.fixture(scope="session")
def workers() -> Iterator[faulty.Workers]:
    with faulty.running() as found:
        yield found


@pytest.fixture
def town(bare: Rig, workers: faulty.Workers, clock: Clock, tmp_path: Path) -> Town:
    return Town(bare, workers, clock, tmp_path)
