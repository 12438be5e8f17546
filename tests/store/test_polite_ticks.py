"""A tick asks no more than it needs, of the broker and of rows that somebody else has; and one that fails is told."""

from collections.abc import Callable
from typing import Any

import pytest

from gastown.celery_app import watch_queue
from gastown.db import transaction
from gastown.models import Town
from gastown.states import DispatchStatus
from gastown.store import claims, escalations
from gastown.store.moves import lock_bead
from gastown.tasks import reconcile
from tests.builders import a_bead, an_attempt, the_api_is_there
from tests.conftest import Clock
from tests.ticks import take_messages, tick


def test_one_inspection_of_a_node_however_many_starts_are_slow(town: Town, clock: Clock) -> None:
    with transaction() as session:
        for _ in range(5):
            an_attempt(session, DispatchStatus.STARTING)
    clock.advance(6)
    with transaction() as session:
        the_api_is_there(session)
    tick()
    assert len(take_messages(watch_queue("here"))) == 1


@pytest.mark.parametrize("what", ["due", "ready"])
def test_a_bead_that_somebody_has_locked_is_left_to_him(town: Town, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    """Its holder pokes when he is done, or beat comes by. To look again at once would only heat the machine."""
    with transaction() as session:
        bead = a_bead(session)
        if what == "ready":
            bead.ready_at, bead.wake_at = bead.wake_at, None
    batches = []
    real: Callable[..., Any] = reconcile._batch
    monkeypatch.setattr(reconcile, "_batch", lambda *arguments: batches.append(1) or real(*arguments))
    with transaction() as other:
        lock_bead(other, bead.id)
        reconcile.reconcile_town(town.id)
    assert len(batches) <= 2
    assert take_messages("control") == []


def test_a_tick_that_fails_is_in_the_inbox_until_one_works(
    town: Town, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else all services are up, nothing happens, and only a log knows why."""
    with transaction() as session:
        a_bead(session)

    def inbox() -> list[str]:
        with transaction() as session:
            escalations.settle_gone(session)
        with transaction() as session:
            return [row.message for row in escalations.list_inbox(session, town.id)]

    with monkeypatch.context() as patch:
        patch.setattr(claims, "claim_due", lambda *_, **__: 1 / 0)
        for _ in range(2):
            with pytest.raises(ZeroDivisionError):
                reconcile.reconcile_town(town.id)
    assert inbox() == ["nothing is decided any more: each tick fails with ZeroDivisionError: division by zero"]
    clock.advance(1)
    reconcile.reconcile_town(town.id)
    assert inbox() == []
