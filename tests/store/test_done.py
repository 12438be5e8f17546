"""How an attempt reports its end: all in one transaction, and as often as it likes."""

import uuid

import pytest
from sqlalchemy import func, select, text

from gastown.agent.protocol import Done
from gastown.commands import attempt, towns, work
from gastown.db import transaction
from gastown.errors import UsageError
from gastown.models import MergeRequest
from gastown.states import (
    LIVE,
    AgentStatus,
    BeadStatus,
    DispatchStatus,
    MergeStatus,
    Resolution,
    StopCode,
)
from gastown.store.attempts import Fenced
from tests.builders import (
    BASE,
    HEAD,
    a_node,
    agent_of,
    bead_of,
    failures_of,
    now,
)
from tests.calls import SUCCEEDED, UNCHANGED, finish, hooked, make, merge_of
from tests.conftest import Clock
from tests.races import committed, race
from tests.ticks import live, tick

QUEUED, STARTING, RUNNING = LIVE
LOST, ROLLED_BACK = DispatchStatus.LOST, DispatchStatus.ROLLED_BACK


# --- done


def test_done_with_commits(town_id: int, clock: Clock) -> None:
    """Model: done_atomic. Dispatch, bead, agent and merge request in one transaction."""
    dispatch = make()
    assert finish(dispatch, SUCCEEDED) == "succeeded"
    ended, bead, request = now(dispatch), bead_of(dispatch), merge_of(dispatch.bead_id)
    assert (ended.status, ended.ended_at, ended.head_sha, ended.exit_code) == ("succeeded", clock.now, HEAD, 0)
    assert (bead.status, bead.wake_at) == (BeadStatus.IN_REVIEW, clock.now)
    assert (agent_of(dispatch).status, agent_of(dispatch).bead_id) == (AgentStatus.IDLE, None)
    assert request is not None
    assert (request.status, request.head_sha, request.target, request.dispatch_id) == (
        "open",
        HEAD,
        "main",
        dispatch.id,
    )


@pytest.mark.parametrize("broken", ["agents", "merge_requests", "beads"])
def test_done_is_all_or_nothing(town_id: int, broken: str) -> None:
    dispatch = make()
    with transaction() as session:
        session.execute(text(f"REVOKE ALL ON {broken} FROM public"))
        session.execute(
            text(
                f"CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'disk full'; END $$; "
                f"CREATE TRIGGER refuse BEFORE INSERT OR UPDATE ON {broken} FOR EACH ROW EXECUTE FUNCTION refuse()"
            )
        )
    with pytest.raises(Exception, match="disk full"):
        finish(dispatch, SUCCEEDED)
    assert (now(dispatch).status, bead_of(dispatch).status) == (RUNNING, BeadStatus.IN_PROGRESS)
    assert hooked(dispatch.bead_id) is not None
    assert merge_of(dispatch.bead_id) is None


def test_done_without_commits_is_no_merge(town_id: int, clock: Clock) -> None:
    """S57."""
    dispatch = make()
    assert finish(dispatch, UNCHANGED) == "succeeded"
    bead = bead_of(dispatch)
    assert (bead.status, bead.resolution, bead.closed_at) == (BeadStatus.CLOSED, Resolution.NO_CHANGES, clock.now)
    assert merge_of(dispatch.bead_id) is hooked(dispatch.bead_id) is None


@pytest.mark.parametrize(
    ("done", "answer"),
    [
        (SUCCEEDED, "succeeded"),
        (UNCHANGED, "succeeded"),
        (Done(outcome="failed", code="agent_failed", message="x"), "failed"),
        (Done(outcome="stopped", code="drained"), "stopped"),
    ],
)
def test_done_again_gets_the_same_answer_and_does_nothing(town_id: int, done: Done, answer: str) -> None:
    """S27, model: done_repeatable. Also once the next attempt is under way."""
    dispatch = make()
    if done.outcome == "stopped":
        drain()
    assert [finish(dispatch, done) for _ in range(3)] == [answer] * 3
    assert finish(dispatch, SUCCEEDED) == answer  # whatever it says now
    back_again()
    tick()
    assert finish(dispatch, done) == answer
    with transaction() as session:
        assert session.scalar(select(func.count()).select_from(MergeRequest)) == (1 if done is SUCCEEDED else 0)
    assert len(live()) == (1 if answer in ("failed", "stopped") else 0)


def test_done_twice_at_once(town_id: int) -> None:
    dispatch = make()
    report = lambda session: attempt.finish(session, dispatch.id, SUCCEEDED)  # noqa: E731
    assert race(report, report) == "succeeded"


def test_done_and_cancel_at_once(town_id: int) -> None:
    """S21: whichever is first counts; the other is told so."""
    first = make()
    cancel = lambda dispatch: lambda session: work.cancel(session, town_id, dispatch.bead_id)  # noqa: E731
    report = lambda dispatch: lambda session: attempt.finish(session, dispatch.id, SUCCEEDED)  # noqa: E731
    with pytest.raises(Fenced):
        race(cancel(first), report(first))
    assert bead_of(first).resolution == Resolution.CANCELED
    assert merge_of(first.bead_id) is None
    second = make()
    race(report(second), cancel(second))
    assert bead_of(second).resolution == Resolution.CANCELED
    request = merge_of(second.bead_id)
    assert request is not None
    assert (request.status, request.merged_sha) == (MergeStatus.CLOSED, None)


@pytest.mark.parametrize(
    ("said", "code"),
    [("agent_failed", "agent_failed"), ("oom", "oom"), ("out of luck", "agent_failed"), (None, "agent_failed")],
)
def test_failed(town_id: int, clock: Clock, said: str | None, code: str) -> None:
    dispatch = make()
    assert finish(dispatch, Done(outcome="failed", code=said, message="exit code 2", exit_code=2)) == "failed"
    assert (now(dispatch).code, now(dispatch).exit_code, now(dispatch).message) == (code, 2, "exit code 2")
    bead = bead_of(dispatch)
    assert (bead.status, bead.wake_at, bead.failure_message) == (BeadStatus.IN_PROGRESS, clock.now, "exit code 2")
    assert (agent_of(dispatch).status, agent_of(dispatch).bead_id) == (AgentStatus.IDLE, bead.id)


def test_stopped_without_a_drain_counts(town_id: int) -> None:
    """An agent that signals its own supervisor would be started again for ever, at full speed and free of charge."""
    dispatch = make()
    assert finish(dispatch, Done(outcome="stopped", code="drained")) == "failed"
    assert (now(dispatch).code, now(dispatch).failure_class) == ("stopped_unasked", "agent")
    assert failures_of(dispatch) == 1


def drain() -> None:
    committed(lambda session: towns.drain_node(session, a_node(session).name))


def back_again() -> None:
    committed(lambda session: towns.beat_node(session, a_node(session).name, "process", 8))


def test_stopped_by_a_drain_counts_nothing_and_goes_on(town_id: int) -> None:
    dispatch = make()
    drain()
    assert finish(dispatch, Done(outcome="stopped", wip_sha="c" * 40)) == "stopped"
    assert (now(dispatch).code, now(dispatch).wip_sha) == (StopCode.DRAINED, "c" * 40)
    tick()
    assert live() == []  # nothing is started on a node that drains
    back_again()
    tick()
    assert [each.epoch for each in live()] == [2]
    assert failures_of(dispatch) == 0


@pytest.mark.parametrize(
    ("done", "words"),
    [
        (Done(outcome="succeeded"), "names its head_sha"),
        (Done(outcome="succeeded", base_sha=BASE, head_sha="--all"), "is no commit"),
        (Done(outcome="succeeded", base_sha="main", head_sha=HEAD), "is no commit"),
        (Done(outcome="succeeded", base_sha=BASE, head_sha=HEAD, wip_sha="x"), "is no commit"),
        (Done(outcome="victory"), "there is no outcome 'victory'"),
    ],
)
def test_a_report_that_makes_no_sense_is_refused_and_changes_nothing(town_id: int, done: Done, words: str) -> None:
    dispatch = make(STARTING)
    with pytest.raises(UsageError, match=words):
        finish(dispatch, done)
    assert now(dispatch).status == STARTING


def test_done_of_nobody(town_id: int) -> None:
    with pytest.raises(Fenced):
        finish(type("Nobody", (), {"id": uuid.uuid4()}), SUCCEEDED)
