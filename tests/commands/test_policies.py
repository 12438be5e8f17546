"""Numbers that a person changes: in force at once, or refused with both values."""

from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from gastown.commands import policies, towns
from gastown.db import transaction
from gastown.errors import UsageError
from gastown.models import Event, Rig, Town
from gastown.store.policies import load_policies
from tests.builders import a_bead, a_rig, a_town
from tests.races import committed
from tests.ticks import live, tick


@pytest.fixture
def town_id(database: str) -> int:
    return committed(lambda session: a_rig(session).town_id)


def set_town(town_id: int, *unset: str, **changes: Any) -> list[str]:
    return committed(lambda session: policies.change_town_policy(session, town_id, changes, unset))


def set_rig(town_id: int, *unset: str, **changes: Any) -> list[str]:
    def change(session: Session) -> list[str]:
        return policies.change_rig_policy(session, towns.get_rig(session, town_id, "rig"), changes, unset)

    return committed(change)


def test_what_is_set_is_in_force_recorded_and_can_be_taken_back(town_id: int) -> None:
    assert set_town(town_id, max_running=1, backoff_s=[0, 5]) == ["backoff_s unset -> [0, 5]", "max_running unset -> 1"]
    assert set_rig(town_id, max_agent_failures=2) == ["max_agent_failures unset -> 2"]
    assert set_town(town_id, max_running=1) == []
    with transaction() as session:
        found = load_policies(session, town_id)
        [rig] = found.rigs.values()
        assert (found.town.max_running, rig.backoff_s, rig.max_agent_failures) == (1, (0, 5), 2)
        events = session.scalars(select(Event.message).where(Event.kind == "policy_changed").order_by(Event.id)).all()
    assert events == [
        "town default: backoff_s unset -> [0, 5], max_running unset -> 1",
        "rig rig: max_agent_failures unset -> 2",
    ]
    assert set_town(town_id, "max_running") == ["max_running 1 -> unset"]
    with transaction() as session:
        assert load_policies(session, town_id).town.max_running == 4


REFUSED = [
    ({"heartbeat_lease_s": 15}, ("15", "10")),
    ({"max_runing": 3}, ("there is no policy max_runing",)),
    ({"backoff_s": [-1]}, ("-1", "0")),
    ({"max_running": "x"}, ("'x'", "a whole number")),
    ({"node_max_running": 3}, ("cannot be set here",)),
]


@pytest.mark.parametrize(("changes", "words"), REFUSED)
@pytest.mark.parametrize("change", [set_town, set_rig])
def test_nonsense_is_refused_with_its_values_and_changes_nothing(
    town_id: int, change: Any, changes: dict[str, Any], words: tuple[str, ...]
) -> None:
    if change is set_rig and "max_running" in changes:
        words = ("cannot be set here",)
    with pytest.raises(UsageError) as refused:
        change(town_id, **changes)
    for word in words:
        assert word in str(refused.value)
    with transaction() as session:
        assert session.scalars(select(Town.policy)).one() == session.scalars(select(Rig.policy)).one() == {}


def test_a_town_may_not_break_the_numbers_of_a_rig(town_id: int) -> None:
    set_rig(town_id, heartbeat_s=20)
    with pytest.raises(UsageError, match=r"policy of rig rig: .*30.*20") as refused:
        set_town(town_id, heartbeat_lease_s=30)
    assert "nothing was changed" in refused.value.hint


def test_what_another_version_stored_can_be_put_right(town_id: int) -> None:
    def poison(session: Session) -> None:
        a_town(session).policy = {"from_tomorrow": 1, "max_running": 2}
        a_rig(session).policy = 7  # type: ignore[assignment]
        a_rig(session, name="other", policy={"of_yesterday": 1})

    committed(poison)
    assert set_town(town_id, "from_tomorrow") == ["from_tomorrow 1 -> unset"]
    assert set_rig(town_id, rig_max_running=3) == ["rig_max_running unset -> 3", "all that was stored"]
    with transaction() as session:
        found = load_policies(session, town_id)
        assert [str(each) for each in found.wrong.values()] == [
            "policy of rig other: there is no number of this name: of_yesterday = 1"
        ]


@pytest.mark.parametrize("unset", ["max_running", "from_nowhere"])
def test_what_is_not_set_cannot_be_unset(town_id: int, unset: str) -> None:
    with pytest.raises(UsageError, match="is not set here"):
        set_town(town_id, unset)
    with pytest.raises(UsageError, match="both set and unset"):
        set_town(town_id, "max_running", max_running=3)


@pytest.mark.parametrize(
    ("given", "found"),
    [
        (["max_running=3"], {"max_running": 3}),
        (["backoff_s=0, 30,60"], {"backoff_s": [0, 30, 60]}),
        (["backoff_s=[5]", " heartbeat_s = 2.5"], {"backoff_s": [5], "heartbeat_s": 2.5}),
        (["no_such=1"], {"no_such": 1}),
        (["max_running"], None),
        (["max_running="], None),
        (["=3"], None),
        (["max_running=many"], None),
        (["backoff_s=0,x"], None),
    ],
)
def test_assignments_are_read(given: list[str], found: dict[str, Any] | None) -> None:
    if found is None:
        with pytest.raises(UsageError):
            policies.read_assignments(given)
    else:
        assert policies.read_assignments(given) == found


def test_more_room_is_used_at_the_next_tick(town: Town) -> None:
    """Ready beads wait for a slot, whatever the reason: nobody has to be woken."""
    set_town(town.id, max_running=1)
    committed(lambda session: [a_bead(session) for _ in range(3)])
    tick()
    assert len(live()) == 1
    set_town(town.id, max_running=2)
    tick()
    assert len(live()) == 2
