"""The agent API on a real database: each route, who may call it, and what happens to what makes no sense."""

import base64
import json
import time
from typing import Any

import httpx
import pytest
from sqlalchemy import select, text

from gastown.agent.protocol import CHUNK_BYTES, LOG_BYTES
from gastown.commands import attempt
from gastown.db import transaction
from gastown.models import ApiToken, Bead, Event, LogChunk, Service
from gastown.states import AgentStatus, BeadStatus, DispatchStatus
from gastown.store.attempts import digest
from tests.api.conftest import TOKEN, serve
from tests.builders import BASE, HEAD, a_bead, a_rig, agent_of, an_attempt, bead_of, now
from tests.races import committed, together
from tests.ticks import take_messages

RUNNING, STARTING = DispatchStatus.RUNNING, DispatchStatus.STARTING
ROUTES: list[tuple[str, str, Any]] = [
    ("GET", "assignment", None),
    ("POST", "heartbeat", {"phase": "agent", "progressed": True}),
    ("POST", "logs", [{"seq": 0, "data": "aGVsbG8="}]),
    ("POST", "checkpoint", {"wip_sha": "c" * 40}),
    ("POST", "status", {"text": "thinking"}),
    ("POST", "escalate", {"text": "which database?"}),
    ("POST", "done", {"outcome": "succeeded", "base_sha": BASE, "head_sha": HEAD}),
    ("POST", "beads", {"title": "and the tests of it", "body": "true"}),
]


def an_attempt_that_calls(status: DispatchStatus = RUNNING, **values: Any) -> Any:
    return committed(lambda session: an_attempt(session, status, token=TOKEN, **values))


def post(client: httpx.Client, call: str, body: Any, **more: Any) -> Any:
    return client.post(f"/agent/v1/{call}", json=body, **more)


def chunk(seq: int, data: bytes = b"hello") -> dict[str, Any]:
    return {"seq": seq, "data": base64.b64encode(data).decode()}


def stored() -> dict[int, bytes]:
    with transaction() as session:
        return {row.seq: row.data for row in session.scalars(select(LogChunk).order_by(LogChunk.seq))}


def is_problem(answer: Any, status: int) -> bool:
    kind = answer.headers["content-type"]
    return answer.status_code == status == answer.json()["status"] and kind == "application/problem+json"


# --- who may call


def test_without_a_token_nobody_calls(client: httpx.Client) -> None:
    """S74."""
    dispatch = an_attempt_that_calls(STARTING)
    client.headers.pop("Authorization")
    odd = ["", "Bearer", "Bearer wrong", f"Basic {TOKEN}", TOKEN, "Bearer \x7f", "Bearer " + "x" * 10_000]
    for method, call, body in ROUTES:
        for headers in ({}, *({"Authorization": value} for value in odd)):
            answer = client.request(method, f"/agent/v1/{call}", json=body, headers=headers)
            assert is_problem(answer, 401), (call, headers)
            assert answer.headers["www-authenticate"] == "Bearer"
    assert now(dispatch).status == STARTING


def test_a_persons_token_speaks_for_no_attempt(client: httpx.Client) -> None:
    dispatch = committed(an_attempt)
    with transaction() as session:
        session.add(ApiToken(town_id=dispatch.town_id, name="ann", token_hash=digest(TOKEN)))
    assert is_problem(post(client, "heartbeat", ROUTES[1][2]), 401)


def test_only_the_hash_of_a_token_is_stored(client: httpx.Client) -> None:
    an_attempt_that_calls()
    with transaction() as session:
        [row] = session.scalars(select(ApiToken))
        assert TOKEN not in str(vars(row))
        assert attempt.authenticate(session, TOKEN) is not None


def test_a_token_speaks_for_its_own_attempt_alone(client: httpx.Client) -> None:
    other = committed(an_attempt)
    mine = an_attempt_that_calls(bead=committed(a_bead))
    post(client, "done", ROUTES[6][2] | {"dispatch_id": str(other.id), "bead_id": other.bead_id})
    assert (now(mine).status, now(other).status) == ("succeeded", "running")


@pytest.mark.parametrize(("method", "call", "body"), ROUTES)
def test_a_fenced_attempt_is_told_409(client: httpx.Client, method: str, call: str, body: Any) -> None:
    old = an_attempt_that_calls(DispatchStatus.LOST)
    committed(lambda session: an_attempt(session, bead=session.get_one(Bead, old.bead_id)))
    answer = client.request(method, f"/agent/v1/{call}", json=body)
    assert is_problem(answer, 409)
    assert answer.json()["detail"] == f"attempt 1 on {old.bead_id} is lost and will not be taken back"
    assert now(old).status == DispatchStatus.LOST


@pytest.mark.parametrize(("method", "call", "body"), ROUTES)
@pytest.mark.parametrize("status", [STARTING, DispatchStatus.LOST])
def test_the_first_call_may_be_any(
    client: httpx.Client, method: str, call: str, body: Any, status: DispatchStatus
) -> None:
    """S25, S28."""
    dispatch = an_attempt_that_calls(status)
    answer = client.request(method, f"/agent/v1/{call}", json=body)
    assert answer.status_code == 200
    assert now(dispatch).status == ("succeeded" if call == "done" else "running")


# --- each route


def test_assignment(client: httpx.Client) -> None:
    with transaction() as session:
        rig = a_rig(session, setup="make", environment={"A": "1"})
        bead = a_bead(session, rig, title="t", body="echo hi", failure_message="it was red", base_sha=BASE)
        bead.attempts_from = 1
        an_attempt(session, DispatchStatus.LOST, bead=bead)
        dispatch = an_attempt(session, STARTING, bead=bead, token=TOKEN)
    given = client.get("/agent/v1/assignment").json()
    assert given["dispatch_id"] == str(dispatch.id)
    assert (given["epoch"], given["previous_epochs"], given["bead_id"]) == (2, [1], bead.id)
    assert (given["base"], given["base_epoch"]) == (BASE, 1)
    assert (given["title"], given["body"], given["setup"], given["branch"]) == ("t", "echo hi", "make", "main")
    assert given["environment"]["A"] == "1"
    assert (given["base"], given["notes"], given["heartbeat_s"]) == (BASE, "it was red", 10)
    assert given["agent"] == agent_of(dispatch).name
    assert (given["preset"], given["protocol"]) == ("shell", 2)


def test_progress(client: httpx.Client) -> None:
    dispatch = an_attempt_that_calls()
    before = now(dispatch).progress_at
    post(client, "heartbeat", {"phase": "setup", "progressed": False, "a key of protocol 2": 1})
    assert (now(dispatch).phase, now(dispatch).progress_at) == ("setup", before)
    post(client, "heartbeat", {"phase": "agent", "progressed": True})
    assert now(dispatch).progress_at > before
    post(client, "checkpoint", {"wip_sha": "c" * 40})
    post(client, "status", {"text": "x" * 9999})
    assert now(dispatch).wip_sha == "c" * 40
    assert len(now(dispatch).status_text or "") == attempt.STATUS_CHARACTERS


def test_escalate(client: httpx.Client) -> None:
    """The same words again, as after an answer that was lost, are the same request."""
    dispatch = an_attempt_that_calls()
    for _ in range(2):
        assert post(client, "escalate", {"text": "which database?"}).status_code == 200
    with transaction() as session:
        [event] = session.scalars(select(Event).where(Event.kind == "escalation"))
    assert (event.message, event.bead_id, event.actor) == ("which database?", dispatch.bead_id, agent_of(dispatch).name)


def test_an_attempt_asks_for_a_person_so_often_and_no_more(client: httpx.Client) -> None:
    an_attempt_that_calls()
    answers = [post(client, "escalate", {"text": f"question {n}"}).status_code for n in range(attempt.ESCALATIONS)]
    assert answers == [200] * attempt.ESCALATIONS
    refused = post(client, "escalate", {"text": "one more"})
    assert is_problem(refused, 422)
    assert refused.json()["title"] == "Refused"
    assert post(client, "escalate", {"text": "question 0"}).status_code == 200
    assert is_problem(post(client, "escalate", {"text": " "}), 422)


def test_done_pokes_a_tick_and_is_answered_again(client: httpx.Client) -> None:
    dispatch = an_attempt_that_calls()
    answers = [post(client, "done", ROUTES[6][2]) for _ in range(2)]
    assert [(answer.status_code, answer.json()) for answer in answers] == [(200, {"status": "succeeded"})] * 2
    assert ("gastown.reconcile", []) in take_messages("control")
    assert bead_of(dispatch).status == BeadStatus.IN_REVIEW
    assert agent_of(dispatch).status == AgentStatus.IDLE


# --- logs


def test_a_chunk_is_stored_once(client: httpx.Client) -> None:
    dispatch = an_attempt_that_calls()
    sent = [chunk(0, b"one"), chunk(1, bytes(range(256))), chunk(2, "grün\x1b[31m".encode())]
    for batch in (sent[:2], sent, [sent[2], sent[0]]):
        assert post(client, "logs", batch).status_code == 200
    assert stored() == {0: b"one", 1: bytes(range(256)), 2: "grün\x1b[31m".encode()}
    assert now(dispatch).log_bytes == sum(map(len, stored().values()))


def test_the_same_chunk_from_two_calls_at_once(client: httpx.Client) -> None:
    dispatch = an_attempt_that_calls()
    batch = [chunk(number) for number in range(20)]
    send = lambda: post(client, "logs", batch).status_code  # noqa: E731
    assert together(send, send, send) == [200] * 3
    assert (len(stored()), now(dispatch).log_bytes) == (20, 100)


def test_the_last_logs_come_after_done(client: httpx.Client) -> None:
    dispatch = an_attempt_that_calls()
    post(client, "done", ROUTES[6][2])
    assert post(client, "logs", [chunk(7, b"bye")]).status_code == 200
    assert stored() == {7: b"bye"}
    assert now(dispatch).status == "succeeded"
    with transaction() as session:
        session.execute(text("UPDATE dispatches SET status = 'stopped', code = 'canceled'"))
    assert is_problem(post(client, "logs", [chunk(8)]), 409)


@pytest.mark.parametrize(
    "bad",
    [
        {"seq": 0, "data": "%%%"},
        {"seq": 0, "data": "a"},
        {"seq": -1, "data": ""},
        {"seq": 2**31, "data": "YQ=="},
        chunk(0, b"x" * (CHUNK_BYTES + 1)),
        {"seq": "one", "data": ""},
        {"data": ""},
        "text",
    ],
)
def test_a_bad_chunk_is_refused_with_the_whole_batch(client: httpx.Client, bad: Any) -> None:
    an_attempt_that_calls()
    assert is_problem(post(client, "logs", [chunk(5), bad]), 422)
    assert stored() == {}


def test_the_largest_chunk_fits(client: httpx.Client) -> None:
    an_attempt_that_calls()
    assert post(client, "logs", [chunk(0, b"x" * CHUNK_BYTES)]).status_code == 200
    assert len(stored()[0]) == CHUNK_BYTES


def test_the_log_of_an_attempt_is_bounded(client: httpx.Client) -> None:
    """S72: an endless stream. What is beyond is dropped, and the caller goes on."""
    dispatch = an_attempt_that_calls(log_bytes=LOG_BYTES)
    full = b"x" * CHUNK_BYTES
    for number in range(5):
        assert post(client, "logs", [chunk(number, full)]).status_code == 200
    assert len(stored()) == 2  # the notes about what was left out fit as well
    assert now(dispatch).log_bytes == LOG_BYTES + 2 * CHUNK_BYTES


def test_empty_chunks_take_no_rows(client: httpx.Client) -> None:
    """They would count no byte, so nothing would bound them."""
    an_attempt_that_calls()
    assert post(client, "logs", [chunk(number, b"") for number in range(100)]).status_code == 200
    assert stored() == {}
    assert post(client, "logs", []).status_code == 200


# --- nonsense


ODD = ["\x00", "\ud800", "x" * 100_000, "\u202e'; DROP TABLE beads; --", "<script>"]


@pytest.mark.parametrize("odd", ODD)
def test_odd_text_is_taken_or_refused_and_never_an_error_of_ours(client: httpx.Client, odd: str) -> None:
    for call, body in [
        ("heartbeat", {"phase": odd, "progressed": True}),
        ("status", {"text": odd}),
        ("escalate", {"text": odd}),
        ("checkpoint", {"wip_sha": odd}),
        ("done", {"outcome": "stopped", "message": odd}),
        ("done", {"outcome": "failed", "message": odd, "code": odd}),
        ("done", {"outcome": odd}),
    ]:
        with transaction() as session:
            session.execute(text("DELETE FROM api_tokens"))
        an_attempt_that_calls(bead=committed(a_bead))
        body_text = json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        answer = client.post(f"/agent/v1/{call}", content=body_text, headers=headers)
        assert answer.status_code in (200, 422), (call, answer.text)
        assert answer.status_code == 200 or is_problem(answer, 422)


@pytest.mark.parametrize(
    ("call", "body"),
    [
        ("heartbeat", {"phase": "agent"}),
        ("heartbeat", []),
        ("done", {}),
        ("done", {"outcome": "failed", "exit_code": 2**40}),
        ("done", {"outcome": "succeeded"}),
        ("checkpoint", {"wip_sha": None}),
        ("status", {"text": 7}),
    ],
)
def test_a_wrong_body_is_422(client: httpx.Client, call: str, body: Any) -> None:
    dispatch = an_attempt_that_calls(STARTING)
    assert is_problem(post(client, call, body), 422)
    assert now(dispatch).status == STARTING


def test_no_json_is_422(client: httpx.Client) -> None:
    an_attempt_that_calls()
    answer = client.post("/agent/v1/heartbeat", content=b"\xff{", headers={"Content-Type": "application/json"})
    assert is_problem(answer, 422)


def test_an_unknown_route_and_method(client: httpx.Client) -> None:
    assert is_problem(client.get("/agent/v1/secrets"), 404)
    assert is_problem(client.get("/agent/v1/done"), 405)


@pytest.mark.usefixtures("products_deadlines")
def test_a_busy_database_is_503(client: httpx.Client) -> None:
    """Temporary: the supervisor asks again."""
    dispatch = an_attempt_that_calls()
    with transaction() as session:
        session.execute(select(Bead).where(Bead.id == dispatch.bead_id).with_for_update())
        answer = post(client, "heartbeat", ROUTES[1][2])
    assert is_problem(answer, 503)


# --- health


def test_health(client: httpx.Client) -> None:
    assert client.get("/healthz").json() == {"status": "ok"}
    assert client.get("/readyz").json() == {"status": "ready"}


def test_the_api_beats_while_it_serves(database: str) -> None:
    """What the outage guard reads."""
    deadline = time.monotonic() + 60
    with serve(lifespan="on"):
        while True:
            with transaction() as session:
                if session.scalar(select(Service.alive_at).where(Service.name == "api")):
                    return
            assert time.monotonic() < deadline, "it does not beat"
            time.sleep(0.01)
