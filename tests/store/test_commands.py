"""What people and attempts ask for, in every state: what it does, what it refuses, and whom it wakes."""

import uuid
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import func, select, text
from sqlalchemy.orm import Session

from gastown.agent.protocol import Done
from gastown.commands import attempt, work
from gastown.commands.work import NewBead
from gastown.db import transaction
from gastown.errors import NotFound, Refused, UsageError
from gastown.models import Agent, Bead, BeadDependency, Event, MergeRequest
from gastown.reconcile.actions import StopContainer
from gastown.states import (
    LIVE,
    AgentStatus,
    BeadStatus,
    DispatchStatus,
    FailureCode,
    MergeStatus,
    Resolution,
    StopCode,
    Verdict,
)
from gastown.store import attempts, merges
from gastown.store.attempts import Fenced
from gastown.store.moves import set_bead
from tests.builders import (
    BASE,
    HEAD,
    a_bead,
    a_merge,
    a_node,
    a_rig,
    a_town,
    agent_of,
    an_attempt,
    attempts_on,
    bead_of,
    now,
    the_api_is_there,
)
from tests.checks import forgotten
from tests.conftest import Clock
from tests.races import committed, race
from tests.ticks import live, tick, verdict_of
from tests.views import after

QUEUED, STARTING, RUNNING = LIVE
LOST, ROLLED_BACK = DispatchStatus.LOST, DispatchStatus.ROLLED_BACK
SUCCEEDED = Done(outcome="succeeded", base_sha=BASE, head_sha=HEAD, exit_code=0)
UNCHANGED = Done(outcome="succeeded", base_sha=BASE, head_sha=BASE)


@pytest.fixture
def town_id(clock: Clock) -> int:
    with transaction() as session:
        the_api_is_there(session)
        a_node(session)
        a_rig(session)
        return a_town(session).id


def finish(dispatch: Any, done: Done) -> str:
    return committed(lambda session: attempt.finish(session, dispatch.id, done))


def a_running(status: DispatchStatus = RUNNING) -> Any:
    return committed(lambda session: an_attempt(session, status))


def merge_of(bead_id: str) -> MergeRequest | None:
    with transaction() as session:
        return session.scalar(select(MergeRequest).where(MergeRequest.bead_id == bead_id))


def hooked(bead_id: str) -> int | None:
    with transaction() as session:
        return session.scalar(select(Agent.id).where(Agent.bead_id == bead_id))


# --- done


def test_done_with_commits(town_id: int, clock: Clock) -> None:
    """Model: done_atomic. Dispatch, bead, agent and merge request in one transaction."""
    dispatch = a_running()
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
    dispatch = a_running()
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
    dispatch = a_running()
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
    dispatch = a_running()
    assert [finish(dispatch, done) for _ in range(3)] == [answer] * 3
    assert finish(dispatch, SUCCEEDED) == answer  # whatever it says now
    tick()
    assert finish(dispatch, done) == answer
    with transaction() as session:
        assert session.scalar(select(func.count()).select_from(MergeRequest)) == (1 if done is SUCCEEDED else 0)
    assert len(live()) == (1 if answer in ("failed", "stopped") else 0)


def test_done_twice_at_once(town_id: int) -> None:
    dispatch = a_running()
    report = lambda session: attempt.finish(session, dispatch.id, SUCCEEDED)  # noqa: E731
    assert race(report, report) == "succeeded"


def test_done_and_cancel_at_once(town_id: int) -> None:
    """S21: whichever is first counts; the other is told so."""
    first = a_running()
    cancel = lambda dispatch: lambda session: work.cancel(session, town_id, dispatch.bead_id)  # noqa: E731
    report = lambda dispatch: lambda session: attempt.finish(session, dispatch.id, SUCCEEDED)  # noqa: E731
    with pytest.raises(Fenced):
        race(cancel(first), report(first))
    assert bead_of(first).resolution == Resolution.CANCELED
    assert merge_of(first.bead_id) is None
    second = a_running()
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
    dispatch = a_running()
    assert finish(dispatch, Done(outcome="failed", code=said, message="exit code 2", exit_code=2)) == "failed"
    assert (now(dispatch).code, now(dispatch).exit_code, now(dispatch).message) == (code, 2, "exit code 2")
    bead = bead_of(dispatch)
    assert (bead.status, bead.wake_at, bead.failure_message) == (BeadStatus.IN_PROGRESS, clock.now, "exit code 2")
    assert (agent_of(dispatch).status, agent_of(dispatch).bead_id) == (AgentStatus.IDLE, bead.id)


def test_stopped_by_a_drain_counts_nothing_and_goes_on(town_id: int) -> None:
    dispatch = a_running()
    assert finish(dispatch, Done(outcome="stopped", wip_sha="c" * 40)) == "stopped"
    assert (now(dispatch).code, now(dispatch).wip_sha) == (StopCode.DRAINED, "c" * 40)
    tick()
    assert [each.epoch for each in live()] == [2]
    assert committed(lambda session: attempts.count_failures(session, bead_of(dispatch), None)) == 0


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
    dispatch = a_running(STARTING)
    with pytest.raises(UsageError, match=words):
        finish(dispatch, done)
    assert now(dispatch).status == STARTING


def test_done_of_nobody(town_id: int) -> None:
    with pytest.raises(Fenced):
        finish(type("Nobody", (), {"id": uuid.uuid4()}), SUCCEEDED)


# --- cancel


@pytest.mark.parametrize("status", [QUEUED, STARTING, RUNNING])
def test_cancel_of_a_live_attempt(town_id: int, clock: Clock, status: DispatchStatus) -> None:
    """S21, S22, model: cancel_atomic."""
    dispatch = a_running(status)
    effects = committed(lambda session: work.cancel(session, town_id, dispatch.bead_id, actor="ann"))
    assert effects == [StopContainer(dispatch_id=str(dispatch.id), node="here")]
    assert (now(dispatch).status, now(dispatch).code) == (DispatchStatus.STOPPED, StopCode.CANCELED)
    assert (agent_of(dispatch).status, agent_of(dispatch).bead_id) == (AgentStatus.IDLE, None)
    assert (bead_of(dispatch).status, bead_of(dispatch).resolution) == (BeadStatus.CLOSED, Resolution.CANCELED)
    with transaction() as session:
        assert session.scalars(select(Event.actor).where(Event.kind == "canceled")).all() == ["ann"]
    assert committed(lambda session: attempts.claim_start(session, dispatch.id, "w")) is None


@pytest.mark.parametrize("status", [LOST, ROLLED_BACK, DispatchStatus.FAILED, DispatchStatus.STOPPED])
def test_cancel_between_attempts(town_id: int, status: DispatchStatus) -> None:
    dispatch = a_running(status)
    assert committed(lambda session: work.cancel(session, town_id, dispatch.bead_id)) == []
    assert (now(dispatch).status, hooked(dispatch.bead_id)) == (status, None)
    tick()
    assert live() == []


def test_cancel_of_a_bead_that_never_started(town_id: int) -> None:
    bead = committed(a_bead)
    assert committed(lambda session: work.cancel(session, town_id, bead.id)) == []
    assert now(bead).resolution == Resolution.CANCELED


@pytest.mark.parametrize(
    ("status", "words"),
    [
        ({"status": BeadStatus.CLOSED, "resolution": Resolution.MERGED}, "is merged already"),
        ({"status": BeadStatus.CLOSED, "resolution": Resolution.CANCELED}, "is canceled already"),
        ({"status": BeadStatus.FAILED}, "is failed already"),
    ],
)
def test_what_is_over_can_be_neither_canceled_nor_held(town_id: int, status: dict[str, Any], words: str) -> None:
    bead = committed(lambda session: a_bead(session, **status))
    with pytest.raises(Refused, match=words):
        committed(lambda session: work.cancel(session, town_id, bead.id))
    with pytest.raises(Refused, match=words):
        committed(lambda session: work.hold(session, town_id, bead.id, "x"))
    with pytest.raises(Refused, match="is "):
        committed(lambda session: work.force_dispatch(session, bead.id))


def test_cancel_then_retry_before_the_tick(town_id: int) -> None:
    """S26: a new epoch runs, the old one is fenced, nothing is wedged."""
    old = a_running()
    committed(lambda session: work.cancel(session, town_id, old.bead_id))
    committed(lambda session: work.retry(session, town_id, old.bead_id))
    tick()
    assert [each.epoch for each in live()] == [2]
    with pytest.raises(Fenced):
        finish(old, SUCCEEDED)
    with pytest.raises(Fenced):
        committed(lambda session: attempts.admit(session, old.id))


def test_cancel_then_retry_while_it_starts(town_id: int) -> None:
    old = a_running(STARTING)
    committed(lambda session: work.cancel(session, town_id, old.bead_id))
    committed(lambda session: work.retry(session, town_id, old.bead_id))
    assert not committed(lambda session: attempts.end_start_call(session, old.id, 1))  # the start undoes itself
    tick()
    assert [each.epoch for each in live()] == [2]


# --- hold and release


def test_hold_stops_and_release_goes_on(town_id: int, clock: Clock) -> None:
    dispatch = a_running()
    effects = committed(lambda session: work.hold(session, town_id, dispatch.bead_id, "Friday", actor="ann"))
    assert effects == [StopContainer(dispatch_id=str(dispatch.id), node="here")]
    assert (now(dispatch).status, now(dispatch).code) == (DispatchStatus.STOPPED, StopCode.HELD)
    tick()
    assert (bead_of(dispatch).verdict, bead_of(dispatch).verdict_reason) == (Verdict.HELD, "held: Friday")
    assert live() == []
    committed(lambda session: work.release(session, town_id, dispatch.bead_id))
    tick()
    assert [each.epoch for each in live()] == [2]
    with pytest.raises(Refused, match="is not held"):
        committed(lambda session: work.release(session, town_id, dispatch.bead_id))


def test_hold_of_a_ready_bead_takes_it_out_of_the_queue(town_id: int) -> None:
    bead = committed(lambda session: a_bead(session, ready_at=after(0), wake_at=None))
    assert committed(lambda session: work.hold(session, town_id, bead.id, "x")) == []
    tick()
    assert (live(), now(bead).ready_at) == ([], None)


def test_what_is_being_merged_cannot_be_held(town_id: int) -> None:
    request = committed(a_merge)
    with pytest.raises(Refused, match="is done and being merged"):
        committed(lambda session: work.hold(session, town_id, request.bead_id, "x"))


# --- retry


@pytest.mark.parametrize("ending", ["failed", "canceled"])
def test_retry_counts_from_0(town_id: int, clock: Clock, ending: str) -> None:
    """S23."""
    dispatch = a_running(DispatchStatus.FAILED)
    oom = {"code": FailureCode.OOM, "failure_class": "agent"}
    with transaction() as session:
        for _ in range(4):
            an_attempt(session, LOST, bead=session.get_one(Bead, dispatch.bead_id), **oom)
        set_bead(session, dispatch.bead_id, failure_class="agent", failure_code="oom", failure_message="no")
    if ending == "canceled":
        committed(lambda session: work.cancel(session, town_id, dispatch.bead_id))
    else:
        tick()
        assert bead_of(dispatch).status == BeadStatus.FAILED
    answer = committed(lambda session: work.retry(session, town_id, dispatch.bead_id, actor="ann"))
    assert answer == "it is open again, and its attempts count from 0"
    bead = bead_of(dispatch)
    assert (bead.status, bead.resolution, bead.failure_code, bead.closed_at) == (BeadStatus.OPEN, None, None, None)
    assert bead.attempts_from == len(attempts_on(bead.id))
    with transaction() as session:
        assert session.scalars(select(Event.actor).where(Event.kind == "retried")).all() == ["ann"]
    tick()
    [new] = live()
    committed(lambda session: attempts.roll_back(session, new.id, FailureCode.START_ERROR, "x"))
    tick()
    assert len(live()) == 1  # its first retry is without backoff again


@pytest.mark.parametrize("resolution", [Resolution.MERGED, Resolution.NO_CHANGES, Resolution.DONE])
def test_what_is_done_is_not_retried(town_id: int, resolution: Resolution) -> None:
    bead = committed(lambda session: a_bead(session, status=BeadStatus.CLOSED, resolution=resolution))
    with pytest.raises(Refused, match=f"is {resolution}: there is nothing to retry"):
        committed(lambda session: work.retry(session, town_id, bead.id))


def test_retry_cuts_a_backoff_short(town_id: int) -> None:
    dispatch = a_running(LOST)
    committed(lambda session: set_bead(session, dispatch.bead_id, not_before=after(600)))
    tick()
    assert live() == []
    assert committed(lambda session: work.retry(session, town_id, dispatch.bead_id)) == "its next attempt starts now"
    tick()
    assert [each.epoch for each in live()] == [2]


@pytest.mark.parametrize("status", [QUEUED, RUNNING])
def test_retry_of_what_runs_is_refused(town_id: int, status: DispatchStatus) -> None:
    dispatch = a_running(status)
    with pytest.raises(Refused, match="there is nothing to retry"):
        committed(lambda session: work.retry(session, town_id, dispatch.bead_id))


def test_force_dispatch_skips_the_cooldown_and_nothing_else(town_id: int) -> None:
    with transaction() as session:
        cooling, held = a_bead(session, not_before=after(600)), a_bead(session, held_at=after(0), held_reason="x")
    for bead in (cooling, held):
        assert committed(lambda session, bead=bead: work.force_dispatch(session, bead.id)) == town_id
    tick()
    assert [each.bead_id for each in live()] == [cooling.id]
    with pytest.raises(NotFound, match="there is no bead gt-none"):
        committed(lambda session: work.force_dispatch(session, "gt-none"))


# --- sling


def test_sling(town_id: int) -> None:
    rig = committed(a_rig)
    new = NewBead(title="t", body="b", priority="high", labels=["x"], agent="claude")
    bead_id = committed(lambda session: work.sling(session, town_id, rig, new, actor="ann"))
    with transaction() as session:
        bead = session.get_one(Bead, bead_id)
        assert (bead.title, bead.body, bead.priority, bead.labels, bead.agent) == ("t", "b", 1, ["x"], "claude")
        assert bead_id.startswith("gt-")
    tick()
    assert live()[0].preset == "claude"


@pytest.mark.parametrize(
    ("new", "error", "words"),
    [
        ({"title": "  "}, UsageError, "needs a title"),
        ({"title": "x" * 501}, UsageError, "501 characters, at most 500"),
        ({"title": "a\x00b"}, UsageError, "NUL"),
        ({"title": "t", "body": "x" * 1024 * 1024 + "x"}, UsageError, "larger than"),
        ({"title": "t", "priority": "now"}, UsageError, "no priority now"),
        ({"title": "t", "after": ["gt-none"]}, NotFound, "no bead gt-none"),
    ],
)
def test_sling_refuses_what_makes_no_sense(
    town_id: int, new: dict[str, Any], error: type[Exception], words: str
) -> None:
    """S73."""
    rig = committed(a_rig)
    with pytest.raises(error, match=words):
        committed(lambda session: work.sling(session, town_id, rig, NewBead(**new)))
    with transaction() as session:
        assert session.scalar(select(func.count()).select_from(Bead)) == 0


@pytest.mark.parametrize("title", ["'; DROP TABLE beads; --", '"<script>alert(1)</script>', "a\nb\tc", "x" * 500, "🦀"])
def test_odd_titles_are_text(town_id: int, title: str) -> None:
    rig = committed(a_rig)
    bead_id = committed(lambda session: work.sling(session, town_id, rig, NewBead(title=title, body=title)))
    with transaction() as session:
        assert session.get_one(Bead, bead_id).title == title


def test_a_rig_without_an_agent_needs_one(town_id: int) -> None:
    rig = committed(lambda session: a_rig(session, name="bare", agent=None))
    with pytest.raises(UsageError, match="rig bare has no agent"):
        committed(lambda session: work.sling(session, town_id, rig, NewBead(title="t")))


def test_a_blocker_of_another_town_is_unknown(town_id: int) -> None:
    rig = committed(a_rig)
    with transaction() as session:
        other = a_bead(session, a_rig(session, town_id=a_town(session, name="other").id))
    for command in (work.cancel, work.retry, work.release):
        with pytest.raises(NotFound):
            committed(lambda session: command(session, town_id, other.id))  # noqa: B023
    with pytest.raises(NotFound):
        committed(lambda session: work.sling(session, town_id, rig, NewBead(title="t", after=[other.id])))


# --- wake-ups: whatever changes what a sleeping bead's rules read


def block(session: Session, bead: Bead, blocker_id: str) -> None:
    session.add(BeadDependency(bead_id=bead.id, blocker_id=blocker_id))
    session.flush()


def a_merging(session: Session) -> merges.MergeOrder:
    order = merges.claim_merge(session, a_merge(session).id, "w")
    assert order is not None
    return order


LEASE = timedelta(seconds=45)
# what is there before, and what then happens to it; somebody waits for its bead meanwhile
CHANGES: dict[str, tuple[Callable[[Session], Any], Callable[[Session, Any], Any]]] = {
    "cancel": (a_bead, lambda session, bead: work.cancel(session, bead.town_id, bead.id)),
    "hold": (a_bead, lambda session, bead: work.hold(session, bead.town_id, bead.id, "x")),
    "force": (a_bead, lambda session, bead: work.force_dispatch(session, bead.id)),
    "release": (
        lambda session: a_bead(session, held_at=after(0), held_reason="x"),
        lambda session, bead: work.release(session, bead.town_id, bead.id),
    ),
    "retry of a failed one": (
        lambda session: a_bead(session, status=BeadStatus.FAILED),
        lambda session, bead: work.retry(session, bead.town_id, bead.id),
    ),
    "retry of a canceled one": (
        lambda session: a_bead(session, status=BeadStatus.CLOSED, resolution=Resolution.CANCELED),
        lambda session, bead: work.retry(session, bead.town_id, bead.id),
    ),
    "roll back": (
        lambda session: an_attempt(session, STARTING),
        lambda session, it: attempts.roll_back(session, it.id, FailureCode.START_ERROR, "x"),
    ),
    "lose": (an_attempt, lambda session, it: attempts.lose(session, it.id, FailureCode.VANISHED, "x")),
    "fails for ever": (
        lambda session: an_attempt(session, STARTING),
        lambda session, it: attempts.roll_back(session, it.id, FailureCode.COMMAND_NOT_FOUND, "x"),
    ),
    "claim of the start": (
        lambda session: an_attempt(session, QUEUED),
        lambda session, it: attempts.claim_start(session, it.id, "w"),
    ),
    "first call": (lambda session: an_attempt(session, STARTING), lambda session, it: attempts.admit(session, it.id)),
    "doubt": (
        lambda session: an_attempt(session, STARTING),
        lambda session, it: attempts.doubt_start(session, it.id),
    ),
    "absent": (an_attempt, lambda session, it: attempts.note_seen(session, it.id, after(1), False, 1, False)),
    "done": (an_attempt, lambda session, it: attempt.finish(session, it.id, SUCCEEDED)),
    "done, unchanged": (an_attempt, lambda session, it: attempt.finish(session, it.id, UNCHANGED)),
    "failed": (an_attempt, lambda session, it: attempt.finish(session, it.id, Done(outcome="failed"))),
    "drained": (an_attempt, lambda session, it: attempt.finish(session, it.id, Done(outcome="stopped"))),
    "canceled at work": (an_attempt, lambda session, it: work.cancel(session, it.town_id, it.bead_id)),
    "held at work": (an_attempt, lambda session, it: work.hold(session, it.town_id, it.bead_id, "x")),
    "merge recorded": (a_merging, lambda session, it: merges.record_merged(session, it, HEAD)),
    "merge held": (a_merging, lambda session, it: merges.hold(session, it, merges.HoldCode.CONFLICT, "x")),
    "merge requeued": (a_merging, lambda session, it: merges.requeue(session, it, "x")),
    "merge canceled": (a_merging, lambda session, it: work.cancel(session, a_town(session).id, it.bead_id)),
    "worked on again": (
        a_merging,
        lambda session, it: work.retry(session, a_town(session).id, it.bead_id, again=True),
    ),
    "held merge tried again": (
        lambda session: a_merge(session, held_code="conflict", held_reason="x"),
        lambda session, it: work.retry(session, it.town_id, it.bead_id),
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_no_wake_up_is_forgotten(town_id: int, clock: Clock, change: str) -> None:
    """Two tick before and after it; then every sleeping bead must still be what it was last said to be."""
    there, happen = CHANGES[change]
    with transaction() as session:
        it = there(session)
        bead_id = it.id if isinstance(it, Bead) else it.bead_id
        waiting = a_bead(session)
        block(session, waiting, bead_id)
    tick()
    tick()
    assert verdict_of(waiting) in (Verdict.BLOCKED, Verdict.BLOCKER_FAILED)
    clock.advance(2)
    with transaction() as session:
        happen(session, it)
    with transaction() as session:
        assert forgotten(session) == []
    tick()
    tick()


def test_adoption_wakes_its_bead(town_id: int, clock: Clock) -> None:
    dispatch = a_running(LOST)
    committed(lambda session: set_bead(session, dispatch.bead_id, not_before=after(600), wake_at=after(0)))
    tick()
    assert bead_of(dispatch).wake_at == after(600)
    committed(lambda session: attempts.admit(session, dispatch.id))
    assert bead_of(dispatch).wake_at == clock.now
    tick()
    assert bead_of(dispatch).wake_at == after(45)
