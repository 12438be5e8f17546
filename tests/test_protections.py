"""Each protection of the dispatch protocol's model, and the tests that fail without it.

Besides these tests of one protection each, `tests/model` drives the product and the model with the same histories, and
takes protections out of the product. `tests/flows/test_matrix.py` plays every outcome of a start with real processes.
`tests/sim` lets everything go wrong by chance, and notices each fault that is put in on purpose.

The model (an executable specification, 22 protections, every interleaving up to a bound) shows in a shortest trace what
breaks without each. Two of them have no counterpart to switch off: `permit_checked` (there is no push permit;
what is merged is the head that a served `done` recorded) and `no_stalled_status` (there is no such status to store).
"""

import importlib

import pytest

from gastown.sim.mutants import MUTANTS as SIMULATED
from tests.model.mutants import MUTANTS as MODELLED

PROTECTIONS = {
    "row_lock": [
        "store.test_attempts.test_every_change_of_an_attempt_waits_for_the_bead",
        "store.test_admission.test_adoption_and_the_next_dispatch_at_once",
        "store.test_done.test_done_and_cancel_at_once",
    ],
    "unique_index": ["store.test_schema.test_the_second_of_two_at_once_is_refused"],
    "rollback_guarded": [
        "store.test_attempts.test_roll_back_too_late_touches_nothing",
        "store.test_attempts.test_roll_back_of_one_that_was_replaced_leaves_the_new_one_alone",
    ],
    "rollback_before_running": [
        "store.test_attempts.test_roll_back_too_late_touches_nothing",
        "reconcile.test_properties.test_decide",
    ],
    "finish_accepts_running": ["store.test_attempts.test_end_start_call"],
    "raise_inspects": ["store.test_attempts.test_doubt_start", "reconcile.test_rules.test_roll_back_absent"],
    "adopt_checks_epoch": ["store.test_admission.test_a_fenced_attempt_changes_nothing"],
    "adopt_checks_hook": ["store.test_admission.test_a_fenced_attempt_changes_nothing"],
    "adopt_lost": ["store.test_admission.test_one_that_was_given_up_is_adopted_by_any_call"],
    "adopt_only_unreported": ["store.test_admission.test_a_fenced_attempt_changes_nothing"],
    "every_call_adopts": [
        "store.test_admission.test_one_that_was_given_up_is_adopted_by_any_call",
        "api.test_agents.test_the_first_call_may_be_any",
    ],
    "permit_checked": ["store.test_done.test_done_and_cancel_at_once"],
    "done_repeatable": ["store.test_done.test_done_again_gets_the_same_answer_and_does_nothing"],
    "done_atomic": ["store.test_done.test_done_is_all_or_nothing", "store.test_done.test_done_with_commits"],
    "calls_check_bead": ["store.test_admission.test_a_fenced_attempt_changes_nothing"],
    "stop_only_fenced": [
        "store.test_admission.test_what_is_live_or_may_be_adopted_is_never_stopped",
        "store.test_attempts.test_end_start_call",
        "reconcile.test_properties.test_decide",
    ],
    "cancel_atomic": ["store.test_commands.test_cancel_of_a_live_attempt"],
    "cleanup_unhooks": [
        "reconcile.test_rules.test_terminal",
        "store.test_ticks.test_a_terminal_bead_is_cleaned_up_and_its_attempt_stopped",
    ],
    "no_stalled_status": ["store.test_schema.test_refused"],
    "guard_by_api": ["store.test_ticks.test_the_outage_of_the_api_is_nobodys_death"],
    "wip_without_permit": ["agent.test_supervisor.test_superseded_it_saves_the_work_and_ends_with_75"],
    "merge_fence": [
        "store.test_merges.test_cancel_before_the_push_means_no_push",
        "store.test_merges.test_cancel_and_push_at_once",
    ],
}


# Not taken out in tests/model: races, the supervisor's, and what the product does not have. docs/refinement.md has why.
NOT_MODELLED = {
    "row_lock",
    "unique_index",
    "permit_checked",
    "calls_check_bead",
    "cleanup_unhooks",
    "no_stalled_status",
    "wip_without_permit",
}
BY_CHANCE = {  # those that tests/sim takes out as well, and notices
    "adopt_checks_epoch": "a fence that forgets newer epochs",
    "rollback_guarded": "a roll-back that touches the bead though it hit nothing",
    "rollback_before_running": "a roll-back of what runs",
    "stop_only_fenced": "a sweep that ends what lives",
    "done_repeatable": "a done that cannot be repeated",
    "wip_without_permit": "work that is forgotten with the report",
}
TOGETHER = (
    "model.test_refinement.test_the_product_goes_where_the_specification_goes",
    "model.test_refinement.test_a_product_without_a_protection_goes_elsewhere",
    "flows.test_matrix.test_cell",
    "sim.test_simulation.test_fresh_seeds_break_nothing",
    "sim.test_mutants.test_a_mutant_is_noticed",
)


def test_the_model_and_the_simulation_take_out_what_they_can() -> None:
    assert PROTECTIONS.keys() - MODELLED.keys() == NOT_MODELLED
    assert MODELLED.keys() <= PROTECTIONS.keys()
    assert BY_CHANCE.keys() <= PROTECTIONS.keys()
    assert set(BY_CHANCE.values()) <= {mutant.name for mutant in SIMULATED}
    for path in TOGETHER:
        module, _, name = path.rpartition(".")
        assert callable(getattr(importlib.import_module(f"tests.{module}"), name)), path


@pytest.mark.parametrize("protection", PROTECTIONS)
def test_protection_has_a_test(protection: str) -> None:
    for path in PROTECTIONS[protection]:
        module, _, name = path.rpartition(".")
        assert callable(getattr(importlib.import_module(f"tests.{module}"), name)), path
    assert len(PROTECTIONS) == 22
