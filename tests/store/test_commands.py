"""What people ask for, in every state: what it does, and what it refuses."""

from typing import Any

import pytest
from sqlalchemy import func, select

from gastown.commands import work
from gastown.commands.work import NewBead
from gastown.db import transaction
from gastown.errors import NotFound, Refused, UsageError
from gastown.models import Bead, Event
from gastown.reconcile.actions import StopContainer
from gastown.states import (
    LIVE,
    AgentStatus,
    BeadStatus,
    DispatchStatus,
    FailureCode,
    Resolution,
    StopCode,
    Verdict,
)
from gastown.store import attempts, beads
from gastown.store.attempts import Fenced
from gastown.store.moves import set_bead
from tests.builders import (
    a_bead,
    a_merge,
    a_rig,
    a_town,
    agent_of,
    an_attempt,
    attempts_on,
    bead_of,
    now,
)
from tests.calls import SUCCEEDED, finish, hooked, make
from tests.conftest import Clock
from tests.races import committed
from tests.ticks import live, tick
from tests.views import after

QUEUED, STARTING, RUNNING = LIVE
LOST, ROLLED_BACK = DispatchStatus.LOST, DispatchStatus.ROLLED_BACK


# --- cancel


@pytest.mark.parametrize("status", [QUEUED, STARTING, RUNNING])
def test_cancel_of_a_live_attempt(town_id: int, clock: Clock, status: DispatchStatus) -> None:
    """S21, S22, model: cancel_atomic."""
    dispatch = make(status)
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
    dispatch = make(status)
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
    if bead.status == BeadStatus.CLOSED:
        with pytest.raises(Refused, match=words):
            committed(lambda session: work.cancel(session, town_id, bead.id))
    with pytest.raises(Refused, match=words):
        committed(lambda session: work.hold(session, town_id, bead.id, "x"))
    with pytest.raises(Refused, match="is "):
        committed(lambda session: work.force_dispatch(session, bead.id))


def test_cancel_then_retry_before_the_tick(town_id: int) -> None:
    """S26: a new epoch runs, the old one is fenced, nothing is wedged."""
    old = make()
    committed(lambda session: work.cancel(session, town_id, old.bead_id))
    committed(lambda session: work.retry(session, town_id, old.bead_id))
    tick()
    assert [each.epoch for each in live()] == [2]
    with pytest.raises(Fenced):
        finish(old, SUCCEEDED)
    with pytest.raises(Fenced):
        committed(lambda session: attempts.admit(session, old.id))


def test_cancel_then_retry_while_it_starts(town_id: int) -> None:
    old = make(STARTING)
    committed(lambda session: work.cancel(session, town_id, old.bead_id))
    committed(lambda session: work.retry(session, town_id, old.bead_id))
    assert not committed(lambda session: attempts.end_start_call(session, old.id, 1))  # the start undoes itself
    tick()
    assert [each.epoch for each in live()] == [2]


# --- hold and release


def test_hold_stops_and_release_goes_on(town_id: int, clock: Clock) -> None:
    dispatch = make()
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


def test_what_was_canceled_while_it_was_held_cannot_be_released(town_id: int) -> None:
    """Found by the simulation: the failure that it was held for was wiped off a bead that was over."""
    bead = committed(lambda session: a_bead(session, held_at=after(0), held_reason="its login"))
    committed(lambda session: work.cancel(session, town_id, bead.id))
    with pytest.raises(Refused, match="is canceled already"):
        committed(lambda session: work.release(session, town_id, bead.id))


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
    dispatch = make(DispatchStatus.FAILED)
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
    dispatch = make(LOST)
    committed(lambda session: set_bead(session, dispatch.bead_id, not_before=after(600)))
    tick()
    assert live() == []
    assert committed(lambda session: work.retry(session, town_id, dispatch.bead_id)) == "its next attempt starts now"
    tick()
    assert [each.epoch for each in live()] == [2]


@pytest.mark.parametrize("status", [QUEUED, RUNNING])
def test_retry_of_what_runs_is_refused(town_id: int, status: DispatchStatus) -> None:
    dispatch = make(status)
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


def test_a_cycle_is_refused_with_its_path(town_id: int) -> None:
    """S61."""
    first, second, third = (committed(a_bead).id for _ in range(3))
    committed(lambda session: beads.add_blockers(session, second, [first], town_id))
    committed(lambda session: beads.add_blockers(session, third, [second, second], town_id))
    with pytest.raises(Refused, match=f"closes a cycle: {first} waits for {third} waits for {second}"):
        committed(lambda session: beads.add_blockers(session, first, [third], town_id))
    committed(lambda session: beads.add_blockers(session, third, [second], town_id))  # said twice


def test_force_dispatch_of_what_needs_none_is_refused(town_id: int) -> None:
    """It would leave a flag behind that cuts a later backoff short."""
    with transaction() as session:
        at_work, merging = an_attempt(session).bead_id, a_merge(session).bead_id
    for bead_id, doing in ((at_work, "being worked on"), (merging, "being merged")):
        with pytest.raises(Refused, match=doing):
            committed(lambda session, bead_id=bead_id: work.force_dispatch(session, bead_id))
