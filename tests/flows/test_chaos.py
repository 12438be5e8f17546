"""S30 once more, without a plan: faults in starts, and kill -9 of anything at any moment, while twelve beads flow."""

import os
import random
import signal
import time

import pytest

from gastown.embedded import control
from tests.flows.town import Town, until

STARTS = ("raise", "refuse", "raise_late", "answer_lost", "no_answer", "slow 1", "late 1", "kill_child")
STRIKES = 8
SEEDS = [int(each) for each in os.environ.get("CHAOS_SEEDS", "7").split(",")]  # CHAOS_SEEDS=1,2,3 make test ARGS=...


@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", SEEDS)
def test_everything_is_merged_once(own_town: Town, seed: int) -> None:
    draw = random.Random(seed)
    own_town.new_rig("test -f README")
    beads: list[str] = []
    for number in range(12):
        after = draw.sample(beads, k=1) if beads and draw.random() < 0.4 else []
        fault = {1: draw.choice(STARTS)} if draw.random() < 0.5 else {}
        beads.append(own_town.sling(f"sleep 0.{number}; echo {number} > {number}.txt", after=after, fault=fault))
    for _ in range(STRIKES):
        strike(own_town, draw)
    until("the stack is whole", lambda: control.read_status(own_town.settings).state == "up")
    own_town.merged(*beads, timeout_s=300)
    for number in range(12):
        assert own_town.read(f"{number}.txt") == str(number)


def strike(town: Town, draw: random.Random) -> None:
    """Kill one process of the stack or a supervisor of an attempt, then give things a moment to go wrong."""
    running = [path.name for path in (town.settings.home / "runs").glob("*")]
    names = [
        "control",
        "watch",
        "worker",
        "merge",
        "beat",
        "api",
        "redis",
        "postgres",
        "everything",
        "attempt",
        "attempt",
    ]
    victim = draw.choice(names)
    if victim == "everything":
        town.kill_everything()
        town.start()
    elif victim == "attempt" and running:
        town.kill_attempt(draw.choice(running))
    elif victim != "attempt":
        os.kill(town.child(victim), signal.SIGKILL)
    calm_until = time.monotonic() + draw.uniform(0.2, 2.5)
    until("a moment has passed", lambda: time.monotonic() > calm_until)
