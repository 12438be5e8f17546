"""Dependencies that are made and dropped after the beads."""

import pytest
from sqlalchemy import select

from gastown.commands import edges
from gastown.db import transaction
from gastown.errors import NotFound, Refused
from gastown.models import Bead, BeadDependency
from gastown.states import BeadStatus
from tests.builders import a_bead, a_town

pytestmark = pytest.mark.usefixtures("database")


def two_beads(**values: object) -> tuple[int, str, str]:
    with transaction() as session:
        first, second = a_bead(session, **values), a_bead(session)
        return a_town(session).id, first.id, second.id


def blockers_of(bead_id: str) -> list[str]:
    with transaction() as session:
        return list(session.scalars(select(BeadDependency.blocker_id).where(BeadDependency.bead_id == bead_id)))


def test_a_bead_waits_for_another_and_is_looked_at() -> None:
    town_id, bead, blocker = two_beads(wake_at=None)
    with transaction() as session:
        edges.block(session, town_id, bead, blocker)
    with transaction() as session:
        assert session.get_one(Bead, bead).wake_at is not None
    assert blockers_of(bead) == [blocker]


def test_the_same_edge_twice_is_one() -> None:
    town_id, bead, blocker = two_beads()
    for _ in range(2):
        with transaction() as session:
            edges.block(session, town_id, bead, blocker)
    assert blockers_of(bead) == [blocker]


def test_a_cycle_is_refused_with_its_path() -> None:
    town_id, bead, blocker = two_beads()
    with transaction() as session:
        edges.block(session, town_id, bead, blocker)
    with pytest.raises(Refused, match=f"{blocker}.*{bead}"), transaction() as session:
        edges.block(session, town_id, blocker, bead)
    assert blockers_of(blocker) == []


def test_a_bead_cannot_wait_for_itself() -> None:
    town_id, bead, _blocker = two_beads()
    with pytest.raises(Refused, match="itself"), transaction() as session:
        edges.block(session, town_id, bead, bead)


@pytest.mark.parametrize("status", [BeadStatus.CLOSED, BeadStatus.FAILED, BeadStatus.IN_REVIEW])
def test_what_is_done_waits_for_nothing(status: BeadStatus) -> None:
    town_id, bead, blocker = two_beads(status=status)
    with pytest.raises(Refused), transaction() as session:
        edges.block(session, town_id, bead, blocker)


def test_a_bead_waits_no_more_and_is_looked_at() -> None:
    town_id, bead, blocker = two_beads()
    with transaction() as session:
        edges.block(session, town_id, bead, blocker)
        session.get_one(Bead, bead).wake_at = None
    with transaction() as session:
        edges.unblock(session, town_id, bead, blocker)
    with transaction() as session:
        assert session.get_one(Bead, bead).wake_at is not None
    assert blockers_of(bead) == []


def test_dropping_what_is_not_there_is_refused() -> None:
    town_id, bead, blocker = two_beads()
    with pytest.raises(Refused, match="does not wait"), transaction() as session:
        edges.unblock(session, town_id, bead, blocker)


@pytest.mark.parametrize("act", [edges.block, edges.unblock])
def test_an_unknown_bead_or_one_of_another_town_is_not_found(act: object) -> None:
    town_id, bead, blocker = two_beads()
    with pytest.raises(NotFound), transaction() as session:
        act(session, town_id, bead, "gt-nobody")  # type: ignore[operator]
    with pytest.raises(NotFound), transaction() as session:
        act(session, town_id + 1, bead, blocker)  # type: ignore[operator]
