"""A worker that is stopped: what its node's attempts are told, and how long it waits for them."""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from gastown import settings
from gastown.agent.protocol import Done
from gastown.celery_app import node_queue
from gastown.models import Town
from gastown.states import DispatchStatus
from gastown.tasks import fleet
from tests.builders import a_node, an_attempt, failures_of, now
from tests.calls import finish
from tests.races import committed

RUNNING = DispatchStatus.RUNNING


def until(probe: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 60
    while not probe():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def member(town: Town, monkeypatch: pytest.MonkeyPatch) -> fleet.Membership:
    monkeypatch.setattr(fleet, "NODE_BEAT_S", 0.02)
    monkeypatch.setattr(fleet, "LOOK_S", 0.02)
    joined = threading.Event()
    monkeypatch.setattr(fleet, "rejoin", lambda *_: joined.set())
    found = fleet.Membership("w@a", {node_queue("local")})
    found.begin(None)
    assert joined.wait(30)
    return found


def test_attempts_go_on_when_their_worker_goes(member: fleet.Membership) -> None:
    attempt = committed(lambda session: an_attempt(session, RUNNING, node=a_node(session, "local")))
    member.end()
    assert (now(attempt).status, now(attempt).stop_code) == (RUNNING, None)
    assert committed(lambda session: a_node(session, "local").draining_at) is not None


def test_attempts_save_their_work_when_that_is_wanted(
    member: fleet.Membership, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GASTOWN_DRAIN_ON_STOP", "true")
    settings.get_settings.cache_clear()
    attempt = committed(lambda session: an_attempt(session, RUNNING, node=a_node(session, "local")))
    leaving = threading.Thread(target=member.end)
    leaving.start()
    until(lambda: now(attempt).stop_code == "drained")
    assert leaving.is_alive()  # it waits for that
    assert now(attempt).stop_reason == "local is drained by the end of w@a"
    assert finish(attempt, Done(outcome="stopped", wip_sha="c" * 40)) == "stopped"
    leaving.join(30)
    assert not leaving.is_alive()
    assert failures_of(attempt) == 0


def test_it_does_not_wait_for_ever(member: fleet.Membership, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GASTOWN_DRAIN_ON_STOP", "true")
    monkeypatch.setattr(fleet, "DRAIN_S", 0.1)
    settings.get_settings.cache_clear()
    attempt = committed(lambda session: an_attempt(session, RUNNING, node=a_node(session, "local")))
    member.end()
    assert (now(attempt).status, now(attempt).stop_code) == (RUNNING, "drained")


def test_only_the_last_one_asks_them(member: fleet.Membership, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GASTOWN_DRAIN_ON_STOP", "true")
    settings.get_settings.cache_clear()
    attempt = committed(lambda session: an_attempt(session, RUNNING, node=a_node(session, "local")))
    place = fleet.this_place()
    committed(lambda session: fleet.membership.beat(session, place, "w@b"))
    member.end()
    assert now(attempt).stop_code is None
    assert committed(lambda session: a_node(session, "local").draining_at) is None


def test_who_is_refused_closes_nobody_elses_node(member: fleet.Membership, monkeypatch: pytest.MonkeyPatch) -> None:
    """And what the worker of that name had claimed on the other machine is not doubted."""
    member.end()
    closed_at = committed(lambda session: a_node(session, "local").draining_at)
    monkeypatch.setattr(fleet, "rejoin", lambda *_: pytest.fail("it is not of the node"))
    monkeypatch.setattr(fleet, "_identity", lambda runtime: "somewhere else")
    other = fleet.Membership("w@a", {node_queue("local")})
    other.begin(None)
    until(lambda: other.refused)
    other.end()
    assert committed(lambda session: a_node(session, "local").draining_at) == closed_at


def test_an_engine_that_is_down_is_said_once_and_awaited(
    town: Town, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody can say which engine it is, so the worker is of no node yet."""
    monkeypatch.setenv("GASTOWN_RUNTIME", "docker")
    monkeypatch.setenv("GASTOWN_DOCKER__URL", f"unix://{tmp_path}/none.sock")
    settings.get_settings.cache_clear()
    fleet._facts.cache_clear()
    member = fleet.Membership("w@a", {node_queue("local")})
    with capture_logs() as logged:
        assert member.settle() is False
        assert member.settle() is False
    assert [each["event"] for each in logged] == ["node_beat_failed"]
    assert "Docker Engine" in logged[0]["error"]
