"""The numbers in force, also where what is stored makes no sense."""

import pytest

from gastown.db import transaction
from gastown.models import Town
from gastown.reconcile.policy import Policy
from gastown.store.policies import load_policies, policy_of, town_policy
from tests.builders import a_rig

NONSENSE = [
    (7, "7 is stored"),
    ([{"max_running": 1}], "is stored"),
    (None, "null is stored"),
    ({"from_tomorrow": 3}, "from_tomorrow = 3"),
    ({"max_running": "many"}, "max_running = 'many'"),
    ({"backoff_s": [{}]}, "backoff_s"),
    ({"heartbeat_lease_s": 15, "heartbeat_s": 10}, "15"),
]


@pytest.mark.parametrize(("stored", "says"), NONSENSE)
def test_a_rig_whose_numbers_make_no_sense_has_the_towns_and_is_named(town: Town, stored: object, says: str) -> None:
    with transaction() as session:
        session.get_one(Town, town.id).policy = {"republish_s": [7, 8]}
        rig, other = a_rig(session), a_rig(session, name="other", policy={"rig_max_running": 2})
        rig.policy = stored  # type: ignore[assignment]
    with transaction() as session:
        found = load_policies(session, town.id)
        assert found.town.republish_s == found.rigs[rig.id].republish_s == (7, 8)
        assert found.rigs[other.id].rig_max_running == 2
        assert set(found.wrong) == {rig.id}
        assert found.wrong[rig.id].startswith("policy of rig rig: ")
        assert says in found.wrong[rig.id]
        assert found.wrong_for(other.id) is None
        assert policy_of(session, rig.id) == found.town


@pytest.mark.parametrize(("stored", "says"), NONSENSE)
def test_a_town_whose_numbers_make_no_sense_has_the_settings(town: Town, stored: object, says: str) -> None:
    with transaction() as session:
        session.get_one(Town, town.id).policy = stored  # type: ignore[assignment]
        rig = a_rig(session)
        rig.policy = {"rig_max_running": 2}
    with transaction() as session:
        found = load_policies(session, town.id)
        assert found.town == town_policy(session, town.id) == Policy()
        assert found.rigs[rig.id].rig_max_running == policy_of(session, rig.id).rig_max_running == 2
        assert set(found.wrong) == {None}
        assert says in str(found.wrong_for(rig.id))


def test_a_rig_of_a_wrong_town_is_not_blamed_for_it(town: Town) -> None:
    with transaction() as session:
        session.get_one(Town, town.id).policy = {"heartbeat_lease_s": 300, "no_such": 1}
        a_rig(session).policy = {"heartbeat_s": 60}
    with transaction() as session:
        assert set(load_policies(session, town.id).wrong) == {None}
