"""Nodes at the command line: what one is shown as, how it goes for good, and rigs that ask for labels."""

from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import select, text

from gastown.celery_app import app, node_queue, watch_queue
from gastown.commands import membership
from gastown.commands.membership import Place
from gastown.db import gastown_now, transaction
from gastown.models import Event, Node, Rig
from gastown.states import DispatchStatus
from gastown.tasks.base import send
from tests.builders import a_bead, a_node, a_rig, a_town, an_attempt, the_api_is_there
from tests.cli.conftest import Gastown
from tests.ticks import take_messages

GONE = timedelta(hours=1)
HERE = Place(
    name="n1",
    runtime="docker",
    capacity=4,
    identity="engine one",
    version="1.0, schema 0006",
    labels=["gpu"],
    images={"*": "acme/any:1", "claude": "acme/claude:3"},
)


def test_what_a_node_is(gastown: Gastown) -> None:
    with transaction() as session:
        a_town(session)
        membership.beat(session, HERE, "worker@a")
        membership.beat(session, HERE, "watch@a", starts=False)
        other = Place(name="n1", runtime="docker", capacity=4, identity="engine two")
        assert membership.beat(session, other, "worker@b").refused
        node = session.scalars(select(Node)).one()
        attempt = an_attempt(session, node=node)
    shown = gastown("node", "show", "n1").out
    for words in (
        "node n1, alive",
        "docker",
        "engine one",
        "1.0, schema 0006",
        "gpu",
        "1 of 4",
        "image of any agent acme/any:1",
        "image of claude acme/claude:3",
        "worker@a: takes starts, 1.0, schema 0006",
        "watch@a: looks after what runs",
        "worker@b: REFUSED, the name n1 is that of another live node (engine one), and this one is engine two",
        f"attempt 1 on {attempt.bead_id}, running",
    ):
        assert words in shown
    listed = gastown("node", "list").out
    assert "REFUSED" in listed
    assert "gpu" in listed
    told = gastown("node", "show", "n1", "--json").json
    assert (told["node"]["runtime"], told["workers"][0]["name"]) == ("docker", "watch@a")
    assert gastown("node", "show", "n2").code == 3


def test_a_node_that_lives_is_not_removed(gastown: Gastown) -> None:
    with transaction() as session:
        the_api_is_there(session)
        a_node(session, "lives")
        silent = a_node(session, "busy", heartbeat_at=gastown_now() - GONE)
        an_attempt(session, DispatchStatus.RUNNING, node=silent)
    for name, why in (("lives", "lives is alive"), ("busy", "1 attempts on busy have not ended")):
        said = gastown("node", "remove", name)
        assert (said.code, why in said.err) == (1, True)
    assert gastown("node", "remove", "nowhere").code == 3
    assert {row["name"] for row in gastown("node", "list", "--json").json} == {"lives", "busy"}


@pytest.mark.parametrize("used", [False, True])
def test_a_node_is_removed_with_what_waits_for_it(gastown: Gastown, used: bool) -> None:
    with transaction() as session:
        a_town(session)
        node = a_node(session, "n1", heartbeat_at=gastown_now() - GONE)
        if used:
            an_attempt(session, DispatchStatus.STOPPED, node=node)
    for queue in (node_queue("n1"), watch_queue("n1")):
        send("gastown.stop_container", "x", queue=queue, expires_s=60)
    assert "is no node any more" in gastown("node", "remove", "n1").out
    assert take_messages("node.n1") == take_messages("watch.n1") == []
    with app.connection_for_read() as connection, connection.channel() as channel:
        assert not any(b"n1" in key for key in channel.client.scan_iter())
    assert gastown("node", "list", "--json").json == []
    assert gastown("node", "show", "n1").code == gastown("node", "drain", "n1").code == 3
    with transaction() as session:
        assert session.scalars(select(Node)).all() == ([session.get(Node, node.id)] if used else [])
        assert session.scalar(select(Event.kind).order_by(Event.id.desc()).limit(1)) == "node_removed"
        assert membership.beat(session, HERE, "worker@a").node_id is not None  # and is one again
    assert [row["name"] for row in gastown("node", "list", "--json").json] == ["n1"]


def test_what_is_left_on_the_engine_of_a_removed_node_is_said(gastown: Gastown) -> None:
    """Nobody here can reach it."""
    with transaction() as session:
        a_town(session)
        a_node(session, "n1", heartbeat_at=gastown_now() - GONE)
        a_node(session, "n2", heartbeat_at=gastown_now() - GONE, runtime="docker")
    assert "docker" not in gastown("node", "remove", "n1").out
    filters = "--filter label=dev.gastown.node=n2 --filter label=dev.gastown.role=attempt --filter status=exited"
    assert f"docker rm $(docker ps -aq {filters})" in " ".join(gastown("node", "remove", "n2").out.split())


def test_a_rig_asks_for_labels(gastown: Gastown, repository: Path) -> None:
    said = gastown("rig", "add", str(repository), "--gate", "true", "--node-label", "gpu")
    assert said.code == 0
    assert "those with gpu" in gastown("rig", "show", "project").out
    with transaction() as session:
        the_api_is_there(session)
        a_node(session)
        bead = a_bead(session, session.scalars(select(Rig)).one(), ready_at=gastown_now(), wake_at=None)
        bead_id = bead.id
    why = gastown("why", bead_id)
    assert "no live node fits: here has not the label gpu" in why.out
    assert "gastown rig show project" in why.out
    assert "no live node fits" in gastown("why").out
    assert gastown("rig", "set", "project", "--node-label", "a b").code == 2
    assert gastown("rig", "set", "project", "--node-label", "a", "--no-node-labels").code == 2
    assert "only nodes with gpu, zone=eu" in (
        gastown("rig", "set", "project", "--node-label", "gpu", "--node-label", "zone=eu").out
    )
    assert "it has these" in gastown("rig", "set", "project", "--node-label", "gpu", "--node-label", "zone=eu").out
    assert "any node may run it" in gastown("rig", "set", "project", "--no-node-labels").out
    assert "ready" in gastown("why", bead_id).out


def test_what_a_hand_wrote_costs_nobody_else(gastown: Gastown) -> None:
    """A label, an image or a worker that makes no sense is as if it were not there."""
    with transaction() as session:
        the_api_is_there(session)
        a_node(session)
        a_rig(session)
        session.execute(text("UPDATE nodes SET labels = '7', images = 'null', workers = '{\"x\": 1, \"y\": {}}'"))
        session.execute(text("UPDATE rigs SET node_labels = 'true', container = '[]'"))
    for command in (("node", "list"), ("rig", "list"), ("rig", "show", "rig"), ("node", "show", "here"), ("why",)):
        assert gastown(*command).code == 0
    with transaction() as session:
        assert membership.beat(session, Place(name="here", runtime="process", capacity=1), "worker@a").node_id
