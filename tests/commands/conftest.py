"""A town to start in."""

import pytest

from gastown.db import transaction
from gastown.models import Town
from tests.builders import a_node, a_rig, a_town, the_api_is_there


@pytest.fixture
def town(database: str) -> Town:
    """A town with a rig, a node that beats and an API that is there."""
    with transaction() as session:
        the_api_is_there(session)
        a_node(session)
        a_rig(session)
        return a_town(session)
