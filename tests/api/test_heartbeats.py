"""Heartbeats by HTTP: gathered or one by one, each gets its own answer."""

from datetime import timedelta
from typing import Any

import httpx
import pytest

from gastown.agent.protocol import HeartbeatAnswer
from gastown.states import DispatchStatus
from gastown.store.moves import lock_bead
from tests.api.conftest import TOKEN
from tests.builders import HEAD, an_attempt, bead_of, now
from tests.races import committed, together
from tests.ticks import take_messages

BEAT: dict[str, Any] = {"phase": "agent", "progressed": False}
ASKED = {"stop_code": "stalled", "stop_reason": "no output for 2 h"}


def attempt(token: str = TOKEN, status: DispatchStatus = DispatchStatus.RUNNING, **values: Any) -> Any:
    return committed(lambda session: an_attempt(session, status, token=token, **values))


def beat(client: httpx.Client, token: str = TOKEN, **said: Any) -> Any:
    return client.post("/agent/v1/heartbeat", json=BEAT | said, headers={"Authorization": f"Bearer {token}"})


def test_the_answer_says_when_to_stop(client: httpx.Client) -> None:
    dispatch = attempt()
    assert beat(client).json() == {"status": "ok", "stop": None, "reason": ""}
    asked_at = now(dispatch).heartbeat_at
    attempt("asked", stop_asked_at=asked_at, **ASKED)
    said = HeartbeatAnswer.from_json(beat(client, "asked").json())
    assert (said.stop, said.reason) == ("stalled", "no output for 2 h")


@pytest.mark.parametrize("status", [DispatchStatus.LOST, DispatchStatus.RUNNING])
def test_costs_and_tools_are_stored_whichever_way_it_goes(client: httpx.Client, status: DispatchStatus) -> None:
    dispatch = attempt(status=status)
    beat(client, cost_usd=1.5, tool_running=True)
    assert (now(dispatch).status, now(dispatch).cost_usd, now(dispatch).tool_running) == ("running", 1.5, True)


def test_protocol_1_is_served(client: httpx.Client) -> None:
    """A supervisor that was started before the upgrade: it sends less, and reads nothing of the answer."""
    dispatch = attempt(cost_usd=0.5)
    answer = client.post("/agent/v1/heartbeat", json={"phase": "agent", "progressed": True, "tool_running": False})
    assert (answer.status_code, now(dispatch).cost_usd) == (200, 0.5)
    done = {"outcome": "succeeded", "base_sha": "b" * 40, "head_sha": HEAD, "message": "", "exit_code": 0}
    assert client.post("/agent/v1/done", json=done).json() == {"status": "succeeded"}


def test_one_heartbeat_over_the_cap_pokes_a_tick(client: httpx.Client) -> None:
    dispatch = attempt(cap_usd=1.0)
    take_messages("control")
    beat(client, cost_usd=0.9)
    assert take_messages("control") == []
    assert beat(client, cost_usd=1.1).status_code == 200
    assert now(dispatch).cost_usd == 1.1
    assert ("gastown.reconcile", []) in take_messages("control")
    assert bead_of(dispatch).wake_at is not None


@pytest.mark.parametrize("cost", [-1, 1e300, "NaN", "Infinity", None, "much"])
def test_a_cost_that_is_none_is_422_and_does_not_disturb_others(client: httpx.Client, cost: Any) -> None:
    dispatch, other = attempt(), attempt("other")
    before = now(other).heartbeat_at
    answers = together(lambda: beat(client, cost_usd=cost), lambda: beat(client, "other"))
    assert [answer.status_code for answer in answers] == [422, 200]
    assert (now(dispatch).cost_usd, now(other).heartbeat_at > before) == (0, True)


@pytest.mark.usefixtures("products_deadlines")
def test_many_at_once(client: httpx.Client) -> None:
    """Fenced, unknown, starting, locked by others, and usual ones: each as if it were alone."""
    usual = [attempt(f"usual {n}") for n in range(6)]
    attempt("fenced", DispatchStatus.STOPPED)
    starting = attempt("starting", DispatchStatus.STARTING)
    busy = attempt("busy")
    before = {each.id: now(each).heartbeat_at for each in usual}

    def all_of_them(session: Any) -> list[int]:
        lock_bead(session, busy.bead_id)
        tokens = [*(f"usual {n}" for n in range(6)), "fenced", "nobody's", "starting", "busy"]
        calls = [lambda token=token: beat(client, token).status_code for token in tokens]
        return together(*calls)

    assert committed(all_of_them) == [*[200] * 6, 409, 401, 200, 503]
    assert now(starting).status == "running"
    for each in usual:
        assert now(each).heartbeat_at > before[each.id]
        assert now(each).lease_expires_at - now(each).heartbeat_at < timedelta(seconds=46)
    assert beat(client, "busy").status_code == 200
