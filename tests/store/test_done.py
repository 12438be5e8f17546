"""How an attempt reports its end: all in one transaction, and as often as it likes."""

import base64
import uuid
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import func, select, text

from gastown.agent.protocol import Done, LogChunk
from gastown.commands import attempt, towns, work
from gastown.db import transaction
from gastown.errors import UsageError
from gastown.models import Bead, Dispatch, Event, MergeRequest, RateLimit
from gastown.states import (
    LIVE,
    AgentStatus,
    BeadStatus,
    DispatchStatus,
    MergeStatus,
    Resolution,
    StopCode,
)
from gastown.store import attempts
from gastown.store.attempts import Fenced
from gastown.store.endings import Ask, ask_stops
from tests.builders import (
    BASE,
    HEAD,
    a_node,
    agent_of,
    an_attempt,
    bead_of,
    failures_of,
    now,
)
from tests.calls import SUCCEEDED, UNCHANGED, finish, hooked, make, merge_of
from tests.conftest import Clock
from tests.races import committed, race
from tests.ticks import live, tick
from tests.views import after

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


def test_stopped_from_outside_of_its_container_is_no_fault_of_the_agent(town_id: int) -> None:
    """Its engine was restarted, say."""
    dispatch = make()
    assert finish(dispatch, Done(outcome="stopped", code="stopped_outside")) == "failed"
    assert (now(dispatch).code, now(dispatch).failure_class) == ("stopped_outside", "infra")
    assert "engine or machine was restarted" in str(bead_of(dispatch).failure_message)


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


# --- stopped as it was asked


def asked(code: StopCode, **values: Any) -> Dispatch:
    dispatch = make(**values)
    ask = Ask(dispatch_id=dispatch.id, code=code, reason="no output for 2 h")
    committed(lambda session: ask_stops(session, [ask]))
    return dispatch


@pytest.mark.parametrize(
    ("code", "failure_class"),
    [(StopCode.STALLED, "agent"), (StopCode.MAX_RUNTIME, "agent"), (StopCode.OVER_CAP, "budget")],
)
def test_stopped_as_asked_costs_what_the_code_says(town_id: int, code: StopCode, failure_class: str) -> None:
    """Whatever it says of the reason, and whether or not its node drains as well."""
    dispatch = asked(code)
    drain()
    report = Done(outcome="stopped", code="drained", wip_sha="c" * 40, exit_code=143)
    assert [finish(dispatch, report) for _ in range(3)] == ["stopped"] * 3
    ended, bead = now(dispatch), bead_of(dispatch)
    assert (ended.status, ended.code, ended.failure_class) == (DispatchStatus.STOPPED, code, failure_class)
    assert (ended.message, ended.wip_sha, ended.exit_code) == ("no output for 2 h", "c" * 40, 143)
    assert (bead.failure_class, bead.failure_code, bead.status) == (failure_class, code, BeadStatus.IN_PROGRESS)
    assert (agent_of(dispatch).status, agent_of(dispatch).bead_id) == (AgentStatus.IDLE, bead.id)


def test_success_counts_although_it_was_asked_to_stop(town_id: int) -> None:
    dispatch = asked(StopCode.STALLED)
    assert finish(dispatch, SUCCEEDED) == "succeeded"
    assert bead_of(dispatch).status == BeadStatus.IN_REVIEW


def ended(code: StopCode) -> Dispatch:
    """It did not listen, and the rule has ended it before it said anything."""
    dispatch = asked(code, cost_usd=1.0)
    committed(lambda session: attempts.stop_attempt(session, dispatch.id, code, "did not listen"))
    return dispatch


@pytest.mark.parametrize("report", [Done(outcome="stopped", cost_usd=35), replace(SUCCEEDED, cost_usd=35)])
def test_one_that_was_stopped_meanwhile_is_told_so_and_what_it_cost_is_kept(town_id: int, report: Done) -> None:
    """An older supervisor, or one that was slow. What it says of its end counts for nothing, and people see that."""
    dispatch = ended(StopCode.MAX_RUNTIME)
    assert [finish(dispatch, replace(report, wip_sha="c" * 40)) for _ in range(2)] == ["stopped"] * 2
    row = now(dispatch)
    assert (row.message, row.cost_usd, row.wip_sha) == ("did not listen", 35, "c" * 40)
    assert (row.head_sha, merge_of(dispatch.bead_id)) == (None, None)
    with transaction() as session:
        (said,) = session.scalars(select(Event.message).where(Event.kind == "reported_late"))
    assert said == f"attempt 1 reported {report.outcome} after it was stopped (max_runtime): not counted"
    with pytest.raises(Fenced):
        committed(lambda session: attempts.admit(session, dispatch.id))


def test_a_late_report_never_lowers_what_is_known(town_id: int) -> None:
    dispatch = ended(StopCode.STALLED)
    committed(lambda session: session.get_one(Dispatch, dispatch.id).__setattr__("wip_sha", "d" * 40))
    assert finish(dispatch, Done(outcome="stopped", cost_usd=0.5)) == "stopped"
    assert (now(dispatch).cost_usd, now(dispatch).wip_sha) == (1.0, "d" * 40)


def test_one_that_was_stopped_and_replaced_can_report_nothing(town_id: int) -> None:
    """G2: neither its end nor its logs."""
    dispatch = ended(StopCode.MAX_RUNTIME)
    chunk = LogChunk(seq=9, data=base64.b64encode(b"x").decode())
    committed(lambda session: attempt.take_logs(session, dispatch.id, [chunk]))  # until then
    with transaction() as session:
        an_attempt(session, bead=session.get_one(Bead, dispatch.bead_id))
    for report in (SUCCEEDED, Done(outcome="stopped")):
        with pytest.raises(Fenced):
            finish(dispatch, report)
    with pytest.raises(Fenced):
        committed(lambda session: attempt.take_logs(session, dispatch.id, [chunk]))


def test_one_that_stopped_as_asked_is_heard_to_its_end_though_it_was_replaced(town_id: int) -> None:
    """S27: it has reported, and the answer was lost."""
    dispatch = asked(StopCode.MAX_RUNTIME)
    assert finish(dispatch, Done(outcome="stopped")) == "stopped"
    with transaction() as session:
        an_attempt(session, bead=session.get_one(Bead, dispatch.bead_id))
    assert finish(dispatch, Done(outcome="stopped")) == "stopped"
    chunk = LogChunk(seq=9, data=base64.b64encode(b"x").decode())
    committed(lambda session: attempt.take_logs(session, dispatch.id, [chunk]))


def test_a_report_and_the_rule_at_once(town_id: int) -> None:
    dispatch = asked(StopCode.STALLED)
    rule = lambda session: attempts.stop_attempt(session, dispatch.id, StopCode.STALLED, "did not listen")  # noqa: E731
    report = lambda session: attempt.finish(session, dispatch.id, Done(outcome="stopped"))  # noqa: E731
    assert race(rule, report) == "stopped"
    other = asked(StopCode.STALLED)
    assert (
        race(
            lambda session: attempt.finish(session, other.id, Done(outcome="stopped")),
            lambda session: attempts.stop_attempt(session, other.id, StopCode.STALLED, "did not listen"),
        )
        is False
    )


# --- costs


def test_the_cost_of_the_report_is_kept(town_id: int) -> None:
    dispatch = make(cost_usd=0.5)
    finish(dispatch, replace(SUCCEEDED, cost_usd=0.75))
    assert now(dispatch).cost_usd == 0.75
    cheap = make(cost_usd=0.5)
    finish(cheap, Done(outcome="failed", cost_usd=0.25))
    assert now(cheap).cost_usd == 0.5


@pytest.mark.parametrize("known", [0.0, 2.0])
def test_one_that_fails_above_its_cap_is_not_tried_again_by_itself(town_id: int, known: float) -> None:
    """G6: five attempts would cost five caps. Also when its report is the first to say so."""
    dispatch = make(cost_usd=known, cap_usd=1.0)
    report = Done(outcome="failed", code="agent_failed", message="exit code 1", exit_code=1, cost_usd=2.0)
    assert [finish(dispatch, report) for _ in range(2)] == ["stopped"] * 2
    assert (now(dispatch).code, now(dispatch).failure_class) == ("over_cap", "budget")
    assert now(dispatch).message == "it failed after 2 USD of at most 1: exit code 1"
    fine = make(cost_usd=known / 4, cap_usd=1.0)
    assert finish(fine, replace(report, cost_usd=1.0)) == "failed"
    assert finish(make(cap_usd=1.0), replace(SUCCEEDED, cost_usd=2.0)) == "succeeded"


@pytest.mark.parametrize("code", [None, StopCode.MAX_RUNTIME])
def test_one_that_is_stopped_above_its_cap_is_held_too(town_id: int, code: StopCode | None) -> None:
    """G6: a drain would have it tried again by itself, with another cap."""
    dispatch = make(cap_usd=10) if code is None else asked(code, cap_usd=10)
    drain()
    assert [finish(dispatch, Done(outcome="stopped", message="drained", cost_usd=99)) for _ in range(2)] == [
        "stopped",
        "stopped",
    ]
    assert (now(dispatch).code, now(dispatch).message) == ("over_cap", "it stopped after 99 USD of at most 10: drained")
    back_again()
    tick()
    assert live() == []
    assert bead_of(dispatch).held_reason is not None


# --- limits and logins


def limit_of(preset: str = "shell") -> RateLimit | None:
    with transaction() as session:
        return session.scalar(select(RateLimit).where(RateLimit.preset == preset))


@pytest.mark.parametrize(
    ("said", "pause_s"),
    [
        ({"retry_after_s": 90}, 90),
        ({"retry_at": (after(7200)).isoformat()}, 7200),
        ({}, 60),
        ({"retry_at": after(-10).isoformat()}, 60),
        ({"retry_after_s": -1}, 60),
        ({"retry_after_s": -1e300}, 60),
        ({"message": "429: slow\x00 down"}, 60),
        ({"retry_at": "9999-01-01T00:00:00+00:00"}, 86_400),
        ({"retry_after_s": 1e300}, 86_400),
    ],
)
def test_rate_limited_the_preset_rests(town_id: int, clock: Clock, said: dict[str, Any], pause_s: float) -> None:
    dispatch = make()
    words = {"outcome": "failed", "code": "rate_limited", "message": "429: slow down", "exit_code": 1}
    report = Done(**words | said)
    assert [finish(dispatch, report) for _ in range(2)] == ["failed"] * 2
    limit = limit_of()
    assert limit is not None
    assert (limit.until, limit.in_row, limit.reason) == (after(pause_s), 1, "429: slow down")
    assert (now(dispatch).code, now(dispatch).failure_class) == ("rate_limited", "rate_limit")
    assert (bead_of(dispatch).not_before, bead_of(dispatch).status) == (None, BeadStatus.IN_PROGRESS)
    with transaction() as session:
        said_to_people = session.scalars(select(Event.message).where(Event.kind == "rests")).one()
    assert said_to_people == f"nothing is started with shell before {after(pause_s):%H:%M:%S} UTC"


@pytest.mark.parametrize("said", [{"retry_at": "soon"}, {"retry_at": "2030-01-01"}, {"retry_after_s": float("nan")}])
def test_an_end_of_a_pause_that_is_no_time_is_refused(town_id: int, said: dict[str, Any]) -> None:
    dispatch = make()
    with pytest.raises(UsageError, match="the end of the pause"):
        finish(dispatch, Done(outcome="failed", code="rate_limited", **said))
    assert now(dispatch).status == RUNNING


def test_auth_failed_is_a_matter_for_people(town_id: int) -> None:
    dispatch = make()
    finish(dispatch, Done(outcome="failed", code="auth_failed", message="log in again", exit_code=1))
    assert (now(dispatch).failure_class, bead_of(dispatch).failure_class) == ("auth", "auth")
    assert limit_of() is None


def test_a_success_makes_the_next_limit_a_first_one(town_id: int, clock: Clock) -> None:
    limited = Done(outcome="failed", code="rate_limited", message="429")
    finish(make(), limited)
    clock.advance(61)
    finish(make(), limited)
    limit = limit_of()
    assert limit is not None
    assert (limit.in_row, limit.until) == (2, after(61 + 120))
    finish(make(preset="other"), SUCCEEDED)
    assert limit_of().in_row == 2  # type: ignore[union-attr]
    finish(make(), SUCCEEDED)
    limit = limit_of()
    assert limit is not None
    assert (limit.in_row, limit.until) == (0, after(61 + 120))


def test_a_message_with_what_no_database_takes_is_kept_without_it(town_id: int) -> None:
    dispatch = make()
    drain()
    assert finish(dispatch, Done(outcome="stopped", message="a\x00b")) == "stopped"
    assert now(dispatch).message == "ab"
