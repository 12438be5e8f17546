"""The one gate for every call of an attempt: who is served, who is adopted, who is fenced for good."""

import uuid
from collections.abc import Callable
from datetime import timedelta

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from gastown.commands import work
from gastown.commands.attempt import REPORTED
from gastown.db import transaction
from gastown.models import Bead, Dispatch, Node
from gastown.states import (
    LIVE,
    AgentStatus,
    DispatchStatus,
    FailureCode,
)
from gastown.store import agents, attempts, reads, sightings
from gastown.store.attempts import Fenced
from gastown.store.moves import lock_bead, set_bead
from tests.builders import a_bead, a_node, a_rig, agent_of, an_agent, an_attempt, attempts_on, bead_of, failures_of, now
from tests.calls import CALLS, beat, everything, make
from tests.conftest import Clock
from tests.races import committed, race
from tests.views import after

QUEUED, STARTING, RUNNING = LIVE
SUCCEEDED, FAILED = DispatchStatus.SUCCEEDED, DispatchStatus.FAILED
ROLLED_BACK, LOST, STOPPED = DispatchStatus.ROLLED_BACK, DispatchStatus.LOST, DispatchStatus.STOPPED
ERROR = FailureCode.START_ERROR


# --- the one gate: adoption and its conditions


@pytest.mark.parametrize("status", [QUEUED, STARTING, RUNNING])
def test_a_live_attempt_is_served(clock: Clock, status: DispatchStatus) -> None:
    dispatch = make(status)
    clock.advance(30)
    beat(dispatch)
    served = now(dispatch)
    assert (served.status, served.heartbeat_at, served.phase) == (RUNNING, clock.now, "agent")
    assert served.lease_expires_at == clock.now + timedelta(seconds=45)
    assert served.started_at == (after(0) if status is RUNNING else clock.now)


@pytest.mark.parametrize("status", [ROLLED_BACK, LOST])
def test_one_that_was_given_up_is_adopted_by_any_call(clock: Clock, status: DispatchStatus) -> None:
    """S04, S28, model: every_call_adopts, adopt_lost."""
    for name, call in CALLS.items():
        dispatch = make(status)
        committed(
            lambda session, each=dispatch: set_bead(session, each.bead_id, not_before=after(99), ready_at=after(0))
        )
        committed(lambda session, each=dispatch: call(session, each))  # noqa: B023
        adopted = now(dispatch)
        assert adopted.adopted_at == clock.now, name
        if name in ("done", "failed"):
            assert adopted.status == (SUCCEEDED if name == "done" else FAILED)
            continue
        assert (adopted.status, adopted.code, adopted.failure_class, adopted.ended_at) == (RUNNING, None, None, None)
        assert (agent_of(dispatch).status, agent_of(dispatch).bead_id) == (AgentStatus.WORKING, dispatch.bead_id)
        bead = bead_of(dispatch)
        assert (bead.ready_at, bead.not_before, bead.failure_code, bead.wake_at) == (None, None, None, clock.now)


def test_an_adopted_attempt_counts_no_failure(clock: Clock) -> None:
    dispatch = make(STARTING)
    committed(lambda session: attempts.roll_back(session, dispatch.id, ERROR, "x"))
    assert failures_of(dispatch) == 1
    beat(dispatch)
    assert failures_of(dispatch) == 0


FENCED: dict[str, Callable[[Session], Dispatch]] = {
    "reported failed": lambda session: an_attempt(session, FAILED),
    "reported stopped": lambda session: an_attempt(session, STOPPED, phase=REPORTED),
    "canceled": lambda session: canceled(session, RUNNING),
    "canceled while starting": lambda session: canceled(session, STARTING),
    "lost, then canceled": lambda session: canceled(session, LOST),
    "rolled back, then held": lambda session: held(session, ROLLED_BACK),
    "held": lambda session: held(session, RUNNING),
    "replaced after it was lost": lambda session: replaced(session, LOST),
    "replaced after it was rolled back": lambda session: replaced(session, ROLLED_BACK),
    "replaced by one that ended": lambda session: replaced(session, LOST, by=LOST),
    "its agent works for another bead": lambda session: unhooked(session, LOST),
    "live without its hook": lambda session: unhooked(session, RUNNING),
    "canceled, then opened again": lambda session: reopened(session),
}


def canceled(session: Session, status: DispatchStatus) -> Dispatch:
    dispatch = an_attempt(session, status)
    work.cancel(session, dispatch.town_id, dispatch.bead_id)
    return dispatch


def held(session: Session, status: DispatchStatus) -> Dispatch:
    dispatch = an_attempt(session, status)
    work.hold(session, dispatch.town_id, dispatch.bead_id, "wait")
    return dispatch


def replaced(session: Session, status: DispatchStatus, by: DispatchStatus = STARTING) -> Dispatch:
    dispatch = an_attempt(session, status)
    an_attempt(session, by, bead=session.get_one(Bead, dispatch.bead_id))
    return dispatch


def unhooked(session: Session, status: DispatchStatus) -> Dispatch:
    dispatch = an_attempt(session, status)
    session.flush()
    agents.unhook(session, dispatch.bead_id)
    return dispatch


def reopened(session: Session) -> Dispatch:
    """S26: cancel, then retry, before any tick."""
    dispatch = canceled(session, RUNNING)
    work.retry(session, dispatch.town_id, dispatch.bead_id)
    return dispatch


@pytest.mark.parametrize("case", FENCED)
def test_a_fenced_attempt_changes_nothing(clock: Clock, case: str) -> None:
    """S08, S09, S21, S22, model: adopt_checks_epoch, adopt_checks_hook, adopt_only_unreported, calls_check_bead."""
    dispatch = committed(FENCED[case])
    before = everything(dispatch)
    clock.advance(1)
    repeats = case.startswith("reported")  # its own report may be sent again, and its last logs
    for name, call in CALLS.items():
        if repeats and name in ("done", "failed", "logs"):
            committed(lambda session: call(session, dispatch))  # noqa: B023
        else:
            with pytest.raises(Fenced):
                committed(lambda session: call(session, dispatch))  # noqa: B023
    assert everything(dispatch) == before
    assert len(attempts_on(dispatch.bead_id)) <= 2


def test_an_attempt_nobody_knows_is_fenced(database: str) -> None:
    with pytest.raises(Fenced, match="there is no attempt"):
        committed(lambda session: attempts.admit(session, uuid.uuid4()))


def test_adoption_and_the_next_dispatch_at_once(clock: Clock) -> None:
    """G2: either it is adopted or it is replaced, never both."""
    for adopted_first in (True, False):
        dispatch = make(LOST)

        def replace(session: Session, bead_id: str = dispatch.bead_id) -> bool:
            bead = lock_bead(session, bead_id)
            assert bead is not None
            live = select(Dispatch.id).where(Dispatch.bead_id == bead_id, Dispatch.status.in_(LIVE))
            if session.scalar(live) is None:  # as the rules look at it, under the bead's lock
                attempts.create_dispatch(session, bead, dispatch.node_id)  # noqa: B023
                return True
            return False

        adopt = lambda session, key=dispatch.id: attempts.admit(session, key)  # noqa: E731
        if adopted_first:
            assert race(adopt, replace) is False
        else:
            with pytest.raises(Fenced):
                race(replace, adopt)
        live = [each for each in attempts_on(dispatch.bead_id) if each.status in LIVE]
        assert [each.epoch for each in live] == [1 if adopted_first else 2]


# --- a new attempt


def test_create_dispatch_of_a_retry_has_the_next_epoch_and_the_same_agent(clock: Clock) -> None:
    first = make(LOST)
    committed(lambda session: set_bead(session, first.bead_id, forced_at=after(0), not_before=after(0)))
    second = committed(lambda session: create(session, first.bead_id))
    assert (second.epoch, second.agent_id, second.status) == (2, first.agent_id, QUEUED)
    assert (bead_of(first).forced_at, bead_of(first).not_before) == (None, None)


def create(session: Session, bead_id: str) -> Dispatch:
    bead = lock_bead(session, bead_id)
    assert bead is not None
    return attempts.create_dispatch(session, bead, a_node(session).id)


def test_create_dispatch_takes_an_idle_agent_of_the_rig_or_makes_one(clock: Clock) -> None:
    """S18: idle agents use no capacity, and are used again. S20: none is made before it is needed."""
    with transaction() as session:
        other = an_agent(session, a_rig(session, name="other"))
        an_agent(session, a_rig(session), status=AgentStatus.RETIRED)
        beads = [a_bead(session).id for _ in range(3)]
    made = committed(lambda session: create(session, beads[0])).agent_id
    assert made != other.id
    with transaction() as session:
        idle = an_agent(session, a_rig(session)).id
    assert committed(lambda session: create(session, beads[1])).agent_id == idle
    third = committed(lambda session: create(session, beads[2]))
    assert {agent_of(third).name} == {"birch"}  # ace is at work


def test_agent_names_never_run_out(clock: Clock) -> None:
    with transaction() as session:
        beads = [a_bead(session).id for _ in range(len(agents.AGENT_NAMES) + 1)]
    names = [agent_of(committed(lambda session, each=each: create(session, each))).name for each in beads]  # type: ignore[misc]
    assert len(set(names)) == len(names)
    assert names[-1] == "ace-2"


def test_create_dispatch_loses_when_its_agent_or_bead_moved(clock: Clock) -> None:
    dispatch = make(RUNNING)
    with pytest.raises(attempts.MoveLost, match="agent"):
        committed(lambda session: create(session, dispatch.bead_id))


# --- who may be stopped


def runtime_to_stop(dispatch: Dispatch) -> str | None:
    with transaction() as session:
        return reads.runtime_of_fenced(session, dispatch.id)


@pytest.mark.parametrize("case", FENCED)
def test_what_is_fenced_may_be_stopped(clock: Clock, case: str) -> None:
    assert runtime_to_stop(committed(FENCED[case])) == "process"


@pytest.mark.parametrize("status", [QUEUED, STARTING, RUNNING, ROLLED_BACK, LOST])
def test_what_is_live_or_may_be_adopted_is_never_stopped(clock: Clock, status: DispatchStatus) -> None:
    """Model: stop_only_fenced."""
    assert runtime_to_stop(make(status)) is None


def test_what_an_inspection_may_speak_of(clock: Clock) -> None:
    """Presence says nothing while somebody is inside the call of the start."""
    there = a_node_of_its_own()
    running = make(RUNNING, node=there)
    doubted = make(STARTING, node=there, call_ended_at=after(0))
    for status in (STARTING, QUEUED, LOST, SUCCEEDED):
        make(status, node=there)
    make(RUNNING)
    with transaction() as session:
        assert {each.dispatch_id for each in sightings.inspectable(session, "there")} == {running.id, doubted.id}
        assert sorted(reads.busy_nodes(session)) == ["here", "there"]
        assert reads.runtime_of_node(session, "there") == "process"
        assert reads.runtime_of_node(session, "nowhere") is None


def a_node_of_its_own() -> Node:
    return committed(lambda session: a_node(session, "there"))
