"""G1, G2: a start that fails in any way is retried at once, and two agents never work on one bead."""

import os
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil
import pytest

from gastown.commands import towns, work
from gastown.db import in_transaction
from gastown.demo import faults
from gastown.reconcile.actions import StartContainer
from gastown.tasks.base import publish
from tests.flows.town import Town, git, until

HANG_S = 57  # longer than the test needs: it is called off. A start may take 60
PROMPT = timedelta(seconds=30)  # on a machine however busy; without what is tested here, it takes a lease: 45 or 120 s
WRITE = "sleep 0.3; echo done > result.txt"


def test_bead_is_merged(town: Town) -> None:
    first = town.sling("echo one > one.txt; git add one.txt; git commit -q -m One")
    second = town.sling("cat one.txt; echo two > two.txt", after=[first])
    town.merged(first, second)
    assert (town.read("one.txt"), town.read("two.txt")) == ("one", "two")
    assert town.request(first).merged_at < town.attempts(second)[0].queued_at


@pytest.mark.parametrize(("fault", "code"), [("raise", "start_error"), ("refuse", "start_refused")])
def test_definite_failure_is_retried_on_the_next_tick(town: Town, fault: str, code: str) -> None:
    """S01, S02."""
    bead = town.sling(WRITE, fault={1: fault})
    town.merged(bead)
    town.measure(f"start: {fault}", bead)
    failed, worked = town.attempts(bead)
    assert (failed.status, failed.code, failed.started_at) == ("rolled_back", code, None)
    assert worked.status == "succeeded"
    assert worked.agent_id == failed.agent_id
    assert worked.queued_at - failed.ended_at < PROMPT


@pytest.mark.parametrize("fault", ["raise_late", "answer_lost"])
def test_failure_that_had_started_goes_on(town: Town, fault: str) -> None:
    """S04, S25: the original attempt does the work, and no second one is started."""
    bead = town.sling(f"sleep 1; {WRITE}", fault={1: fault})
    town.merged(bead)
    town.measure(f"start: {fault}, and it had started", bead)
    (only,) = town.attempts(bead)
    assert only.status == "succeeded"


def test_starts_that_hang_hold_up_no_decision(town: Town) -> None:
    """As many as the node has processes for: the town decides, inspects and merges meanwhile."""
    slow, orders = f"slow {HANG_S}", Path(town.environment[faults.FOLDER])
    at_work = town.sling("sleep 2; echo done > at-work.txt")
    until("it is at work", lambda: town.attempts(at_work) and town.attempts(at_work)[0].started_at)
    hanging = [town.sling(f"echo {n} > {n}", fault={1: slow}) for n in range(town.settings.worker_processes)]
    until("all hang", lambda: all(faults.struck_at(orders, bead, 1) for bead in hanging))
    town.merged(at_work)
    late = town.sling("echo late > late.txt")
    [attempt] = until("it is dispatched", lambda: town.attempts(late))
    assert not any(attempt.call_ended_at for bead in hanging for attempt in town.attempts(bead)), "they hang no more"
    assert attempt.status == "queued"
    faults.call_off(orders)
    town.merged(*hanging, late)


def test_no_answer_and_nothing_started(town: Town) -> None:
    """S03: settled by inspection in seconds, not by a lease."""
    bead = town.sling(WRITE, fault={1: "no_answer"})
    town.merged(bead)
    town.measure("start: no answer, and nothing started", bead)
    failed, worked = town.attempts(bead)
    assert (failed.status, worked.status) == ("rolled_back", "succeeded")
    assert worked.queued_at - failed.starting_at < PROMPT


def test_killed_child_is_retried(town: Town) -> None:
    """S05: Celery calls no on_failure for it; the parent's signal has the node inspected."""
    bead = town.sling(WRITE, fault={1: "kill_child"})
    town.merged(bead)
    town.measure("start: worker child is SIGKILLed in it", bead)
    failed, worked = town.attempts(bead)
    assert (failed.status, worked.status) == ("rolled_back", "succeeded")
    assert worked.queued_at - failed.starting_at < PROMPT


def test_slow_start_is_left_alone(town: Town) -> None:
    """A start that is still being made is not absent: it is waited for."""
    bead = town.sling(WRITE, fault={1: "slow 4"})
    town.merged(bead)
    town.measure("start: slow, 4 s", bead)
    assert [each.status for each in town.attempts(bead)] == ["succeeded"]


def test_messages_doubled(town: Town) -> None:
    """S06, S07: each start message is delivered again and again, and each epoch runs once."""
    bead = town.sling(f"sleep 1; echo x >> count.txt; {WRITE}")
    attempt = until("it is dispatched", lambda: town.attempts(bead))[0]
    for _ in range(5):
        publish(StartContainer(dispatch_id=str(attempt.id), node=town.settings.node))
    town.merged(bead)
    town.measure("start: its message is delivered six times", bead)
    assert len(town.attempts(bead)) == 1
    assert town.read("count.txt") == "x"


def test_agent_that_fails_is_tried_five_times(town: Town) -> None:
    """S14: then the bead fails, and says what the agent said last."""
    bead = town.sling("echo something is wrong >&2; exit 3")
    until("it failed", lambda: town.bead(bead).status == "failed")
    assert [each.code for each in town.attempts(bead)] == ["agent_failed"] * 5
    assert "something is wrong" in town.bead(bead).failure_message
    assert town.watch.most.get(bead, 0) <= 1


def test_killed_agent_leaves_its_work(town: Town) -> None:
    """S35: what it had not committed is on its WIP ref, and the next attempt starts from it."""
    bead = town.sling("if test -f half.txt; then echo rest >> half.txt; else echo half > half.txt; kill -9 $$; fi")
    town.merged(bead)
    assert town.read("half.txt") == "half\nrest"
    assert [each.status for each in town.attempts(bead)] == ["failed", "succeeded"]


def test_killed_supervisor_leaves_its_work(town: Town) -> None:
    """The supervisor and its agent are killed outright: seen by inspection, and its worktree is salvaged."""
    bead = town.sling("if test -f half.txt; then echo rest >> half.txt; else echo half > half.txt; sleep 60; fi")
    first = until("it runs", lambda: [each for each in town.attempts(bead) if each.status == "running"])[0]
    until("its agent works", lambda: (town.settings.home / "work" / bead / "1" / "half.txt").exists())
    os.kill(first.pid, signal.SIGKILL)
    killed_at = datetime.now(UTC)
    town.merged(bead)
    town.measure("agent's supervisor is SIGKILLed", bead, killed_at)
    lost, worked = town.attempts(bead)
    assert (lost.status, lost.code, worked.status) == ("lost", "vanished", "succeeded")
    assert worked.queued_at - killed_at < PROMPT
    assert town.read("half.txt") == "half\nrest"


def test_canceled_agent_is_stopped(town: Town) -> None:
    """S21: within seconds; nothing that it does later has an effect, and its work is kept."""
    bead = town.sling("echo kept > kept.txt; sleep 60; echo late > late.txt")
    until("its agent works", lambda: (town.settings.home / "work" / bead / "1" / "kept.txt").exists())
    for effect in in_transaction(lambda session: work.cancel(session, towns.ensure_town(session, "default"), bead)):
        publish(effect)
    until("its agent is gone", lambda: town.agent_alive(bead) is None)
    assert town.bead(bead).resolution == "canceled"
    mirror = town.settings.home / "mirrors" / f"{town.rig_row().id}.git"

    def kept() -> bool:
        refs = git("for-each-ref", "--format=%(refname)", f"refs/gastown/wip/{bead}", cwd=mirror)
        return bool(refs) and git("show", f"refs/gastown/wip/{bead}/1:kept.txt", cwd=mirror) == "kept"

    until("its work is kept", kept)
    assert town.merge_commits(bead) == 0


def test_purge_in_the_middle_of_work_loses_nothing(town: Town) -> None:
    """G5: `celery purge` takes away starts that are queued; they are published again."""
    worker = psutil.Process(town.child("worker"))
    worker.suspend()
    try:
        beads = [town.sling(f"echo {number} > {number}.txt") for number in range(3)]
        until("they are dispatched", lambda: all(town.attempts(each) for each in beads))
        command = [sys.executable, "-P", "-m", "celery", "-A", "gastown.celery_app", "purge", "-f"]

        def purged() -> bool:
            done = subprocess.run(
                command, env=os.environ | town.environment, capture_output=True, text=True, check=True
            )
            return "No messages purged" not in done.stdout

        until("starts were purged", purged)
    finally:
        worker.resume()
    town.merged(*beads)
    assert all(len(town.attempts(each)) == 1 for each in beads)
