"""The numbers: what is refused, which of two wins, and the backoff."""

from dataclasses import fields
from datetime import timedelta
from typing import Any

import pytest

from gastown.reconcile.policy import Policy


@pytest.mark.parametrize(
    ("nonsense", "words"),
    [
        ({"max_running": -1}, "max_running = -1"),
        ({"max_running": 2.5}, "max_running = 2.5"),
        ({"max_running": True}, "max_running = True"),
        ({"max_running": "4"}, "max_running = '4'"),
        ({"max_running": [1, 2]}, "max_running = "),
        ({"max_running": None}, "max_running = None"),
        ({"node_max_running": 0}, "node_max_running = 0"),  # a node that can run nothing is no node
        ({"max_agent_failures": 0}, "max_agent_failures = 0"),  # would fail a bead for the first failure of the machine
        ({"backoff_s": 30}, "backoff_s = 30"),
        ({"backoff_s": []}, "backoff_s = "),
        ({"backoff_s": [0, -1]}, "backoff_s = "),
        ({"backoff_s": [0, "1"]}, "backoff_s = "),
        ({"republish_s": []}, "republish_s = "),
        ({"republish_s": [0]}, "republish_s = "),  # would publish with each look
        ({"backoff_jitter": 1.5}, "backoff_jitter = 1.5"),  # would wait less than nothing
        ({"inspect_start_s": 0}, "inspect_start_s = 0"),  # would look again at once, for ever
        ({"merge_look_s": 0}, "merge_look_s = 0"),
        ({"start_timeout_s": float("nan")}, "start_timeout_s = nan"),
        ({"start_timeout_s": float("inf")}, "start_timeout_s = inf"),
        ({"start_timeout_s": 1e300}, "start_timeout_s = 1e+300"),
        ({"api_silence_s": 5}, "api_silence_s = 5"),  # one beat of the API
        ({"node_silence_s": 10}, "node_silence_s = 10"),
        ({"max_runing": 4}, "max_runing"),
    ],
)
def test_nonsense_is_refused(nonsense: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words.replace("+", r"\+").replace("[", r"\[")):
        Policy.of(nonsense)


@pytest.mark.parametrize(("lease_s", "beat_s", "fits"), [(19.9, 10, False), (20, 10, True), (45, 22.6, False)])
def test_a_lease_holds_two_heartbeats(lease_s: float, beat_s: float, fits: bool) -> None:
    numbers = {"heartbeat_lease_s": lease_s, "heartbeat_s": beat_s}
    if fits:
        assert Policy.of(numbers).heartbeat_lease_s == lease_s
        return
    with pytest.raises(ValueError, match="shorter than two heartbeats") as refusal:
        Policy.of(numbers)
    assert str(lease_s) in str(refusal.value)
    assert str(beat_s) in str(refusal.value)


@pytest.mark.parametrize(
    ("numbers", "words"),
    [
        ({"stall_nudge_s": 3601}, "stall_nudge_s = 3601 must not be more than stall_escalate_s = 3600"),
        ({"stall_escalate_s": 7201}, "stall_escalate_s = 7201 must not be more than stall_stop_s = 7200"),
        ({"inspect_start_s": 121}, "inspect_start_s = 121 must not be more than start_timeout_s = 120"),
        ({"start_timeout_s": 4}, "inspect_start_s = 5 must not be more than start_timeout_s = 4"),
        ({"wrap_up_s": 20, "max_runtime_s": 10}, "wrap_up_s = 20 must not be more than max_runtime_s = 10"),
        ({"republish_s": [10, 10]}, "republish_s = [10, 10] must rise from each number to the next"),
        ({"republish_s": [20, 10]}, "republish_s = [20, 10] must rise from each number to the next"),
        (
            {"republish_s": [10, 120]},
            "republish_s = [10, 120] goes on after queued_timeout_s = 120, when it is given up",
        ),
        (
            {"queued_timeout_s": 30},
            "republish_s = [10, 20, 40] goes on after queued_timeout_s = 30, when it is given up",
        ),
        (
            {"budget_usd_per_day": 5},
            "budget_usd_per_day = 5 needs attempt_cap_usd, which is 0: what may be started is counted by it",
        ),
        (
            {"budget_usd_per_day": 5, "attempt_cap_usd": 5.5},
            "attempt_cap_usd = 5.5 is above budget_usd_per_day = 5: nothing could ever be started",
        ),
    ],
)
def test_numbers_that_make_no_sense_together(numbers: dict[str, Any], words: str) -> None:
    """Refused with both values, whichever of the two is the one that was changed."""
    with pytest.raises(ValueError, match=r"must|needs|above|goes on") as refusal:
        Policy.of(numbers)
    assert str(refusal.value) == words


@pytest.mark.parametrize(
    "numbers",
    [
        {"stall_nudge_s": 3600, "stall_escalate_s": 3600, "stall_stop_s": 3600},  # only the stop
        {"inspect_start_s": 120},
        {"republish_s": [119.9]},
        {"budget_usd_per_day": 5, "attempt_cap_usd": 5},
        {"attempt_cap_usd": 5},
    ],
)
def test_numbers_at_their_edges(numbers: dict[str, Any]) -> None:
    Policy.of(numbers)


@pytest.mark.parametrize("name", [each.name for each in fields(Policy)])
@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf"), -1])
def test_no_number_may_be_none_of_this_world(name: str, number: float) -> None:
    value = [number] if isinstance(getattr(Policy(), name), tuple) else number
    with pytest.raises(ValueError, match=f"{name} = "):
        Policy.of({name: value})


def test_the_more_special_override_wins() -> None:
    policy = Policy.of({"max_running": 1, "backoff_s": [5]}, {"max_running": 2})
    assert (policy.max_running, policy.backoff_s) == (2, (5,))
    assert Policy.of() == Policy.of({}) == Policy()


def test_overrides_that_only_make_sense_together() -> None:
    assert Policy.of({"heartbeat_s": 30}, {"heartbeat_lease_s": 90}).heartbeat_s == 30


def test_defaults_are_the_documented_ones() -> None:
    policy = Policy()
    assert (policy.queued_timeout_s, policy.start_timeout_s, policy.heartbeat_lease_s) == (120, 120, 45)
    assert (policy.heartbeat_s, policy.api_silence_s, policy.node_silence_s) == (10, 15, 45)
    assert (policy.backoff_s, policy.republish_s) == ((0, 30, 60, 120, 300, 600), (10, 20, 40))
    assert policy.rule_error_delay == timedelta(seconds=30)
    assert all(each.default is not None for each in fields(Policy))


@pytest.mark.parametrize(
    ("failures", "wait_s"), [(0, 0), (1, 0), (2, 30), (3, 60), (4, 120), (5, 300), (6, 600), (7, 600), (99, 600)]
)
def test_backoff(failures: int, wait_s: float) -> None:
    assert Policy().backoff(failures, 0) == timedelta(seconds=wait_s)
    assert Policy().backoff(failures, -1) == timedelta(seconds=wait_s * 0.9)
    assert Policy().backoff(failures, 1) == timedelta(seconds=wait_s * 1.1)
