"""Which worker is of which node: names that two machines want, what attempts keep, and who is the last to leave."""

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import delete, select
from structlog.testing import capture_logs

from gastown.celery_app import node_queue, watch_queue
from gastown.commands import membership, nodes
from gastown.commands.membership import Place, Standing
from gastown.db import in_transaction, transaction
from gastown.models import Node, Town
from gastown.runtimes import registry
from gastown.settings import get_settings
from gastown.states import DispatchStatus, Verdict
from gastown.store import attempts, explain, fleet, members, reads, sightings
from gastown.tasks import queues
from gastown.tasks.base import send
from gastown.tasks.fleet import Membership
from tests.builders import a_bead, a_node, a_rig, an_attempt, the_api_is_there
from tests.conftest import Clock
from tests.races import Thread, committed, wait_until_blocked
from tests.ticks import live, take_messages, tick
from tests.views import NOON, after

LEASE_S = 45


def place(identity: str | None = "one", **facts: Any) -> Place:
    return Place(**{"name": "n1", "runtime": "process", "capacity": 4, "identity": identity} | facts)


def beat(of: Place, worker: str | None = "w@a", **facts: Any) -> Standing:
    return in_transaction(lambda session: membership.beat(session, of, worker, **facts))


def leave(worker: str) -> bool:
    return in_transaction(lambda session: membership.leave(session, "n1", worker))


def rows() -> dict[str, Node]:
    with transaction() as session:
        return {node.name: node for node in session.scalars(select(Node))}


def test_what_it_says_is_written_down(town: Town, clock: Clock) -> None:
    said = place(version="1.0", labels=["gpu"], images={"*": "acme/any"}, runtime="docker")
    assert beat(said).node_id is not None
    node = rows()["n1"]
    assert (node.runtime, node.capacity, node.identity, node.version) == ("docker", 4, "one", "1.0")
    assert (node.labels, node.images, node.heartbeat_at) == (["gpu"], {"*": "acme/any"}, NOON)
    clock.advance(10)
    assert beat(place(capacity=2)).node_id == node.id  # and what is true now
    assert (rows()["n1"].capacity, rows()["n1"].labels, rows()["n1"].heartbeat_at) == (2, [], after(10))


@pytest.mark.parametrize(
    ("first", "second", "wait_s", "refused"),
    [
        ("one", "one", 0, False),  # another worker of the same machine
        ("one", "two", 0, True),
        ("one", "two", LEASE_S, True),
        ("one", "two", LEASE_S + 1, False),
        (None, "two", 0, False),  # a worker of before, which did not say who it is
        ("one", None, 0, False),  # and one during an upgrade
    ],
)
def test_a_name_is_that_of_one_machine(
    town: Town, clock: Clock, first: str | None, second: str | None, wait_s: int, refused: bool
) -> None:
    beat(place(first))
    clock.advance(wait_s)
    said = beat(place(second), "w@b")
    assert (said.refused is not None) is refused
    assert (said.node_id is None) is refused
    if refused:
        assert said.refused == (
            "the name n1 is that of another live node (one), and this one is two; "
            "give each its own GASTOWN_NODE, or wait until that one is gone"
        )
        assert rows()["n1"].heartbeat_at == NOON  # it keeps nothing alive
    else:
        assert rows()["n1"].identity == second or first


def test_one_that_is_refused_is_shown_while_it_asks(town: Town, clock: Clock) -> None:
    def shown() -> str:
        with transaction() as session:
            return next(row.refused for row in fleet.list_nodes(session, town.id) if row.name == "n1")

    beat(place())
    beat(place("two"), "w@b")
    assert shown().startswith("w@b: the name n1 is that of another live node")
    clock.advance(LEASE_S + 1)
    beat(place())
    assert shown() == ""


def test_a_worker_that_can_start_nothing_is_refused_and_why_says_so(
    town: Town, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its queues go unread: each start there would fail its bead."""
    monkeypatch.setenv("GASTOWN_NODE", "n1")
    get_settings.cache_clear()
    monkeypatch.setenv(registry.CONTAINERISED, "1")
    member = Membership("w@a", {node_queue("n1"), watch_queue("n1")})
    bead = committed(a_bead)
    with transaction() as session:
        session.execute(delete(Node))  # the usual one of the tests
    with capture_logs() as said:
        assert [member.settle() for _ in range(3)] == [False] * 3
    assert [each["event"] for each in said] == ["node_refused"]
    for _ in range(2):
        tick()
        with transaction() as session:
            [why] = explain.explain(session, town.id, [bead.id])
            assert (why.verdict, live()) == (Verdict.NO_NODE, [])
            assert "a worker is refused: w@a: this worker is in a container itself" in why.reason
            assert "next: GASTOWN_RUNTIME=docker" in why.reason
            nodes.remove(session, town.id, "n1")  # and it goes on asking
        assert not member.settle()
    monkeypatch.delenv(registry.CONTAINERISED)
    assert member.settle()
    tick()
    assert [each.bead_id for each in live()] == [bead.id]


def test_attempts_stay_with_the_machine_that_they_are_on(town: Town, clock: Clock) -> None:
    """On another machine they are not found, and that proves nothing."""
    beat(place())
    attempt = committed(lambda session: an_attempt(session, DispatchStatus.RUNNING, node=a_node(session, "n1")))
    clock.advance(LEASE_S + 1)
    assert beat(place("two"), "w@b").node_id != attempt.node_id
    assert {name: row.id for name, row in rows().items() if row.id == attempt.node_id} == {
        f"n1~{attempt.node_id}": attempt.node_id
    }
    with transaction() as session:
        assert sightings.inspectable(session, "n1") == []
        used = {row.name: (row.state, row.used) for row in fleet.list_nodes(session, town.id) if "n1" in row.name}
    assert used == {"n1": ("alive", 0), f"n1~{attempt.node_id}": ("silent", 1)}
    clock.advance(LEASE_S + 1)
    assert beat(place(), "w@a").node_id == attempt.node_id  # it is back, and the other one gone
    with transaction() as session:
        assert [each.dispatch_id for each in sightings.inspectable(session, "n1")] == [attempt.id]
    assert len(rows()) == 3  # with `here` of the town


def test_a_drain_by_hand_is_of_the_name(town: Town, clock: Clock) -> None:
    beat(place())
    with transaction() as session:
        session.scalars(select(Node).where(Node.name == "n1")).one().closed_at = NOON
    clock.advance(LEASE_S + 1)
    beat(place("two"), "w@b")
    assert rows()["n1"].closed_at == NOON


def test_two_machines_ask_at_once(town: Town) -> None:
    with transaction() as session:
        membership.beat(session, place("one"), "w@a")
        other = Thread(lambda: beat(place("two"), "w@b"))
        wait_until_blocked(other)
    assert other.value().refused is not None


def test_one_that_only_looks_after_attempts_keeps_no_node_alive(town: Town, clock: Clock) -> None:
    assert beat(place(), "watch@a", starts=False) == Standing()  # there is no such node yet, and it makes none
    assert "n1" not in rows()
    beat(place())
    clock.advance(LEASE_S + 1)
    assert beat(place(), "watch@a", starts=False).node_id is not None
    assert beat(place("two"), "watch@b", starts=False).refused is not None  # nor does it take a name over
    assert (rows()["n1"].heartbeat_at, rows()["n1"].identity) == (NOON, "one")


def test_the_last_one_closes_the_door(town: Town, clock: Clock) -> None:
    for worker in ("w@a", "w@b"):
        beat(place(), worker)
    beat(place(), "watch@a", starts=False)
    beat(place("two"), "w@c")  # refused: it does not count
    assert leave("w@a") is False
    assert rows()["n1"].draining_at is None
    assert leave("w@c") is False
    assert leave("w@b") is True
    assert rows()["n1"].draining_at == NOON
    beat(place(), "w@d")
    assert rows()["n1"].draining_at is None


def test_one_that_was_killed_long_ago_does_not_count(town: Town, clock: Clock) -> None:
    beat(place(), "w@a")
    clock.advance(LEASE_S + 1)
    beat(place(), "w@b")
    assert leave("w@b") is True


def test_who_was_killed_is_forgotten(town: Town, clock: Clock) -> None:
    beat(place(), "w@a")
    clock.advance(members.KEPT.total_seconds() + 1)
    beat(place(), "w@b")
    assert rows()["n1"].workers.keys() == {"w@b"}


def test_nothing_starts_where_no_worker_is_left(town: Town) -> None:
    beat(place("here", name="here"))
    in_transaction(lambda session: membership.leave(session, "here", "w@a"))
    committed(a_bead)
    tick()
    assert live() == []


def test_labels_and_images_decide_where_what_is_started(town: Town) -> None:
    """One plain node, one with a GPU, one with containers and an image for one preset."""
    beat(place("one", name="here"))
    beat(place("two", name="gpus", labels=["gpu"]))
    beat(place("three", name="docks", runtime="docker", images={"claude": "acme/claude:1"}))
    with transaction() as session:
        the_api_is_there(session)
        wanted = {
            a_bead(session, a_rig(session, name="gpu", node_labels=["gpu"])).id: "gpus",
            a_bead(session, a_rig(session, name="none", node_labels=["tpu"])).id: None,
            a_bead(session, a_rig(session, name="own", container={"image": "acme/own"})).id: "docks",
        }
        bounded = a_rig(session, name="bounded", container={"network": "none"})
        wanted[a_bead(session, bounded).id] = None  # no image for shell there
        wanted[a_bead(session, bounded, agent="claude").id] = "docks"
    tick()
    with transaction() as session:
        names = {node.id: node.name for node in session.scalars(select(Node))}
    assert {each.bead_id: names[each.node_id] for each in live()} == {
        bead: node for bead, node in wanted.items() if node is not None
    }


def test_many_that_fit_nowhere_keep_no_other_preset_waiting(town: Town) -> None:
    in_transaction(lambda session: session.delete(session.scalars(select(Node)).one()))
    beat(place("three", name="docks", runtime="docker", images={"claude": "acme/claude:1"}, capacity=1))
    with transaction() as session:
        the_api_is_there(session)
        for _ in range(5):
            a_bead(session)
        last = a_bead(session, agent="claude")
    tick()
    assert [each.bead_id for each in live()] == [last.id]


def test_what_a_node_that_is_gone_was_told_does_not_stay(town: Town, clock: Clock) -> None:
    for name in ("n1", "here"):
        beat(place(name=name))
        send("gastown.stop_container", "x", queue=f"node.{name}", expires_s=60)
    clock.advance(timedelta(days=1).total_seconds() + 1)
    beat(place(name="here"))
    queues.drop_silent_queues()
    queues.drop_silent_queues()
    assert take_messages("node.n1") == []
    assert len(take_messages("node.here")) == 1


def test_nobody_is_asked_to_look_where_no_worker_is(town: Town, clock: Clock) -> None:
    """Its containers may run on for hours after the last worker went."""
    beat(place())
    committed(lambda session: an_attempt(session, DispatchStatus.RUNNING, node=a_node(session, "n1")))
    with transaction() as session:
        assert reads.busy_nodes(session) == ["n1"]
    clock.advance(reads.BEATING_S + 1)
    with transaction() as session:
        assert reads.busy_nodes(session) == []


def test_who_had_the_name_before_neither_starts_nor_looks(town: Town, clock: Clock) -> None:
    """A machine that slept reads its queues for some seconds before it hears that another one has its name now."""
    beat(place())
    clock.advance(LEASE_S + 1)
    beat(place("two"), "w@b")
    queued = committed(lambda session: an_attempt(session, DispatchStatus.QUEUED, node=a_node(session, "n1")))
    running = committed(lambda session: an_attempt(session, DispatchStatus.RUNNING, node=a_node(session, "n1")))
    assert committed(lambda session: attempts.claim_start(session, queued.id, "w@a", "one")) is None
    with transaction() as session:
        assert sightings.inspectable(session, "n1", "one") == []
        assert [each.dispatch_id for each in sightings.inspectable(session, "n1", "two")] == [running.id]
    assert committed(lambda session: attempts.claim_start(session, queued.id, "w@b", "two")) is not None


def test_a_start_that_waits_is_not_for_the_next_machine_of_that_name(town: Town, clock: Clock) -> None:
    """Its message is in the queue of the name; the attempt is placed on the machine that was asked."""
    beat(place())
    queued = committed(lambda session: an_attempt(session, DispatchStatus.QUEUED, node=a_node(session, "n1")))
    clock.advance(LEASE_S + 1)
    beat(place("two"), "w@b")
    assert committed(lambda session: attempts.claim_start(session, queued.id, "w@b", "two")) is None
