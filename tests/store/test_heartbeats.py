"""The usual heartbeat, in one statement: as safe as the gate, whatever else happens to the attempt at that moment."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import event, text
from sqlalchemy.orm import Session

from gastown.agent.protocol import Heartbeat
from gastown.commands import attempt, work
from gastown.db import engine, one_statement
from gastown.errors import UsageError
from gastown.models import Bead, Dispatch
from gastown.states import AgentStatus, DispatchStatus, FailureCode, StopCode
from gastown.store import attempts
from gastown.store.attempts import Fenced
from gastown.store.endings import Ask, ask_stops
from gastown.store.heartbeats import Beaten
from gastown.store.moves import lock_bead, set_bead
from tests.builders import a_node, agent_of, an_attempt, attempts_on, bead_of, now
from tests.calls import everything, make
from tests.conftest import Clock
from tests.races import Thread, committed, race, together, wait_until_blocked
from tests.store.test_admission import FENCED
from tests.views import after

QUEUED, STARTING, RUNNING = DispatchStatus.QUEUED, DispatchStatus.STARTING, DispatchStatus.RUNNING
LOST, ROLLED_BACK = DispatchStatus.LOST, DispatchStatus.ROLLED_BACK
SAID = Heartbeat(phase="agent", progressed=True)


def running(**values: Any) -> tuple[Dispatch, str]:
    """An attempt that runs, and its token."""
    dispatch = make(RUNNING, **values)
    return dispatch, with_token(dispatch)


def with_token(dispatch: Dispatch) -> str:
    token = f"token of {dispatch.id}"
    row = "INSERT INTO api_tokens (town_id, dispatch_id, name, token_hash) VALUES (:town, :dispatch, 'a', :hash)"
    values = {"town": dispatch.town_id, "dispatch": dispatch.id, "hash": attempts.digest(token)}
    committed(lambda session: session.execute(text(row), values))
    return token


def beat(*tokens: str, said: Heartbeat = SAID) -> list[Beaten | None]:
    with one_statement() as connection:
        return attempt.usual_heartbeats(connection, [(token, said) for token in tokens])


def test_it_renews_the_lease_as_the_gate_does(clock: Clock) -> None:
    usual, token = running(lease_s=20)
    other = make(RUNNING, lease_s=20)
    clock.advance(7)
    said = Heartbeat(phase="setup", progressed=True, tool_running=True, cost_usd=0.5)
    assert beat(token, said=said) == [Beaten()]
    committed(lambda session: attempt.heartbeat(session, other.id, said))
    for dispatch in (now(usual), now(other)):
        assert (dispatch.heartbeat_at, dispatch.progress_at) == (clock.now, clock.now)
        assert dispatch.lease_expires_at == clock.now + timedelta(seconds=20)
        assert (dispatch.phase, dispatch.tool_running, dispatch.cost_usd) == ("setup", True, 0.5)
    clock.advance(7)
    beat(token, said=Heartbeat(phase="agent", progressed=False, cost_usd=0.25))
    later = now(usual)
    assert (later.heartbeat_at, later.progress_at) == (clock.now, after(7))
    assert (later.phase, later.tool_running, later.cost_usd) == ("agent", False, 0.5)  # a total never shrinks
    assert bead_of(usual).wake_at == after(0)  # no look of the reconciler is needed


def test_many_at_once_are_one_statement_and_each_gets_its_own_answer(clock: Clock) -> None:
    some = [running() for _ in range(5)]
    asked, token = running(stop_code=StopCode.STALLED, stop_reason="no output", stop_asked_at=after(0))
    lost = make(LOST)
    statements: list[str] = []
    listen = lambda *given: statements.append(given[2])  # noqa: E731
    event.listen(engine(), "before_cursor_execute", listen)
    try:
        tokens = [token for _, token in some]
        answers = beat("nobody's", *tokens, token, with_token(lost), tokens[0])
    finally:
        event.remove(engine(), "before_cursor_execute", listen)
    assert answers == [None, *[Beaten()] * 5, Beaten("stalled", "no output"), None, Beaten()]
    assert sum("UPDATE dispatches" in each for each in statements) == 1
    assert now(asked).heartbeat_at == clock.now
    assert now(lost).status == LOST
    assert beat() == []


@pytest.mark.parametrize("case", FENCED)
def test_one_that_is_fenced_changes_nothing(clock: Clock, case: str) -> None:
    dispatch = committed(FENCED[case])
    token, before = with_token(dispatch), everything(dispatch)
    clock.advance(1)
    assert beat(token) == [None]
    assert everything(dispatch) == before


@pytest.mark.parametrize("status", [QUEUED, STARTING, LOST, ROLLED_BACK])
def test_first_calls_and_adoptions_are_left_to_the_gate(clock: Clock, status: DispatchStatus) -> None:
    dispatch = make(status)
    token = with_token(dispatch)
    assert beat(token) == [None]
    assert now(dispatch).status == status
    committed(lambda session: attempt.heartbeat(session, dispatch.id, SAID))
    assert beat(token) == [Beaten()]


def test_above_its_cap_the_reconciler_is_woken(clock: Clock) -> None:
    dispatch, token = running(cap_usd=1.0)
    committed(lambda session: set_bead(session, dispatch.bead_id, wake_at=after(999)))
    assert beat(token, said=Heartbeat(phase="agent", progressed=False, cost_usd=1.0)) == [Beaten()]
    assert bead_of(dispatch).wake_at == after(999)
    dear = Heartbeat(phase="agent", progressed=False, cost_usd=1.01)
    assert beat(token, said=dear) == [None]
    assert committed(lambda session: attempt.heartbeat(session, dispatch.id, dear)) == Beaten(over_cap=True)
    assert (now(dispatch).cost_usd, bead_of(dispatch).wake_at) == (1.01, clock.now)
    ask = Ask(dispatch_id=dispatch.id, code=StopCode.OVER_CAP, reason="1.01 of 1 USD")
    committed(lambda session: ask_stops(session, [ask]))
    assert beat(token, said=dear) == [Beaten("over_cap", "1.01 of 1 USD")]


@pytest.mark.parametrize("cost", [-0.01, float("nan"), float("inf"), 1e6 + 1])
def test_a_cost_that_is_none_is_refused(clock: Clock, cost: float) -> None:
    dispatch = make(RUNNING)
    with pytest.raises(UsageError, match="a cost of"):
        committed(
            lambda session: attempt.heartbeat(
                session, dispatch.id, Heartbeat(phase="agent", progressed=False, cost_usd=cost)
            )
        )


# --- at the same moment


def lose(session: Session, dispatch: Dispatch) -> None:
    attempts.lose(session, dispatch.id, FailureCode.HEARTBEAT_LOST, "silent")


def cancel(session: Session, dispatch: Dispatch) -> None:
    work.cancel(session, dispatch.town_id, dispatch.bead_id)


def hold(session: Session, dispatch: Dispatch) -> None:
    work.hold(session, dispatch.town_id, dispatch.bead_id, "wait")


def replace(session: Session, dispatch: Dispatch) -> None:
    lose(session, dispatch)
    bead = lock_bead(session, dispatch.bead_id)
    assert bead is not None
    attempts.create_dispatch(session, bead, dispatch.node_id)


def stop(session: Session, dispatch: Dispatch) -> None:
    attempts.stop_attempt(session, dispatch.id, StopCode.STALLED, "no output")


OTHERS: dict[str, Callable[[Session, Dispatch], None]] = {
    "cancel": cancel,
    "hold": hold,
    "lose": lose,
    "new epoch": replace,
    "stop": stop,
}


@pytest.mark.parametrize("other", OTHERS)
def test_it_comes_while_another_is_not_committed(clock: Clock, other: str) -> None:
    """Nothing waits, nothing is renewed; the gate then says what became of it."""
    dispatch, token = running()
    before = now(dispatch).heartbeat_at
    clock.advance(5)
    assert race(lambda session: OTHERS[other](session, dispatch), lambda session: beat(token)) == [None]
    assert beat(token) == [None]
    assert now(dispatch).heartbeat_at == before
    call = lambda session: attempt.heartbeat(session, dispatch.id, SAID)  # noqa: E731
    if other == "lose":
        assert committed(call) == Beaten()
        assert now(dispatch).adopted_at == clock.now
    else:
        with pytest.raises(Fenced):
            committed(call)


@pytest.mark.parametrize("other", OTHERS)
def test_another_comes_while_it_is_not_committed(clock: Clock, other: str) -> None:
    """It holds the bead, so the other waits for it and finds the attempt as it is."""
    dispatch, token = running()
    usual = lambda session: attempt.usual_heartbeats(session, [(token, SAID)])  # noqa: E731
    clock.advance(5)
    race(usual, lambda session: OTHERS[other](session, dispatch))
    assert now(dispatch).heartbeat_at == clock.now
    assert now(dispatch).status not in (QUEUED, STARTING, RUNNING)
    assert beat(token) == [None]


@pytest.mark.parametrize("change", ["status = 'lost', code = 'heartbeat_lost', ended_at = gastown_now()", "pid = 7"])
def test_the_attempts_row_changes_while_the_statement_waits_for_it(clock: Clock, change: str) -> None:
    """What Postgres looks at again is the row's newest version, not the one that the statement began with."""
    dispatch, token = running(stop_code=None)
    clock.advance(5)
    with engine().begin() as connection:
        connection.execute(
            text(f"UPDATE dispatches SET {change}, stop_code = 'stalled', stop_asked_at = gastown_now()")
        )
        waiting = Thread(lambda: beat(token))
        wait_until_blocked(waiting)
    if change == "pid = 7":
        assert waiting.value() == [Beaten("stalled", None)]
        assert now(dispatch).heartbeat_at == clock.now
    else:
        assert waiting.value() == [None]
        assert (now(dispatch).status, now(dispatch).heartbeat_at) == (LOST, after(0))


def test_heartbeats_and_cancellations_all_at_once(database: str) -> None:
    """Real time: whichever was first, a canceled attempt has no heartbeat after its end."""
    many = [running() for _ in range(12)]
    beats = [lambda token=token: [beat(token) for _ in range(5)] for _, token in many]
    cancels = [lambda each=each: committed(lambda session: cancel(session, each)) for each, _ in many]
    together(*beats, *cancels)
    for dispatch, _ in many:
        ended = now(dispatch)
        assert ended.status == DispatchStatus.STOPPED
        assert ended.heartbeat_at is not None
        assert ended.ended_at is not None
        assert ended.heartbeat_at <= ended.ended_at
        assert agent_of(dispatch).status == AgentStatus.IDLE


def test_the_next_epochs_heartbeat_is_its_own(clock: Clock) -> None:
    dispatch, token = running()
    committed(lambda session: lose(session, dispatch))
    second = committed(
        lambda session: an_attempt(session, RUNNING, bead=session.get_one(Bead, dispatch.bead_id), node=a_node(session))
    )
    clock.advance(5)
    assert beat(token, with_token(second)) == [None, Beaten()]
    assert [each.heartbeat_at for each in attempts_on(dispatch.bead_id)] == [after(0), clock.now]
