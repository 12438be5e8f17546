"""The simulation notices each fault that is put into the product on purpose, within a stated number of steps."""

from pathlib import Path

import pytest

from gastown.sim.database import Server
from gastown.sim.mutants import MUTANTS, UNNOTICED
from gastown.sim.planting import Mutant
from gastown.sim.runs import STEPS, run_seed
from tests import tables

TITLE = "mutants: seed, steps until one was noticed, by which invariant"


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_is_noticed(sim_server: Server, mutant: Mutant) -> None:
    """From the seed at which it is known to be noticed soon; a change of the product may need others."""
    steps = 0
    with mutant.installed():
        for seed in mutant.seeds:
            outcome = run_seed(sim_server, seed, STEPS)
            steps += len(outcome.labels) + outcome.settled
            if not outcome.passed:
                tables.add(TITLE, f"{mutant.name:64} {seed:6} {steps:6}  {outcome.invariant}")
                break
            if steps > mutant.within:
                pytest.fail(f"not noticed in {steps} steps from seed {mutant.begin}")
    sound = run_seed(sim_server, seed, len(outcome.labels))
    assert sound.passed, f"it is not the mutant: seed {seed} breaks without it: {sound.invariant}"


def test_there_are_enough_of_them() -> None:
    assert len(MUTANTS) >= 20
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)


@pytest.mark.parametrize("mutant", UNNOTICED, ids=lambda mutant: mutant.name)
def test_what_the_simulation_does_not_notice_is_proven_by_a_test_of_the_store(mutant: Mutant) -> None:
    tests = (path.read_text() for path in Path(__file__).parent.parent.joinpath("store").glob("test_*.py"))
    assert any(f"def {mutant.elsewhere}(" in text for text in tests)
    with mutant.installed():
        pass  # its text is still there
