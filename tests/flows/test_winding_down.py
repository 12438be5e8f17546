"""Attempts that are asked to stop, and presets that rest: rules, API, supervisor and agent together."""

from collections.abc import Iterator

import pytest

from tests.flows.town import Town, run_town, until

IMPATIENT = {
    "heartbeat_s": 1,
    "heartbeat_lease_s": 10,
    "max_runtime_s": 8,
    "wrap_up_s": 8,
    "attempt_cap_usd": 1,
    "backoff_s": [0],
}


@pytest.fixture(scope="module")
def shared_town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    with run_town(tmp_path_factory.mktemp("stop"), policy=IMPATIENT) as town:
        yield town


def test_one_that_runs_for_too_long_saves_its_work_and_the_next_goes_on_from_it(town: Town) -> None:
    script = "if test -f half.txt; then echo rest >> half.txt; else echo half > half.txt; exec sleep 120; fi"
    bead = town.sling(script)
    town.merged(bead)
    stopped, worked = town.attempts(bead)
    assert (stopped.status, stopped.code, stopped.failure_class) == ("stopped", "max_runtime", "agent")
    assert stopped.wip_sha is not None
    assert stopped.message == stopped.stop_reason  # its own report, not the rule's
    assert worked.status == "succeeded"
    assert town.read("half.txt") == "half\nrest"


def test_above_its_cap_it_is_stopped_and_its_bead_held(town: Town) -> None:
    bead = town.sling("echo work > work.txt; gastown self cost 1.5; exec sleep 120")
    until("its bead is held", lambda: town.bead(bead).held_reason)
    [attempt] = town.attempts(bead)
    assert (attempt.status, attempt.code, attempt.cost_usd, attempt.cap_usd) == ("stopped", "over_cap", 1.5, 1)
    assert attempt.wip_sha is not None
    assert town.bead(bead).failure_class == "budget"


def test_a_limit_makes_the_preset_rest_and_counts_for_nothing(town: Town) -> None:
    script = "if test $GASTOWN_EPOCH = 1; then gastown self limit --for 3 slow down; exit 1; fi; echo done > limit.txt"
    bead = town.sling(script)
    town.merged(bead)
    limited, worked = town.attempts(bead)
    assert (limited.code, limited.failure_class, worked.status) == ("rate_limited", "rate_limit", "succeeded")
    assert limited.ended_at is not None
    assert (worked.queued_at - limited.ended_at).total_seconds() >= 2.5  # it had said so shortly before its end
