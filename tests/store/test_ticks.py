"""Ticks of the real reconciler on a real database, without workers: who is started, who is woken, what a race costs."""

from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest
from sqlalchemy import func, select, text
from sqlalchemy.orm import Session

from gastown import apply as applying
from gastown.agent.protocol import Done
from gastown.commands import attempt, towns, work
from gastown.commands.work import NewBead
from gastown.db import in_transaction, transaction
from gastown.models import Agent, Bead, DecisionRow, Dispatch, Event, Town
from gastown.reconcile.actions import Effect, StartContainer
from gastown.reconcile.decision import Decision
from gastown.reconcile.policy import Policy
from gastown.reconcile.views import BeadView
from gastown.states import AgentStatus, BeadStatus, DispatchStatus, FailureCode, Resolution, Verdict
from gastown.store import attempts, claims, resync, services
from gastown.store.moves import set_bead, wake
from gastown.tasks import reconcile as ticking
from tests.builders import (
    BASE,
    HEAD,
    a_bead,
    a_node,
    a_rig,
    a_town,
    agent_of,
    an_agent,
    an_attempt,
    attempts_on,
    now,
    the_api_is_there,
)
from tests.checks import check_invariants, forgotten, replay_decisions
from tests.conftest import Clock
from tests.races import Thread, committed, together, wait_until_blocked
from tests.ticks import live, take_messages, tick, verdict_of
from tests.views import after

QUEUED, RUNNING, LOST = DispatchStatus.QUEUED, DispatchStatus.RUNNING, DispatchStatus.LOST
ERROR = FailureCode.START_ERROR


@pytest.fixture
def town(clock: Clock) -> Town:
    """A town with a rig, a node that beats and an API that is there."""
    with transaction() as session:
        the_api_is_there(session)
        a_node(session)
        a_rig(session)
        return a_town(session)


def make(work_: Callable[[Session], Any]) -> Any:
    return committed(work_)


# --- starting


def test_a_new_bead_is_started(town: Town) -> None:
    bead = make(a_bead)
    tick()
    [dispatch] = live()
    assert (dispatch.bead_id, dispatch.epoch, dispatch.status) == (bead.id, 1, QUEUED)
    assert (now(bead).status, now(bead).ready_at, now(bead).wake_at) == (BeadStatus.IN_PROGRESS, None, after(10))
    assert agent_of(dispatch).status == AgentStatus.WORKING
    assert take_messages("node.here") == [("gastown.start_container", [str(dispatch.id)])]


def test_effects_are_published_after_the_commit(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    """L6: a worker that is faster than we are finds the row."""
    seen, publish = [], ticking.publish

    def look_then_publish(effect: Effect) -> bool:
        assert isinstance(effect, StartContainer)
        with transaction() as session:
            seen.append(session.scalar(select(Dispatch.status).where(Dispatch.id == effect.dispatch_id)))
        return publish(effect)

    monkeypatch.setattr(ticking, "publish", look_then_publish)
    make(a_bead)
    tick()
    assert seen == [QUEUED]


def test_a_lost_message_is_published_again_by_the_rows(town: Town, clock: Clock) -> None:
    """G5, S06: the reconciler is the outbox."""
    make(a_bead)
    tick()
    published = take_messages("node.here")  # lost
    for seconds in (9, 1, 10, 20):
        clock.advance(seconds)
        tick()
        assert take_messages("node.here") == ([] if seconds == 9 else published)
    clock.advance(80)
    make(lambda session: towns.beat_node(session, "here", "process", 8))
    tick()  # nobody took it: rolled back, and at once placed anew
    [dispatch] = live()
    assert (dispatch.epoch, dispatch.status) == (2, QUEUED)


def test_the_first_retry_is_on_the_next_tick(town: Town, clock: Clock) -> None:
    """G1, S01: no dead zone. The second waits out its backoff."""
    bead = make(a_bead)
    for _ in range(2):
        tick()
        [dispatch] = live()
        make(lambda session: attempts.roll_back(session, dispatch.id, ERROR, "no"))  # noqa: B023
    tick()
    assert (len(attempts_on(bead.id)), live(), verdict_of(bead)) == (2, [], Verdict.COOLDOWN)
    clock.advance(34)
    tick()
    assert [each.epoch for each in live()] == [3]
    assert live()[0].agent_id == attempts_on(bead.id)[0].agent_id


def test_agent_failures_exhaust_a_bead_and_infra_never(town: Town, clock: Clock) -> None:
    """S13, S14."""
    beads = {code: make(a_bead) for code in (FailureCode.AGENT_FAILED, FailureCode.HEARTBEAT_LOST)}
    for _ in range(7):
        tick()
        for dispatch in live():
            code = next(code for code, bead in beads.items() if bead.id == dispatch.bead_id)
            make(lambda session: attempts.admit(session, dispatch.id))  # noqa: B023
            make(lambda session: attempts.lose(session, dispatch.id, code, f"{code} {dispatch.epoch}"))  # noqa: B023
        clock.advance(700)
        make(lambda session: towns.beat_node(session, "here", "process", 8))
        make(the_api_is_there)
    failed = now(beads[FailureCode.AGENT_FAILED])
    assert (failed.status, failed.failure_code) == (BeadStatus.FAILED, "attempts_exhausted")
    assert failed.failure_message == "5 attempts failed; the last one: agent_failed 5"
    assert len(attempts_on(failed.id)) == 5
    assert len(attempts_on(beads[FailureCode.HEARTBEAT_LOST].id)) == 7
    with transaction() as session:
        assert session.scalar(select(Agent.id).where(Agent.bead_id == failed.id)) is None
        told = session.scalars(select(Event.message).where(Event.kind == "escalation")).all()
    assert told == [f"{failed.id} failed: {failed.failure_message}"]


def test_a_bead_that_can_never_work_fails_at_once(town: Town) -> None:
    """S17."""
    bead = make(a_bead)
    tick()
    make(lambda session: attempts.roll_back(session, live()[0].id, FailureCode.COMMAND_NOT_FOUND, "no shell"))
    tick()
    assert (now(bead).status, now(bead).failure_message) == (BeadStatus.FAILED, "no shell")


def test_order_is_forced_then_priority_then_age(town: Town, clock: Clock) -> None:
    make(lambda session: setattr(session.get_one(Town, town.id), "policy", {"max_running": 0}))
    names = {}
    for name, priority in (("old", 2), ("urgent", 0), ("young", 2), ("forced", 3)):
        names[make(lambda session: a_bead(session, priority=priority)).id] = name  # noqa: B023
        clock.advance(1)
    forced = next(key for key, name in names.items() if name == "forced")
    make(lambda session: work.force_dispatch(session, forced))
    tick()
    order = []
    for limit in range(1, 5):
        make(lambda session: setattr(session.get_one(Town, town.id), "policy", {"max_running": limit}))  # noqa: B023
        tick()
        order.append(names[live()[-1].bead_id])
        clock.advance(1)
    assert order == ["forced", "urgent", "old", "young"]


@pytest.mark.parametrize(
    ("limit", "started"),
    [
        ({"town": {"max_running": 2}}, 2),
        ({"town": {"rig_max_running": 3}}, 3),
        ({"rig": {"rig_max_running": 1}}, 1),
        ({"capacity": 2}, 2),
        ({"town": {"max_running": 9, "rig_max_running": 9}}, 5),
    ],
)
def test_capacity_per_town_rig_and_node(town: Town, limit: dict[str, Any], started: int) -> None:
    """G6, S24: every limit that can be set is enforced."""
    with transaction() as session:
        session.get_one(Town, town.id).policy = limit.get("town", {})
        a_rig(session).policy = limit.get("rig", {})
        a_node(session).capacity = limit.get("capacity", 8)
        for _ in range(5):
            a_bead(session)
    tick()
    tick()
    assert len(live()) == started


def test_other_rigs_are_not_starved_by_one_that_is_full(town: Town) -> None:
    with transaction() as session:
        a_rig(session).policy = {"rig_max_running": 1}
        for _ in range(5):
            a_bead(session, priority=0)
        other = a_bead(session, a_rig(session, name="other"), priority=3)
    tick()
    assert other.id in {each.bead_id for each in live()}


@pytest.mark.parametrize("idle", ["the town is paused", "the rig is paused", "the node is silent", "there is no node"])
def test_gates_of_the_town(town: Town, clock: Clock, idle: str) -> None:
    """They hold no bead by itself: it is ready, and starts when the gate opens."""
    rig = "rig" if idle == "the rig is paused" else None
    if "paused" in idle:
        make(lambda session: towns.set_paused(session, town.id, True, rig=rig))
    elif idle == "there is no node":
        make(lambda session: session.execute(text("DELETE FROM nodes")))
    else:
        clock.advance(46)
    bead = make(a_bead)
    tick()
    assert (live(), verdict_of(bead)) == ([], Verdict.READY)
    if "paused" in idle:
        make(lambda session: towns.set_paused(session, town.id, False, rig=rig))
    else:
        make(lambda session: towns.beat_node(session, "here", "process", 8))
    tick()
    assert len(live()) == 1


def test_a_retry_avoids_the_node_that_failed_it_and_else_prefers_its_own(town: Town, clock: Clock) -> None:
    with transaction() as session:
        here, there = a_node(session), a_node(session, "there", capacity=20)
        failed_here = an_attempt(session, DispatchStatus.ROLLED_BACK, node=there)
        lost_here = an_attempt(session, LOST, node=here)
    tick()
    nodes = {each.bead_id: each.node_id for each in live()}
    assert nodes == {failed_here.bead_id: here.id, lost_here.bead_id: here.id}


def test_two_reconcilers_and_slings_at_once_never_exceed_a_limit(town: Town) -> None:
    """S19."""
    with transaction() as session:
        session.get_one(Town, town.id).policy = {"max_running": 2}
        rig = a_rig(session)
        for _ in range(6):
            a_bead(session)

    def slings() -> None:
        for _ in range(4):
            in_transaction(lambda session: work.sling(session, town.id, rig, NewBead(title="more")))

    def ticks() -> None:
        for _ in range(4):
            ticking.reconcile_town(town.id)

    together(ticks, ticks, slings)
    tick()
    assert len(live()) == 2
    with transaction() as session:
        assert session.scalar(select(func.count()).select_from(Dispatch)) == 2
        assert session.scalar(select(func.count()).where(Bead.ready_at.is_not(None))) == 8


def test_two_towns_share_a_node_and_its_capacity(town: Town) -> None:
    """A town's lock does not keep another town from the same node."""
    for capacity in (1, 2, 3):
        with transaction() as session:
            a_node(session).capacity = capacity
            other = a_town(session, name="other")
            for each in (town, other):
                a_bead(session, a_rig(session, town_id=each.id, name="rig"))
                a_bead(session, a_rig(session, town_id=each.id, name="rig"))
        together(lambda: ticking.reconcile_town(town.id), lambda: ticking.reconcile_town(other.id))  # noqa: B023
        assert len(live()) == capacity


def test_a_second_town_waits_for_the_first_to_commit_its_starts(town: Town) -> None:
    with transaction() as session:
        a_node(session).capacity = 1
        other = a_town(session, name="other")
        for each in (town, other):
            a_bead(session, a_rig(session, town_id=each.id, name="rig"), ready_at=after(0), wake_at=None)
    with transaction() as session:
        assert len(ticking_batch(session, town)[1]) == 1
        second = Thread(lambda: ticking.reconcile_town(other.id))
        wait_until_blocked(second)
    second.value()
    assert len(live()) == 1


def ticking_batch(session: Session, town: Town) -> tuple[bool, list[Effect]]:
    result = ticking._batch(session, town.id)
    assert result is not None
    return result


def test_a_town_is_one_reconcilers_at_a_time(town: Town) -> None:
    bead = make(a_bead)
    with transaction() as session:
        assert claims.try_lock_town(session, town.id)
        ticking.reconcile_town(town.id)  # returns at once: the other one sees what it would
    assert live() == []
    assert now(bead).wake_at is not None
    tick()
    assert len(live()) == 1


# --- wake-ups


def test_a_wake_that_commits_while_the_batch_decides_is_not_lost(town: Town, clock: Clock) -> None:
    bead = make(lambda session: a_bead(session, held_at=after(0), held_reason="wait"))
    with transaction() as session:
        ticking_batch(session, town)
        release = Thread(lambda: committed(lambda other: work.release(other, town.id, bead.id)))
        wait_until_blocked(release)
    release.value()
    assert now(bead).wake_at == clock.now
    tick()
    assert len(live()) == 1


def test_a_wake_by_an_action_of_the_same_batch_is_not_lost(town: Town) -> None:
    """A bead fails; who waits for it was decided before, in the same batch, whichever came first."""
    with transaction() as session:
        first = a_bead(session, id="gt-1-waits")
        broken = an_attempt(session, LOST, bead=a_bead(session, id="gt-5-fails"))
        last = a_bead(session, id="gt-9-waits")
        failure = {"failure_class": "config", "failure_code": "oom", "failure_message": "x"}
        set_bead(session, broken.bead_id, wake_at=after(0), **failure)
        for each in (first, last):
            session.execute(
                text("INSERT INTO bead_dependencies (bead_id, blocker_id) VALUES (:bead, 'gt-5-fails')"),
                {"bead": each.id},
            )
    tick()
    assert verdict_of(first) == verdict_of(last) == Verdict.BLOCKER_FAILED


def test_a_bead_that_waits_sleeps_until_its_blocker_is_merged(town: Town, clock: Clock) -> None:
    """S50, S51, G7."""
    blocker = make(a_bead)
    rig = make(a_rig)
    waiting_id = make(lambda session: work.sling(session, town.id, rig, NewBead(title="b", after=[blocker.id])))
    waiting = make(lambda session: session.get_one(Bead, waiting_id))
    tick()
    [dispatch] = live()
    assert verdict_of(waiting) == Verdict.BLOCKED
    assert now(waiting).wake_at is None
    make(lambda session: attempts.admit(session, dispatch.id))
    make(lambda session: attempt.finish(session, dispatch.id, Done(outcome="succeeded", base_sha=BASE, head_sha=HEAD)))
    tick()
    assert now(waiting).status == BeadStatus.OPEN  # done is not merged
    work_on = lambda session: work.cancel(session, town.id, blocker.id)  # noqa: E731
    make(work_on)
    tick()
    assert verdict_of(waiting) == Verdict.BLOCKER_FAILED
    make(lambda session: work.retry(session, town.id, blocker.id))
    tick()
    assert verdict_of(waiting) == Verdict.BLOCKED
    [dispatch] = live()
    make(lambda session: attempts.admit(session, dispatch.id))
    make(lambda session: attempt.finish(session, dispatch.id, Done(outcome="succeeded", base_sha=BASE, head_sha=BASE)))
    tick()
    assert now(blocker).resolution == Resolution.NO_CHANGES
    assert [each.bead_id for each in live()] == [waiting.id]


def test_nothing_is_looked_at_without_a_reason(town: Town, clock: Clock) -> None:
    """G7, S77: an hour with one bead held, one blocked and one merged writes no row."""
    with transaction() as session:
        held = a_bead(session, held_at=after(0), held_reason="x")
        waiting = a_bead(session)
        session.execute(
            text("INSERT INTO bead_dependencies (bead_id, blocker_id) VALUES (:a, :b)"), {"a": waiting.id, "b": held.id}
        )
    tick()
    before = (now(held).looked_at, now(waiting).looked_at)
    for _ in range(4):
        clock.advance(900)
        with transaction() as session:
            assert claims.towns_with_work(session) == []
        tick()
    assert (now(held).looked_at, now(waiting).looked_at) == before


def test_due_and_ready_towns_are_found(town: Town, clock: Clock) -> None:
    other = make(lambda session: a_town(session, name="other"))
    with transaction() as session:
        a_bead(session, a_rig(session, town_id=other.id), wake_at=after(30))
        a_bead(session, wake_at=None, ready_at=after(0))
        assert claims.towns_with_work(session) == [town.id]
    clock.advance(30)
    with transaction() as session:
        assert claims.towns_with_work(session) == [town.id, other.id]
        assert claims.something_due(session, other.id)


# --- races and rules that raise


def test_a_lost_race_undoes_one_bead_only_and_leaves_it_due(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    """The savepoint: its agent, made a moment before the move that is lost, is gone with it."""
    beads = [make(a_bead) for _ in range(3)]
    create = attempts.create_dispatch

    def somebody_was_first(session: Session, bead: Bead, node_id: int) -> Dispatch:
        dispatch = create(session, bead, node_id)
        if bead.id == beads[1].id and len(lost) == 0:
            lost.append(bead.id)
            raise attempts.MoveLost("somebody was first")
        return dispatch

    lost: list[str] = []
    monkeypatch.setattr(applying.attempts, "create_dispatch", somebody_was_first)
    with transaction() as session:
        ticking_batch(session, town)
    assert [len(attempts_on(bead.id)) for bead in beads] == [1, 0, 1]
    assert (now(beads[1]).status, now(beads[1]).wake_at) == (BeadStatus.OPEN, after(0))
    with transaction() as session:
        assert session.scalar(select(func.count()).select_from(Agent)) == 2
    tick()
    assert len(live()) == 3


def test_a_constraint_that_is_hit_costs_one_bead_only(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    """Model: unique_index. What cannot be stored must not keep a whole town from being decided."""
    poisoned, healthy = make(a_bead), make(a_bead)
    make(lambda session: an_agent(session, a_rig(session), bead_id=healthy.id))
    create = attempts.create_dispatch

    def twice(session: Session, bead: Bead, node_id: int) -> Dispatch:
        dispatch = create(session, bead, node_id)
        if bead.id == poisoned.id:
            session.execute(text("UPDATE agents SET bead_id = :bead"), {"bead": bead.id})
        return dispatch

    monkeypatch.setattr(applying.attempts, "create_dispatch", twice)
    tick()
    assert [each.bead_id for each in live()] == [healthy.id]
    assert now(poisoned).status == BeadStatus.OPEN
    assert (now(poisoned).wake_at or after(0)) > after(0)  # not at once again


def test_a_rule_that_raises_costs_its_own_bead_a_delay(
    town: Town, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S37."""
    poisoned, healthy = make(a_bead), make(a_bead)
    decide = ticking.decide

    def raise_for_one(view: BeadView, at: datetime, policy: Policy) -> Decision:
        if view.id == poisoned.id:
            raise ZeroDivisionError
        return decide(view, at, policy)

    monkeypatch.setattr(ticking, "decide", raise_for_one)
    ticking.reconcile_town(town.id)
    assert [each.bead_id for each in live()] == [healthy.id]
    assert now(poisoned).wake_at == after(30)
    monkeypatch.setattr(ticking, "decide", decide)
    clock.advance(29)
    tick()
    assert len(live()) == 1
    clock.advance(1)
    tick()
    assert len(live()) == 2


# --- the log of decisions, and the safety net


def test_a_verdict_is_logged_when_it_changes_and_only_then(town: Town, clock: Clock) -> None:
    bead = make(lambda session: a_bead(session, held_at=after(0), held_reason="wait"))
    for _ in range(3):
        tick()
        make(lambda session: wake(session, bead.id))
        clock.advance(1)
    make(lambda session: work.release(session, town.id, bead.id))
    tick()
    with transaction() as session:
        rows = session.scalars(select(DecisionRow).order_by(DecisionRow.id)).all()
        assert [row.verdict for row in rows] == [Verdict.HELD, Verdict.READY, Verdict.DISPATCH]
        assert replay_decisions(session) == 3


def test_resync_finds_what_no_wake_up_reached(town: Town) -> None:
    forgot, held = make(a_bead), make(lambda session: a_bead(session, held_at=after(0), held_reason="x"))
    tick()
    make(lambda session: session.execute(text("UPDATE beads SET wake_at = NULL")))
    with transaction() as session:
        assert resync.wake_forgotten(session) == 1  # the started one; the held one sleeps rightly
    assert now(forgot).wake_at is not None
    assert now(held).wake_at is not None
    tick()


BROKEN = [
    ("UPDATE agents SET status = 'idle'", "whose agent is not at work"),
    ("UPDATE dispatches SET status = 'stopped', code = 'held', ended_at = now()", "no live attempt behind it"),
    ("UPDATE dispatches SET epoch = 2 WHERE status = 'lost'", "a newer epoch has superseded"),
    ("UPDATE beads SET wake_at = NULL; UPDATE agents SET status = 'idle'", "nobody holds and nothing will wake"),
    ("UPDATE beads SET status = 'in_review'", "in review with no unfinished merge request"),
    ("UPDATE beads SET status = 'closed', resolution = 'merged', closed_at = now()", "merged without a merged request"),
    (
        "INSERT INTO merge_requests (town_id, rig_id, bead_id, dispatch_id, target, head_sha, priority, status,"
        " merged_sha, merged_at) "
        "SELECT town_id, rig_id, bead_id, id, 'main', 'x', 1, 'closed', 'x', now() FROM dispatches LIMIT 1",
        "a request that is merged while its bead is not",
    ),
    ("UPDATE dispatches SET status = 'succeeded' WHERE status = 'lost'", "done that another attempt followed"),
    (
        "UPDATE beads SET status = 'closed', resolution = 'done', closed_at = now(), wake_at = NULL",
        "a terminal bead with a live attempt or a hooked agent",
    ),
]


@pytest.mark.parametrize(("statement", "words"), BROKEN)
def test_resync_sees_each_broken_invariant(town: Town, statement: str, words: str) -> None:
    with transaction() as session:
        lost = an_attempt(session, LOST)
        an_attempt(session, RUNNING, bead=session.get_one(Bead, lost.bead_id))
        assert resync.find_violations(session) == []
        for part in statement.replace("epoch = 2 WHERE", "epoch = 3 WHERE").split(";"):
            session.execute(text(part))
        assert words in " ".join(resync.find_violations(session))
        session.rollback()
    assert len(BROKEN) == len(resync.INVARIANTS)


def test_a_terminal_bead_is_cleaned_up_and_its_attempt_stopped(town: Town) -> None:
    """Model: cleanup_unhooks. However it came about."""
    running = make(lambda session: an_attempt(session, RUNNING))
    hooked = make(lambda session: an_attempt(session, LOST))
    over = "UPDATE beads SET status = 'closed', resolution = 'canceled', closed_at = now(), wake_at = gastown_now()"
    make(lambda session: session.execute(text(over)))
    tick()
    assert now(running).status == DispatchStatus.STOPPED
    for each in (running, hooked):
        assert (agent_of(each).status, agent_of(each).bead_id) == (AgentStatus.IDLE, None)
    assert take_messages("node.here") == [("gastown.stop_container", [str(running.id)])]


def test_the_outage_of_the_api_is_nobodys_death(town: Town, clock: Clock) -> None:
    """S31, model: guard_by_api. After it, a lease counts only time in which the API was there."""
    dispatch = make(lambda session: an_attempt(session, RUNNING))
    for _ in range(20):  # 5 minutes, the API silent
        clock.advance(15)
        tick()
    assert now(dispatch).status == RUNNING
    make(lambda session: services.beat(session, "api"))
    for seconds in (1, 14, 15, 14):
        clock.advance(seconds)
        make(lambda session: services.beat(session, "api"))
        tick()
        assert now(dispatch).status == RUNNING, seconds
    clock.advance(15)
    make(lambda session: services.beat(session, "api"))
    tick()
    assert now(dispatch).status == LOST


def test_nothing_is_forgotten_by_the_checks_themselves(town: Town) -> None:
    bead = make(lambda session: a_bead(session, held_at=after(0), held_reason="x"))
    tick()
    make(lambda session: set_bead(session, bead.id, held_at=None, held_reason=None))  # a writer that forgot to wake
    with transaction() as session:
        assert forgotten(session) == [f"{bead.id} sleeps as held (held: x), and is ready"]
        with pytest.raises(AssertionError):
            check_invariants(session)
