"""Ticks of the real reconciler without workers: who is woken, what a lost race costs, what the log says."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import pytest
import redis
from sqlalchemy import func, select, text
from sqlalchemy.orm import Session

from gastown.agent.protocol import Done
from gastown.celery_app import app
from gastown.commands import attempt, work
from gastown.commands.work import NewBead
from gastown.db import transaction
from gastown.models import Agent, Bead, DecisionRow, Service, Town
from gastown.reconcile.actions import AskMerge, InspectContainers, StartContainer, StopContainer
from gastown.reconcile.decision import Decision
from gastown.reconcile.policy import Policy
from gastown.reconcile.views import BeadView
from gastown.states import AgentStatus, BeadStatus, DispatchStatus, FailureCode, Resolution, Verdict
from gastown.store import attempts, claims, counters, creation, escalations, resync, services, views
from gastown.store.moves import lock_beads, set_bead, wake
from gastown.tasks import reconcile as ticking
from gastown.tasks.base import publish_all
from gastown.tasks.reconcile import reconcile_town
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
    bead_of,
    now,
)
from tests.calls import make
from tests.checks import check_invariants, forgotten, replay_decisions
from tests.conftest import Clock
from tests.races import Thread, committed, wait_until_blocked
from tests.ticks import batch, live, take_messages, tick, verdict_of
from tests.views import after

QUEUED, RUNNING, LOST = DispatchStatus.QUEUED, DispatchStatus.RUNNING, DispatchStatus.LOST
STARTING = DispatchStatus.STARTING


# --- wake-ups


def test_a_wake_that_commits_while_the_batch_decides_is_not_lost(town: Town, clock: Clock) -> None:
    bead = committed(lambda session: a_bead(session, held_at=after(0), held_reason="wait"))
    with transaction() as session:
        batch(session, town)
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
    blocker = committed(a_bead)
    rig = committed(a_rig)
    waiting_id = committed(lambda session: work.sling(session, town.id, rig, NewBead(title="b", after=[blocker.id])))
    waiting = committed(lambda session: session.get_one(Bead, waiting_id))
    tick()
    [dispatch] = live()
    assert verdict_of(waiting) == Verdict.BLOCKED
    assert now(waiting).wake_at is None
    committed(lambda session: attempts.admit(session, dispatch.id))
    committed(
        lambda session: attempt.finish(session, dispatch.id, Done(outcome="succeeded", base_sha=BASE, head_sha=HEAD))
    )
    tick()
    assert now(waiting).status == BeadStatus.OPEN  # done is not merged
    work_on = lambda session: work.cancel(session, town.id, blocker.id)  # noqa: E731
    committed(work_on)
    tick()
    assert verdict_of(waiting) == Verdict.BLOCKER_FAILED
    committed(lambda session: work.retry(session, town.id, blocker.id))
    tick()
    assert verdict_of(waiting) == Verdict.BLOCKED
    [dispatch] = live()
    committed(lambda session: attempts.admit(session, dispatch.id))
    committed(
        lambda session: attempt.finish(session, dispatch.id, Done(outcome="succeeded", base_sha=BASE, head_sha=BASE))
    )
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
    other = committed(lambda session: a_town(session, name="other"))
    with transaction() as session:
        a_bead(session, a_rig(session, town_id=other.id), wake_at=after(30))
        a_bead(session, wake_at=None, ready_at=after(0))
        assert claims.towns_with_work(session) == [town.id]
    clock.advance(30)
    with transaction() as session:
        assert claims.towns_with_work(session) == [town.id, other.id]
        assert claims.something_due(session, other.id)


# --- races and rules that raise


def test_a_locked_bead_holds_nobody_up(town: Town) -> None:
    """Somebody is slow with one bead, due or ready: the others are decided without waiting, and that one later."""
    due, ready = committed(a_bead), committed(lambda session: a_bead(session, ready_at=after(0), wake_at=None))
    others = [committed(a_bead), committed(lambda session: a_bead(session, ready_at=after(0), wake_at=None))]
    with transaction() as session:
        lock_beads(session, {due.id, ready.id})
        reconcile_town(town.id)
        assert {each.bead_id for each in live()} == {each.id for each in others}
    tick()
    assert len(live()) == 4


def test_a_lost_race_undoes_one_bead_only_and_leaves_it_due(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    """The savepoint: its agent, made a moment before the move that is lost, is gone with it."""
    beads = [committed(a_bead) for _ in range(3)]
    create, calls = creation.create_dispatches, []

    def somebody_was_first(session: Session, starts: Sequence[creation.Start]) -> dict[str, UUID]:
        made = create(session, starts)
        calls.append([start.bead_id for start in starts])
        if beads[1].id in made:
            raise attempts.MoveLost("somebody was first")
        return made

    monkeypatch.setattr(creation, "create_dispatches", somebody_was_first)
    with transaction() as session:
        batch(session, town)
    monkeypatch.undo()
    ids = [bead.id for bead in beads]
    assert calls == [ids, *([each] for each in ids)]  # all at once, then each alone
    assert [len(attempts_on(each)) for each in ids] == [1, 0, 1]
    assert (now(beads[1]).status, now(beads[1]).wake_at) == (BeadStatus.OPEN, after(0))
    with transaction() as session:
        assert session.scalar(select(func.count()).select_from(Agent)) == 2
    tick()
    assert len(live()) == 3


def test_a_constraint_that_is_hit_costs_one_bead_only(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    """Model: unique_index. What cannot be stored must not keep a whole town from being decided."""
    poisoned, healthy = committed(a_bead), committed(a_bead)
    committed(lambda session: an_agent(session, a_rig(session), bead_id=healthy.id))
    create = creation.create_dispatches

    def twice(session: Session, starts: Sequence[creation.Start]) -> dict[str, UUID]:
        made = create(session, starts)
        if poisoned.id in made:
            session.execute(text("UPDATE agents SET bead_id = :bead"), {"bead": poisoned.id})
        return made

    monkeypatch.setattr(creation, "create_dispatches", twice)
    tick()
    assert [each.bead_id for each in live()] == [healthy.id]
    assert now(poisoned).status == BeadStatus.OPEN
    assert (now(poisoned).wake_at or after(0)) > after(0)  # not at once again


def test_a_row_that_cannot_be_read_costs_its_own_bead_a_delay(town: Town, clock: Clock) -> None:
    """S37. A newer version wrote it, due or ready, itself or in a row beside it; its neighbours go on."""
    due = committed(a_bead)
    ready = committed(lambda session: a_bead(session, ready_at=after(0), wake_at=None))
    running = committed(lambda session: an_attempt(session, RUNNING))
    healthy = [committed(a_bead), committed(lambda session: a_bead(session, ready_at=after(0), wake_at=None))]
    with transaction() as session:
        for bead_id in (due.id, ready.id, running.bead_id):
            set_bead(session, bead_id, failure_class="unlucky", failure_code="x")
    ticking.reconcile_town(town.id)
    assert {each.bead_id for each in live()} == {running.bead_id, *(each.id for each in healthy)}
    for each in (due, ready, bead_of(running)):
        assert (now(each).wake_at, now(each).ready_at) == (after(30), None)
    with transaction() as session:
        assert counters.read_counters(session) == {counters.ROWS_UNREADABLE: 3, counters.RULE_ERRORS: 3}
        set_bead(session, due.id, failure_class=None)
    clock.advance(30)
    ticking.reconcile_town(town.id)
    assert due.id in {each.bead_id for each in live()}
    assert now(ready).wake_at == after(30 + 60)  # ever more rarely, and in the end a person is asked
    clock.advance(60)
    ticking.reconcile_town(town.id)
    with transaction() as session:
        asked = {row.cause: row.message for row in escalations.list_inbox(session, town.id)}
    assert asked.keys() == {f"rule:{ready.id}", f"rule:{running.bead_id}"}
    assert "'unlucky' is not a valid FailureClass" in asked[f"rule:{ready.id}"]


OF_BEADS = ("created_at", "not_before", "looked_at", "forced_at", "wake_at", "ready_at")
OF_ATTEMPTS = ("queued_at", "starting_at", "call_ended_at", "started_at", "heartbeat_at", "lease_expires_at", "seen_at",
               "progress_at")  # fmt: skip


@pytest.mark.parametrize("stored", ["infinity", "-infinity"])
def test_a_time_past_all_others_stops_no_neighbour(town: Town, stored: str) -> None:
    """S37. Somebody put it there by hand: Postgres stores what Python has no word for."""
    with transaction() as session:
        a_node(session).capacity = 1000
        a_town(session).policy = {"max_running": 1000, "rig_max_running": 1000}
        poison = {"stored": stored}
        rest = "INSERT INTO rate_limits (town_id, preset, until, reason) VALUES (:town, 'other', :stored, 'x')"
        session.execute(text(rest), poison | {"town": town.id})
        for column in OF_BEADS:
            statement = text(f"UPDATE beads SET {column} = :stored WHERE id = :id")
            session.execute(statement, poison | {"id": a_bead(session).id})
            session.execute(statement, poison | {"id": a_bead(session, wake_at=None, ready_at=after(0)).id})
        for column in OF_ATTEMPTS:
            for status in (QUEUED, STARTING, RUNNING, LOST):
                statement = text(f"UPDATE dispatches SET {column} = :stored WHERE id = :id")
                session.execute(statement, poison | {"id": an_attempt(session, status).id})
        healthy = a_bead(session)
    tick()
    assert healthy.id in {each.bead_id for each in live()}
    with transaction() as session:
        assert counters.RULE_ERRORS not in counters.read_counters(session)


def test_a_rule_that_raises_costs_its_own_bead_a_delay(
    town: Town, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S37."""
    poisoned, healthy = committed(a_bead), committed(a_bead)
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
    bead = committed(lambda session: a_bead(session, held_at=after(0), held_reason="wait"))
    for _ in range(3):
        tick()
        committed(lambda session: wake(session, bead.id))
        clock.advance(1)
    committed(lambda session: work.release(session, town.id, bead.id))
    tick()
    with transaction() as session:
        rows = session.scalars(select(DecisionRow).order_by(DecisionRow.id)).all()
        assert [row.verdict for row in rows] == [Verdict.HELD, Verdict.READY, Verdict.DISPATCH]
        assert replay_decisions(session) == 3


def test_a_start_is_logged_also_after_one_with_the_same_words(town: Town, clock: Clock) -> None:
    """Found ready and started in one batch: the second decision is compared with the first, not with one before."""
    with transaction() as session:
        bead_id = a_bead(session).id
    for _ in range(2):
        reconcile_town(town.id)
        with transaction() as session:
            [dispatch] = [each for each in attempts_on(bead_id) if each.status == DispatchStatus.QUEUED]
            attempts.roll_back(session, dispatch.id, FailureCode.START_REFUSED, "no")
    with transaction() as session:
        verdicts = session.scalars(select(DecisionRow.verdict).order_by(DecisionRow.id)).all()
        assert verdicts == [Verdict.READY, Verdict.DISPATCH] * 2
        assert replay_decisions(session) == 4


def test_resync_finds_what_no_wake_up_reached(town: Town) -> None:
    forgot, held = committed(a_bead), committed(lambda session: a_bead(session, held_at=after(0), held_reason="x"))
    tick()
    committed(lambda session: session.execute(text("UPDATE beads SET wake_at = NULL")))
    with transaction() as session:
        assert resync.wake_forgotten(session) == {"live_attempt_unwatched": 1}  # the held one sleeps rightly
    assert now(forgot).wake_at is not None
    assert now(held).wake_at is None
    tick()


_REQUEST = (
    "INSERT INTO merge_requests (town_id, rig_id, bead_id, dispatch_id, target, head_sha, priority, {})"
    " SELECT town_id, rig_id, bead_id, id, 'main', 'x', 1, {} FROM dispatches WHERE status = '{}'"
)
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
    (_REQUEST.format("rework_id", "bead_id", "lost"), "waits for a rework of another one"),
    (
        _REQUEST.format("held_code, held_reason, rework_id", "'conflict', 'x', bead_id", "lost")
        + "; UPDATE beads SET status = 'closed', resolution = 'done', closed_at = now()",
        "a rework that was done while its merge request waits",
    ),
    (
        _REQUEST.format("status", "'closed'", "lost")
        + "; "
        + _REQUEST.format("batch_of", "(SELECT id FROM merge_requests)", "running"),
        "a merge request in a batch that nobody merges",
    ),
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
    running = committed(lambda session: an_attempt(session, RUNNING))
    hooked = committed(lambda session: an_attempt(session, LOST))
    over = "UPDATE beads SET status = 'closed', resolution = 'canceled', closed_at = now(), wake_at = gastown_now()"
    committed(lambda session: session.execute(text(over)))
    tick()
    assert now(running).status == DispatchStatus.STOPPED
    for each in (running, hooked):
        assert (agent_of(each).status, agent_of(each).bead_id) == (AgentStatus.IDLE, None)
    assert take_messages("node.here") == [("gastown.stop_container", [str(running.id)])]


def test_the_outage_of_the_api_is_nobodys_death(town: Town, clock: Clock) -> None:
    """S31, model: guard_by_api. After it, a lease counts only time in which the API was there."""
    dispatch = committed(lambda session: an_attempt(session, RUNNING))
    for _ in range(20):  # 5 minutes, the API silent
        clock.advance(15)
        tick()
    assert now(dispatch).status == RUNNING
    committed(lambda session: services.beat(session, "api"))
    for seconds in (1, 14, 15, 14):
        clock.advance(seconds)
        committed(lambda session: services.beat(session, "api"))
        tick()
        assert now(dispatch).status == RUNNING, seconds
    clock.advance(15)
    committed(lambda session: services.beat(session, "api"))
    tick()
    assert now(dispatch).status == LOST


def test_nothing_is_forgotten_by_the_checks_themselves(town: Town) -> None:
    bead = committed(lambda session: a_bead(session, held_at=after(0), held_reason="x"))
    tick()
    committed(
        lambda session: set_bead(session, bead.id, held_at=None, held_reason=None)
    )  # a writer that forgot to wake
    with transaction() as session:
        assert forgotten(session) == [f"{bead.id} sleeps as held (held: x), and is ready"]
        with pytest.raises(AssertionError):
            check_invariants(session)


def test_an_api_that_was_never_there_is_an_outage(clock: Clock) -> None:
    assert committed(lambda session: views.api_outage(session, clock.now, Policy()))


@pytest.mark.parametrize(("back_s", "code"), [(-100, "vanished"), (-5, "node_lost")])
def test_what_vanished_while_the_api_was_away(town_id: int, clock: Clock, back_s: float, code: str) -> None:
    """A reboot: everything was silent since the attempt's last heartbeat, 10 s ago, and its process is gone."""
    dispatch = make(heartbeat_at=after(-10))
    with transaction() as session:
        session.get_one(Service, "api").back_at = after(back_s)
        attempts.note_seen(session, dispatch.id, clock.now, False, None, False)
    tick()
    assert now(dispatch).code == code


def test_a_lease_counts_only_time_in_which_the_api_was_there(town_id: int) -> None:
    """All of it, by the rig's own length: an agent that beats every 100 s has not had its turn a minute after."""
    with transaction() as session:
        session.get_one(Service, "api").back_at = after(-60)
        slow = a_rig(session, name="slow", policy={"heartbeat_s": 100, "heartbeat_lease_s": 300})
        rigs = (slow, a_rig(session, name="usual"))
        silent = [an_attempt(session, rig=rig, heartbeat_at=after(-400), lease_expires_at=after(-1)) for rig in rigs]
    tick()
    assert [now(each).status for each in silent] == [RUNNING, LOST]


def test_rules_obey_the_numbers_of_the_rig(town_id: int) -> None:
    """One failure is too many on one rig, and the next attempt on the other."""
    with transaction() as session:
        strict = an_attempt(session, rig=a_rig(session, name="strict", policy={"max_agent_failures": 1}))
        patient = an_attempt(session, rig=a_rig(session, name="patient"))
        ids = (strict.bead_id, patient.bead_id)
        for each in (strict, patient):
            attempts.lose(session, each.id, FailureCode.VANISHED, "x")
    tick()
    with transaction() as session:
        assert [session.get_one(Bead, each).status for each in ids] == [BeadStatus.FAILED, BeadStatus.IN_PROGRESS]


# --- publishing


def test_effects_of_a_batch_reach_their_queues_in_order(database: str) -> None:
    starts = [StartContainer(dispatch_id=f"d{number}", node="here") for number in range(50)]
    others = [
        StartContainer(dispatch_id="e", node="there"),
        AskMerge(merge_id=7),
        StopContainer(dispatch_id="d1", node="here"),
        InspectContainers(node="here"),
    ]
    assert publish_all([*starts, *others])
    expected = [("gastown.start_container", [f"d{number}"]) for number in range(50)]
    assert take_messages("node.here") == [*expected, ("gastown.stop_container", ["d1"])]
    assert take_messages("watch.here") == [("gastown.inspect_containers", ["here"])]
    assert take_messages("node.there") == [("gastown.start_container", ["e"])]
    assert take_messages("merge") == [("gastown.merge", [7])]


def test_a_broker_that_is_away_costs_one_attempt_for_a_batch(
    town: Town, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """G5: the rows say what is still to do. A hundred effects do not wait a hundred times."""
    beads = [committed(a_bead) for _ in range(4)]
    connects = []

    def refuse(self: Any, *_: Any, **__: Any) -> None:
        connects.append(self)
        raise redis.exceptions.ConnectionError("Connection refused")

    with monkeypatch.context() as away:
        app.close()
        away.setattr(redis.connection.AbstractConnection, "connect", refuse)
        tick()
        assert len(connects) <= 4
    app.close()
    assert len(live()) == len(beads)
    assert take_messages("node.here") == []
    clock.advance(10)
    tick()
    assert len(take_messages("node.here")) == len(beads)


def test_connections_that_the_broker_closed_cost_no_message(database: str) -> None:
    """It was restarted, say: a batch is sent again, because what comes twice does no harm."""
    starts = [StartContainer(dispatch_id=f"d{number}", node="here") for number in range(3)]
    assert publish_all(starts[:1])
    with app.connection_for_write() as other:
        other.default_channel.client.client_kill_filter(_type="normal", skipme=True)
    assert publish_all(starts)
    assert {about for _task, [about] in take_messages("node.here")} == {"d0", "d1", "d2"}
