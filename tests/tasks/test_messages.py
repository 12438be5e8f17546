"""What people see of messages: which bead each is about. And what `celery call` may be given."""

import json
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest
from structlog.testing import capture_logs

from gastown.celery_app import START_EXPIRES_S, app
from gastown.commands import work
from gastown.db import transaction
from gastown.models import Bead, Dispatch
from gastown.reconcile.actions import TITLE_LENGTH, AskMerge, Effect, InspectContainers, StopContainer, bead_named
from gastown.states import BeadStatus
from gastown.tasks.base import POKE_EXPIRES_S, publish_all, send
from gastown.tasks.reconcile import dispatch
from tests.builders import a_bead, a_node, a_rig, an_attempt, the_api_is_there
from tests.conftest import Clock
from tests.ticks import tick


def shown(queue: str) -> list[str]:
    """As Flower shows the arguments of what waits in a queue, oldest first."""
    return [each["headers"]["argsrepr"] for each in waiting(queue)]


def waiting(queue: str) -> list[dict[str, Any]]:
    """The messages in a queue, oldest first."""
    with app.connection_for_write() as connection:
        stored: list[Any] = connection.default_channel.client.lrange(queue, 0, -1)
    return [json.loads(each) for each in reversed(stored)]


def test_a_start_and_a_stop_name_their_bead(clock: Clock) -> None:
    with transaction() as session:
        a_node(session)
        the_api_is_there(session)
        bead = a_bead(session, a_rig(session), title='Say "hello"\n to everybody')
    tick()
    with transaction() as session:
        [attempt] = session.query(Dispatch).all()
    named = f'{bead.id} "Say "hello" to everybody"'
    assert shown("node.here") == [repr((named, str(attempt.id)))]
    with transaction() as session:
        stops = work.cancel(session, bead.town_id, bead.id)
    publish_all(stops)
    assert shown("node.here")[1:] == [repr((named, str(attempt.id)))] * len(stops)


def test_messages_of_a_batch_are_what_celery_makes_of_each(database: str) -> None:
    """But for what is each one's own."""
    stops: list[Effect] = [StopContainer(dispatch_id=str(uuid4()), node="here", about="a bead") for _ in range(2)]
    assert publish_all([*stops, AskMerge(merge_id=7, about="a bead"), InspectContainers(node="here")])
    for stop in stops:
        send("gastown.stop_container", stop.dispatch_id, queue="node.here", expires_s=START_EXPIRES_S, about="a bead")
    send("gastown.merge", 7, queue="merge", expires_s=START_EXPIRES_S, about="a bead")
    send("gastown.inspect_containers", "here", queue="watch.here", expires_s=POKE_EXPIRES_S)
    for queue in ("node.here", "merge", "watch.here"):
        sent = waiting(queue)
        drafted, made = sent[: len(sent) // 2], sent[len(sent) // 2 :]
        assert len({each["headers"]["id"] for each in sent}) == len(sent)
        assert [without_its_own(each) for each in drafted] == [without_its_own(each) for each in made]


def without_its_own(message: dict[str, Any]) -> dict[str, Any]:
    """A message without its id, and without when it expires to the second."""
    headers, properties = message["headers"], message["properties"]
    assert headers["root_id"] == headers["id"] == properties["correlation_id"]
    expires = datetime.fromisoformat(headers["expires"]) - datetime.now(UTC)
    left = dict.fromkeys(("id", "root_id"))
    assert properties.pop("argsrepr", headers["argsrepr"]) == headers["argsrepr"]  # Celery's leftover
    return message | {
        "headers": headers | left | {"expires": round(expires.total_seconds() / 60)},
        "properties": properties | dict.fromkeys(("correlation_id", "delivery_tag")),
    }


def test_a_long_title_is_cut() -> None:
    named = bead_named("gt-aaaaa", "word " * 100)
    assert len(named) == len('gt-aaaaa ""') + TITLE_LENGTH
    assert named.endswith('…"')


@pytest.mark.parametrize("bead_id", ["gt-nope", "", None, 7, ["gt-aaaaa"], "x\0", "x\ny"])
def test_dispatching_what_is_no_bead_says_so(database: str, bead_id: Any) -> None:
    """`celery call` waits for no answer, so the log has it."""
    with capture_logs() as said:
        dispatch(bead_id)
    assert [each["event"] for each in said] == ["dispatch_refused"]


def test_dispatching_what_is_over_changes_nothing(clock: Clock) -> None:
    with transaction() as session:
        attempt = an_attempt(session, rig=a_rig(session))
        bead_id = attempt.bead_id
        work.cancel(session, session.get_one(Bead, bead_id).town_id, bead_id)
    with transaction() as session:
        before = session.get_one(Bead, bead_id)
    with capture_logs() as said:
        dispatch(bead_id)
    with transaction() as session:
        after = session.get_one(Bead, bead_id)
    assert said[0]["reason"] == f"{bead_id} is canceled"
    assert (before.forced_at, before.wake_at) == (after.forced_at, after.wake_at)
    assert after.status == BeadStatus.CLOSED


def test_dispatching_a_bead_starts_it_at_once(clock: Clock) -> None:
    with transaction() as session:
        bead_id = a_bead(session, a_rig(session)).id
    dispatch(bead_id)
    with transaction() as session:
        assert session.get_one(Bead, bead_id).forced_at is not None
    assert len(shown("control")) == 1


def test_a_queue_named_by_hand_is_made_as_we_make_it() -> None:
    """RabbitMQ refuses everybody else who declares it in other words."""
    queues = dict(app.amqp.queues)
    made = app.amqp.queues["node.named-by-hand"]
    try:
        assert (made.exchange, made.routing_key) == (app.amqp.queues["control"].exchange, "node.named-by-hand")
    finally:
        del app.amqp.queues["node.named-by-hand"]
    assert dict(app.amqp.queues) == queues
