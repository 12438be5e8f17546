"""A history is its labels: the same seed gives the same one in any process, and a list of them can be run again."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gastown.sim import runs
from gastown.sim.database import Server
from gastown.sim.mutants import MUTANTS

SEED, STEPS = 7, 400
WITH_ALL = 10_020  # mends, batches, convoys and reviews
ELSEWHERE = """
import sys
from gastown.sim import report, runs
from tests.sim.test_replay import fingerprint
with report.place() as server:
    print(fingerprint(runs.run_seed(server, int(sys.argv[1]), int(sys.argv[2]))))
"""


def fingerprint(outcome: runs.Outcome) -> str:
    said = "\n".join([*outcome.labels, str(outcome.settled), str(outcome.invariant)])
    return hashlib.sha256(said.encode()).hexdigest()


@pytest.mark.parametrize(("hash_seed", "seed"), [("1", SEED), ("2", WITH_ALL)])
def test_a_seed_gives_the_same_history_in_another_process(sim_server: Server, hash_seed: str, seed: int) -> None:
    argv = [sys.executable, "-c", ELSEWHERE, str(seed), str(STEPS)]
    environment = os.environ | {"PYTHONHASHSEED": hash_seed}
    done = subprocess.run(argv, capture_output=True, text=True, env=environment, timeout=600)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == fingerprint(runs.run_seed(sim_server, seed, STEPS))


def test_labels_alone_give_the_same_history(sim_server: Server) -> None:
    drawn = runs.run_seed(sim_server, SEED + 1, STEPS)
    assert fingerprint(runs.replay(sim_server, drawn.seed, drawn.labels)) == fingerprint(drawn)


def test_what_is_not_possible_is_left_out(sim_server: Server) -> None:
    history = ["user sling B1 r1 high", "deliver start B1/1 to w1", "agent B1/1 assignment", "run nobody: go"]
    assert runs.replay(sim_server, 1, history).labels == ["user sling B1 r1 high"]


def test_a_failure_is_made_shorter_and_fails_again_from_its_file(sim_server: Server, tmp_path: Path) -> None:
    mutant = next(each for each in MUTANTS if each.name == "messages leave before the commit")
    with mutant.installed():
        failed = runs.run_seed(sim_server, 1, 500)
        assert failed.invariant == "a message about what is not committed"
        shorter = runs.shorten(sim_server, failed, within_s=300)
        assert shorter.invariant == failed.invariant
        assert len(shorter.labels) <= 5
        runs.save(shorter, tmp_path / "history.json")
        again = runs.replay(sim_server, *runs.load(tmp_path / "history.json"))
    assert (again.invariant, again.labels) == (shorter.invariant, shorter.labels)
