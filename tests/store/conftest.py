"""A town to start in."""

from pathlib import Path

import pytest

from gastown.db import transaction
from gastown.models import Town
from tests.builders import a_node, a_rig, a_town, the_api_is_there
from tests.conftest import Clock
from tests.store import reviewing


@pytest.fixture
def town(clock: Clock) -> Town:
    """A town with a rig, a node that beats and an API that is there."""
    with transaction() as session:
        the_api_is_there(session)
        a_node(session)
        a_rig(session, gates=["make test"], setup="make", environment={"A": "1"})
        return a_town(session)


@pytest.fixture
def town_id(town: Town) -> int:
    return town.id


@pytest.fixture
def reader(town_id: int, own_home: Path) -> None:
    """The rig asks for reviews."""
    reviewing.prepare(own_home)
