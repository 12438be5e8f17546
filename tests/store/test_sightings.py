"""Inspections of a node: what is present costs no transaction of its own, what is absent wakes its bead."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from sqlalchemy import event, text

from gastown.db import engine, transaction
from gastown.models import Dispatch
from gastown.runtimes import Status, registry
from gastown.states import DispatchStatus
from gastown.store import reads, sightings
from gastown.store.attempts import is_fenced
from gastown.tasks import containers
from tests.builders import bead_of, now
from tests.calls import make
from tests.conftest import Clock
from tests.races import committed
from tests.store.test_admission import FENCED
from tests.ticks import take_messages
from tests.views import after

RUNNING, STARTING, LOST = DispatchStatus.RUNNING, DispatchStatus.STARTING, DispatchStatus.LOST


class Place:
    """A runtime that knows what it is told. The real one has no hundreds of supervisors to look at."""

    def __init__(self) -> None:
        self.gone: set[str] = set()
        self.names: list[str] = []

    def inspect(self, name: str) -> Status:
        return Status(present=name not in self.gone, exit_code=3 if name in self.gone else None)

    def list_names(self) -> list[str]:
        return self.names


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Place:
    place = Place()
    monkeypatch.setattr(registry, "get", lambda name: place)
    return place


@contextmanager
def statements() -> Iterator[list[str]]:
    found: list[str] = []
    listen = lambda *given: found.append(given[2])  # noqa: E731
    event.listen(engine(), "before_cursor_execute", listen)
    try:
        yield found
    finally:
        event.remove(engine(), "before_cursor_execute", listen)


def writes(found: list[str]) -> int:
    return sum("UPDATE" in each for each in found)


def test_presence_is_written_once_for_all_and_then_no_more(clock: Clock, place: Place) -> None:
    many = [make(RUNNING) for _ in range(20)]
    with statements() as first:
        containers.inspect_containers("here")
    assert writes(first) == 1
    assert {(now(each).seen, now(each).seen_at) for each in many} == {("present", clock.now)}
    clock.advance(5)
    with statements() as second:
        containers.inspect_containers("here")
    assert writes(second) == 0
    assert sum("dispatches" in each for each in second) == 1
    assert take_messages("control") == []


def test_one_that_starts_is_noted_each_time(clock: Clock, place: Place) -> None:
    """The rule asks again until an inspection began after the end of the call."""
    dispatch = make(STARTING, call_ended_at=after(0))
    for _ in range(2):
        clock.advance(5)
        containers.inspect_containers("here")
        assert (now(dispatch).seen, now(dispatch).seen_at) == ("present", clock.now)


def test_what_is_gone_wakes_its_bead_and_what_came_back_is_noted(clock: Clock, place: Place) -> None:
    gone, there = make(RUNNING), make(RUNNING, seen="absent", seen_at=after(-60), seen_exit_code=1, seen_oom=True)
    place.gone = {str(gone.id)}
    committed(lambda session: session.execute(text("UPDATE beads SET wake_at = NULL")))
    clock.advance(5)
    containers.inspect_containers("here")
    assert (now(gone).seen, now(gone).seen_at, now(gone).seen_exit_code) == ("absent", clock.now, 3)
    assert (now(there).seen, now(there).seen_at, now(there).seen_exit_code) == ("present", clock.now, None)
    assert (bead_of(gone).wake_at, bead_of(there).wake_at) == (clock.now, None)
    assert ("gastown.reconcile", []) in take_messages("control")


def test_an_older_look_says_nothing_about_a_newer_one(clock: Clock) -> None:
    dispatch = make(RUNNING, seen="absent", seen_at=after(10))
    committed(lambda session: sightings.note_present(session, [dispatch.id], after(10)))
    assert now(dispatch).seen == "absent"
    committed(lambda session: sightings.note_present(session, [dispatch.id], after(11)))
    assert now(dispatch).seen == "present"


def test_presence_waits_for_nobody_and_moves_nothing_that_is_over(clock: Clock) -> None:
    busy, free, over = make(RUNNING), make(RUNNING), make(LOST)
    with transaction() as session:
        session.execute(text("SELECT 1 FROM dispatches WHERE id = :id FOR UPDATE"), {"id": busy.id})
        committed(lambda other: sightings.note_present(other, [busy.id, free.id, over.id], clock.now))
    assert [now(each).seen for each in (busy, free, over)] == [None, "present", None]


# --- the sweep


@pytest.mark.parametrize("case", FENCED)
def test_who_is_fenced_among_many_is_who_is_fenced_alone(clock: Clock, case: str) -> None:
    dispatch = committed(FENCED[case])
    with transaction() as session:
        others = list(session.scalars(text("SELECT id FROM dispatches")))
        alone = {key for key in others if is_fenced(session, session.get_one(Dispatch, key))}
        assert set(reads.fenced_among(session, others)) == alone
        assert dispatch.id in alone


@pytest.mark.parametrize("status", [each for each in DispatchStatus if each not in ("succeeded", "failed", "stopped")])
def test_what_is_live_or_may_be_adopted_is_not_among_them(clock: Clock, status: DispatchStatus) -> None:
    dispatch = make(status)
    with transaction() as session:
        assert reads.fenced_among(session, [dispatch.id]) == []


def test_a_sweep_stops_what_is_fenced_and_leaves_what_is_not_ours(clock: Clock, place: Place) -> None:
    fenced, lost, nobody = make(DispatchStatus.STOPPED), make(LOST), "0b1e0000-0000-4000-8000-000000000000"
    place.names = [str(fenced.id), str(lost.id), nobody, "a shell of the user's"]
    containers.inspect_containers("here", sweep=True)
    assert take_messages("node.here") == [("gastown.stop_container", [str(fenced.id)])]
