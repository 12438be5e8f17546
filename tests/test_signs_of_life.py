"""The threads that say that something is alive: what ends one would end the town, so nothing does."""

import threading
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from sqlalchemy import select, text
from sqlalchemy.orm import Session

from gastown import api
from gastown.celery_app import node_queue
from gastown.models import Node
from gastown.store import services
from gastown.tasks import fleet
from gastown.tasks.leases import Lease
from tests.api.conftest import serve
from tests.conftest import Clock
from tests.races import committed


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(services, "API_BEAT_S", 0.01)
    monkeypatch.setattr(fleet, "NODE_BEAT_S", 0.01)


def failing_twice(real: Callable[..., Any], done: threading.Event) -> Callable[..., Any]:
    """Read-only, then a fault of our own; then it works."""
    calls: list[int] = []

    def work(session: Session, *rest: Any, **named: Any) -> Any:
        calls.append(1)
        if len(calls) == 1:
            session.execute(text("SET TRANSACTION READ ONLY"))
        elif len(calls) == 2:
            raise ZeroDivisionError
        elif len(calls) == 4:
            done.set()
        return real(session, *rest, **named)

    return work


def test_the_beat_of_the_api_survives(database: str, hurried: None, monkeypatch: pytest.MonkeyPatch) -> None:
    done, ended = threading.Event(), threading.Event()
    monkeypatch.setattr(services, "beat", failing_twice(services.beat, done))
    thread = threading.Thread(target=api._beat, args=(ended,))
    thread.start()
    assert done.wait(60)
    ended.set()
    thread.join(60)


def test_the_beat_of_a_node_survives(database: str, hurried: None, monkeypatch: pytest.MonkeyPatch) -> None:
    done = threading.Event()
    monkeypatch.setattr(fleet, "rejoin", lambda *_: None)
    monkeypatch.setattr(fleet.membership, "beat", failing_twice(fleet.membership.beat, done))
    member = fleet.Membership("worker@n1", {node_queue("local")})
    member.begin(None)
    assert done.wait(60)
    member.end()
    assert committed(lambda session: session.scalars(select(Node.name)).all()) == ["local"]


def test_a_lease_whose_beat_raises_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """The merge must not go on to its push with a lease that nobody renews."""
    order: Any = type("Order", (), {"id": 1, "merge_epoch": 1, "lease_s": 0.03})
    monkeypatch.setattr(Lease, "note", lambda self, step: 1 // 0)
    with Lease(order).held() as lease:
        assert lease.lost.wait(60)


def test_an_api_that_cannot_beat_is_not_ready(clock: Clock) -> None:
    committed(lambda session: services.beat(session, "api"))
    with serve() as address:
        assert httpx.get(f"{address}/readyz", trust_env=False).status_code == 200
        clock.advance(services.SILENCE_S + 1)
        answer = httpx.get(f"{address}/readyz", trust_env=False)
    assert (answer.status_code, answer.json()["title"]) == (503, "DatabaseUnavailable")
