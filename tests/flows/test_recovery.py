"""S30, S31, L1: everything may be killed at any moment; each test breaks a stack of its own."""

import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime

import psutil

from gastown.commands import towns
from gastown.db import in_transaction
from gastown.embedded import control
from gastown.tasks.base import poke
from tests.flows.town import Town, until


def pause(town: Town, paused: bool) -> None:
    in_transaction(lambda session: towns.set_paused(session, town.rig_row().town_id, paused, rig=town.rig))
    poke()


def begun(town: Town, bead: str) -> bool:
    return (town.settings.home / "work" / bead / "1" / "begun.txt").exists()


def test_whole_stack_is_killed_while_an_agent_works(own_town: Town) -> None:
    """The agent outlives its stack, and hands its work in when the API is back: one attempt, nothing lost."""
    go = own_town.folder / "go"
    bead = own_town.sling(f"echo begun > begun.txt; until test -e {go}; do sleep 0.1; done; echo done > result.txt")
    until("its agent works", lambda: begun(own_town, bead))
    killed_at = datetime.now(UTC)
    own_town.kill_everything()
    assert own_town.agent_alive(bead) is not None
    go.touch()
    own_town.start()
    own_town.merged(bead)
    own_town.measure("whole stack is SIGKILLed while its agent works", bead, killed_at)
    assert [each.status for each in own_town.attempts(bead)] == ["succeeded"]


def test_stack_is_down_when_the_agent_ends(own_town: Town) -> None:
    """S31: its results wait, and arrive when the API is back."""
    bead = own_town.sling("echo begun > begun.txt; sleep 1; echo done > result.txt")
    until("its agent works", lambda: begun(own_town, bead))
    own_town.kill_everything()
    until("its agent has ended", lambda: own_town.agent_alive(bead) is None)
    own_town.start()
    own_town.merged(bead)
    assert len(own_town.attempts(bead)) == 1


def test_redis_is_flushed_with_starts_queued(own_town: Town) -> None:
    """S06: the worker is stopped, a start is queued, the queue is lost; the start is published again."""
    from gastown.celery_app import app

    worker = psutil.Process(own_town.child("worker"))
    bead = own_town.sling("echo done > result.txt", fault={1: "slow 0"})
    until("it is dispatched", lambda: own_town.attempts(bead))
    others = [own_town.sling(f"echo {n} > {n}.txt") for n in range(3)]
    worker.suspend()
    with app.connection_for_write() as connection:
        connection.default_channel.client.flushall()
    worker.resume()
    own_town.merged(bead, *others)
    own_town.measure("Redis is flushed with starts queued", others[-1])
    assert all(len(own_town.attempts(each)) == 1 for each in others)


def test_worker_is_killed_inside_a_start(own_town: Town) -> None:
    """S05: no hook is called anywhere; the worker that comes back asks after what its predecessor had claimed."""
    bead = own_town.sling("sleep 0.3; echo done > result.txt", fault={1: "kill_worker"})
    own_town.merged(bead)
    own_town.measure("start: whole worker is SIGKILLed in it", bead)
    failed, worked = own_town.attempts(bead)
    assert (failed.status, worked.status) == ("rolled_back", "succeeded")
    assert (worked.queued_at - failed.starting_at).total_seconds() < 60  # its lease would be 120


def test_each_process_is_killed_in_turn(own_town: Town) -> None:
    """S30: one at a time, while beads flow."""
    beads = [own_town.sling(f"sleep 0.5; echo {number} > {number}.txt") for number in range(8)]
    for name in ("control", "watch", "worker", "api", "beat", "redis", "merge", "postgres"):
        killed = own_town.child(name)
        os.kill(killed, signal.SIGKILL)
        until(f"{name} is back", lambda name=name, killed=killed: own_town.child(name) != killed)  # type: ignore[misc]
        until(f"the stack is whole after {name}", lambda: control.read_status(own_town.settings).state == "up")
    own_town.merged(*beads, timeout_s=240)


def test_down_saves_work_and_up_goes_on(own_town: Town) -> None:
    """`down` drains: the attempt is stopped, its work saved, and it does not count."""
    bead = own_town.sling(
        "if test -f begun.txt; then echo done > result.txt; else echo begun > begun.txt; sleep 60; fi"
    )
    until("its agent works", lambda: begun(own_town, bead))
    control.stop(own_town.settings)
    assert own_town.agent_alive(bead) is None
    own_town.start()
    own_town.merged(bead)
    stopped, worked = own_town.attempts(bead)
    assert (stopped.status, stopped.code, stopped.failure_class) == ("stopped", "drained", None)
    assert worked.status == "succeeded"
    assert own_town.read("begun.txt") == "begun"


def test_celery_commands_work_from_a_shell(own_town: Town) -> None:
    """DESIGN 7: `celery call gastown.dispatch` and `inspect`, against the embedded stack."""
    pause(own_town, True)
    bead = own_town.sling("echo done > result.txt")
    environment = os.environ | own_town.environment

    def celery(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "celery", "-A", "gastown.celery_app", *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100, check=False)

    asked = celery("call", "gastown.dispatch", "--args", f'["{bead}"]')
    assert asked.returncode == 0, asked.stderr
    until("it was forced", lambda: any(event.kind == "forced" for event in own_town.events(bead)))
    until("it is seen", lambda: "gastown.start_container" in celery("inspect", "registered", "--timeout", "5").stdout)
    pause(own_town, False)
    own_town.merged(bead)


def test_api_is_frozen_and_nobody_is_lost(own_town: Town) -> None:
    """S31: silence proves nothing while the API is away."""
    api = psutil.Process(own_town.child("api"))
    bead = own_town.sling("echo begun > begun.txt; sleep 8; echo done > result.txt")
    until("its agent works", lambda: begun(own_town, bead))
    api.suspend()
    frozen_at = time.monotonic()
    until("a while has passed", lambda: time.monotonic() - frozen_at > 6)
    api.resume()
    own_town.merged(bead)
    assert len(own_town.attempts(bead)) == 1
