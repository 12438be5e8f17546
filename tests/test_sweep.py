"""What runs on a node and is fenced is ended, once a minute, whatever else runs there."""

import pytest
from sqlalchemy.orm import Session

from gastown.beat_schedule import EVERYWHERE
from gastown.commands import towns
from gastown.runtimes.process import ProcessRuntime
from gastown.states import DispatchStatus
from gastown.store.reads import BEATING_S
from gastown.tasks.containers import inspect_containers
from tests.builders import an_attempt
from tests.conftest import Clock
from tests.races import committed
from tests.ticks import take_messages


def node_of(session: Session) -> str:
    towns.beat_node(session, "n1", "process", 4)
    return "n1"


def test_one_bad_name_does_not_stop_the_others(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    node = committed(node_of)
    fenced = str(committed(lambda session: an_attempt(session, DispatchStatus.STOPPED)).id)
    monkeypatch.setattr(ProcessRuntime, "list_names", lambda self: ["made-up", fenced])
    inspect_containers(node, True)
    assert take_messages(f"node.{node}") == [("gastown.stop_container", [fenced])]


def test_only_the_sweep_of_the_minute_stops(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each stop can take 20 s of a process that ticks need."""
    node = committed(node_of)
    fenced = str(committed(lambda session: an_attempt(session, DispatchStatus.STOPPED)).id)
    monkeypatch.setattr(ProcessRuntime, "list_names", lambda self: [fenced])
    inspect_containers(node)
    assert take_messages(f"node.{node}") == []
    assert take_messages(f"watch.{node}") == []
    inspect_containers(EVERYWHERE)
    assert ("gastown.inspect_containers", [node, True]) in take_messages(f"watch.{node}")


def test_what_a_silent_node_would_be_sent_does_not_pile_up(database: str, clock: Clock) -> None:
    committed(node_of)
    clock.advance(BEATING_S + 1)
    inspect_containers(EVERYWHERE)
    assert take_messages("watch.n1") == []
