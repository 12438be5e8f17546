"""Fresh seeds each time. One that fails is printed with its shortest history, and `gastown sim --seed N` repeats it."""

import json
import os
import subprocess
import sys

from gastown.sim import report
from gastown.sim.database import Server
from gastown.sim.runs import STEPS, Outcome, shorten
from tests import tables

STEPS_IN_ALL = 30_000
TITLE = "simulation: fresh seeds"


def test_fresh_seeds_break_nothing(sim_server: Server) -> None:
    """Half of them in a second process: a simulation is one thread of control."""
    given = os.environ.get("SIM_SEED")
    seed = report.fresh_seed() if given is None else int(given)
    seeds = max(1, round(int(os.environ.get("SIM_STEPS", STEPS_IN_ALL)) / STEPS / 2))
    run = "import sys; from gastown.cli import run; sys.exit(run(sys.argv[1:]))"
    argv = [
        sys.executable,
        "-c",
        run,
        "sim",
        "--shorten",
        "0",
        "--seed",
        str(seed + seeds),
        "--seeds",
        str(seeds),
        "--json",
    ]
    other = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        totals = report.run(sim_server, seed, seeds)
        told, errors = other.communicate(timeout=3000)
    finally:
        other.kill()
        other.wait()
    tables.add(TITLE, _line(seed, totals.steps, totals.steps_per_s))
    assert totals.failure is None, _explain(sim_server, totals.failure)
    assert other.returncode in (0, 1), errors
    summary = json.loads(told)
    tables.add(TITLE, _line(seed + seeds, summary["steps"], summary["steps_per_s"]))
    assert summary["broken"] is None, summary


def _line(seed: int, steps: int, steps_per_s: float) -> str:
    return f"seeds from {seed}: {steps} steps, {steps_per_s:.0f} a second"


def _explain(server: Server, failure: Outcome) -> str:
    found = shorten(server, failure, within_s=60)
    steps = "\n".join(found.labels)
    return f"seed {found.seed} breaks: {found.invariant}: {found.detail}\n{steps}"
