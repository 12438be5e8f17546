"""Attempts that are asked to stop, and those that get nowhere: by way of `decide`, so that the order counts too."""

from typing import Any

import pytest

from gastown.reconcile import decide
from gastown.reconcile.actions import Action, AskStop, Escalate, FreeAgent, NoteStall, StopAttempt, StopContainer
from gastown.reconcile.policy import Policy
from gastown.states import AgentStatus, BeadStatus, StopCode, Verdict
from tests.views import NOON, SLOT, a_failure, a_view, after, queued, running, starting, working_on

CAP = {"stop_code": StopCode.OVER_CAP, "stop_reason": "too dear", "stop_asked_at": NOON}
STOP_CONTAINER = StopContainer(dispatch_id="d1", node="here")
HOUR = 3600.0


def beating(at_s: float, **facts: Any) -> Any:
    """Running, and its last heartbeat was just now."""
    return running(**{"heartbeat_at": after(at_s), "lease_expires_at": after(at_s + 45)} | facts)


@pytest.mark.parametrize(
    ("facts", "at_s", "outage", "how"),
    [
        ({"seen": "absent", "seen_at": after(5)}, 6, False, "is gone"),
        ({"seen": "absent", "seen_at": after(5), "heartbeat_at": None}, 6, False, "is gone"),
        ({"seen": "absent", "seen_at": after(5)}, 6, True, "is gone"),
        ({"seen": "absent", "seen_at": after(5), "heartbeat_at": after(5)}, 6, False, None),  # it beat since
        ({"seen": "absent"}, 6, False, None),
        ({"seen": "present", "seen_at": after(5)}, 6, False, None),
        ({"lease_expires_at": after(6)}, 5.999, False, None),
        ({"lease_expires_at": after(6)}, 6, False, "is silent"),
        ({"lease_expires_at": after(6)}, 6, True, None),  # it could not beat, nor hear
        ({"lease_expires_at": None}, 6, False, None),
        ({"lease_expires_at": after(99)}, 69.999, False, None),
        (
            {"lease_expires_at": after(99)},
            70,
            False,
            "did not end within 60 s",
        ),  # one heartbeat to hear of it, and 60 s
        ({"lease_expires_at": after(99)}, 70, True, None),
    ],
)
def test_finish_stop(facts: dict[str, Any], at_s: float, outage: bool, how: str | None) -> None:
    decision = decide(working_on(running(**CAP | facts), outage=outage), after(at_s), Policy())
    assert decision.verdict is Verdict.STOPPING
    if how is None:
        assert (decision.rule, decision.actions) == ("await_stop", ())
        return
    message = f"attempt 1 {how} after it was asked to stop: too dear"
    stop = StopAttempt(dispatch_id="d1", code=StopCode.OVER_CAP, message=message)
    assert (decision.rule, decision.actions) == ("finish_stop", (stop, STOP_CONTAINER))
    assert decision.next_look == after(at_s)


@pytest.mark.parametrize(
    "later",
    [{"api_back_at": after(600)}, {"started_at": after(600)}, {"stop_asked_at": after(600)}],
)
@pytest.mark.parametrize(("at_s", "over"), [(600, False), (669.999, False), (670, True)])
def test_the_time_to_save_begins_when_it_can_hear_of_the_stop(later: dict[str, Any], at_s: float, over: bool) -> None:
    """Not while the API is away, nor before its first call."""
    live = beating(at_s, **CAP | later)
    decision = decide(working_on(live), after(at_s), Policy())
    assert decision.rule == ("finish_stop" if over else "await_stop")


DEAR = {"cost_usd": 2.5, "cap_usd": 2.0}


@pytest.mark.parametrize(
    ("facts", "outage", "how"),
    [
        ({"seen": "absent", "seen_at": after(5)}, False, "is gone"),
        ({"seen": "absent", "seen_at": after(5), "seen_oom": True}, True, "is gone"),
        ({"lease_expires_at": after(50)}, False, "is silent"),
        ({"lease_expires_at": after(50)}, True, None),
        ({"lease_expires_at": after(51)}, False, None),
        ({"lease_expires_at": None}, False, None),
    ],
)
def test_over_its_cap_and_lost_it_is_not_tried_again(facts: dict[str, Any], outage: bool, how: str | None) -> None:
    """G6: nobody had the time to ask it to stop."""
    decision = decide(working_on(running(**DEAR | facts), outage=outage), after(50), Policy())
    if how is None:
        assert decision.rule == "stop_over_cap"
        return
    message = f"attempt 1 {how}, and it used 2.50 USD and may use 2.00 (policy attempt_cap_usd)"
    stop = StopAttempt(dispatch_id="d1", code=StopCode.OVER_CAP, message=message)
    assert (decision.rule, decision.actions) == ("end_over_cap", (stop, STOP_CONTAINER))


def test_over_its_cap_is_what_counts_whatever_it_was_asked_to_stop_for() -> None:
    asked_for = {"stop_code": StopCode.DRAINED, "stop_reason": "drain", "stop_asked_at": NOON}
    (stop, _) = decide(working_on(running(**DEAR | asked_for)), after(45), Policy()).actions
    assert isinstance(stop, StopAttempt)
    assert stop.code is StopCode.OVER_CAP


@pytest.mark.parametrize(("lease_s", "look_s"), [(45, 45), (99, 70), (0, 15), (None, 15)])
def test_await_stop_looks_when_it_may_be_over(lease_s: float | None, look_s: float) -> None:
    live = running(**CAP | {"lease_expires_at": None if lease_s is None else after(lease_s)})
    decision = decide(working_on(live, outage=True), NOON, Policy())
    assert (decision.rule, decision.next_look) == ("await_stop", after(look_s))
    assert decision.reason == "attempt 1 is asked to stop: too dear"


def test_an_attempt_is_asked_to_stop_once() -> None:
    """Also when more than one reason holds by then."""
    live = beating(5 * HOUR, **CAP | {"stop_asked_at": after(5 * HOUR)}, cost_usd=9, cap_usd=1)
    assert decide(working_on(live), after(5 * HOUR), Policy()).rule == "await_stop"


@pytest.mark.parametrize("live", [queued(**CAP), starting(**CAP)])
def test_what_has_not_called_yet_is_not_asked(live: Any) -> None:
    assert decide(working_on(live), after(1), Policy()).verdict is Verdict.AWAITING_START


def asked(code: StopCode, reason: str) -> tuple[Action, ...]:
    return (AskStop(dispatch_id="d1", code=code, reason=reason),)


@pytest.mark.parametrize(
    ("cost", "cap", "asks"), [(1.0, 1.0, False), (1.01, 1.0, True), (99.0, None, False), (0.01, 0.0, True)]
)
@pytest.mark.parametrize("outage", [False, True])
def test_stop_over_cap(cost: float, cap: float | None, asks: bool, outage: bool) -> None:
    decision = decide(working_on(running(cost_usd=cost, cap_usd=cap), outage=outage), NOON, Policy())
    assert (decision.rule == "stop_over_cap") is asks
    if asks:
        reason = f"it used {cost:.2f} USD and may use {cap:.2f} (policy attempt_cap_usd)"
        assert decision.actions == asked(StopCode.OVER_CAP, reason)
        assert (decision.verdict, decision.next_look) == (Verdict.STOPPING, after(45))


@pytest.mark.parametrize(("age_s", "asks"), [(14_399.999, False), (14_400, True), (99_999, True)])
def test_stop_overtime(age_s: float, asks: bool) -> None:
    live = beating(age_s, progress_at=after(age_s))
    decision = decide(working_on(live), after(age_s), Policy())
    assert (decision.rule == "stop_overtime") is asks
    if asks:
        reason = "it runs since 12:00:00 UTC, longer than 14400 s (max_runtime_s)"
        assert decision.actions == asked(StopCode.MAX_RUNTIME, reason)
        assert decision.next_look == after(age_s + 45)
    else:
        assert decision.next_look == after(14_400)


@pytest.mark.parametrize(("at_s", "asks"), [(14_400, False), (43_199.999, False), (43_200, True)])
def test_a_night_in_which_the_machine_slept_is_no_runtime(at_s: float, asks: bool) -> None:
    """It cannot be told from one in which the attempt went on without the API, and nobody can hear of a stop then."""
    live = beating(at_s, progress_at=after(at_s), api_back_at=after(28_800))
    decision = decide(working_on(live), after(at_s), Policy())
    assert (decision.rule == "stop_overtime") is asks
    assert decide(working_on(live, outage=True), after(at_s), Policy()).rule == "await_agent"


def test_stop_overtime_needs_a_first_call() -> None:
    live = beating(99_999, started_at=None, progress_at=None)
    assert decide(working_on(live), after(99_999), Policy()).rule == "await_agent"


ESCALATION = Escalate(
    cause="stalled:gt-bead",
    message="gt-bead: attempt 1 shows no progress since 12:00:00 UTC; look at `gastown logs gt-bead`. "
    "It is stopped at 14:00:00 UTC",
)


def noted(tier: int) -> NoteStall:
    return NoteStall(dispatch_id="d1", tier=tier, message="attempt 1 shows no progress since 12:00:00 UTC")


@pytest.mark.parametrize(
    ("still_s", "tier", "rule", "actions"),
    [
        (899.999, 0, "await_agent", ()),
        (900, 0, "nudge_stalled", (noted(1),)),
        (900, 1, "await_agent", ()),  # once
        (3599.999, 1, "await_agent", ()),
        (3600, 1, "escalate_stalled", (noted(2), ESCALATION)),
        (3600, 0, "escalate_stalled", (noted(2), ESCALATION)),  # nobody looked for long
        (3600, 2, "await_agent", ()),
        (7199.999, 2, "await_agent", ()),
        (
            7200,
            2,
            "stop_stalled",
            asked(StopCode.STALLED, "no progress since 12:00:00 UTC, longer than 7200 s (stall_stop_s)"),
        ),
        (
            7200,
            0,
            "stop_stalled",
            asked(StopCode.STALLED, "no progress since 12:00:00 UTC, longer than 7200 s (stall_stop_s)"),
        ),
    ],
)
def test_stall_tiers(still_s: float, tier: int, rule: str, actions: tuple[Action, ...]) -> None:
    decision = decide(working_on(beating(still_s, stall_tier=tier)), after(still_s), Policy())
    assert (decision.rule, decision.actions) == (rule, actions)


@pytest.mark.parametrize(
    "excuse",
    [
        {"tool_running": True},
        {"progress_at": after(6900)},  # it went on
        {"api_back_at": after(6900)},  # what happened in the outage may not have arrived
        {"progress_at": None, "started_at": after(6900)},
        {"progress_at": None, "started_at": None},  # an older supervisor said nothing
    ],
)
@pytest.mark.parametrize("tier", [0, 1, 2])
def test_what_is_no_stall(excuse: dict[str, Any], tier: int) -> None:
    live = beating(7200, stall_tier=tier, **excuse)
    assert decide(working_on(live), after(7200), Policy()).rule == "await_agent"


@pytest.mark.parametrize("tier", [0, 1, 2])
def test_no_stall_while_the_api_is_away(tier: int) -> None:
    assert decide(working_on(running(stall_tier=tier), outage=True), after(7200), Policy()).rule == "await_agent"


def test_an_older_return_of_the_api_excuses_nothing() -> None:
    live = beating(900, api_back_at=after(-1))
    assert decide(working_on(live), after(900), Policy()).rule == "nudge_stalled"


@pytest.mark.parametrize(
    ("facts", "look_s"),
    [
        ({}, 900),  # its first tier
        ({"stall_tier": 1}, 3600),
        ({"stall_tier": 2}, 7200),
        ({"stall_tier": 2, "progress_at": after(-7000)}, 200),
        ({"tool_running": True}, 14_400),  # its time
        ({"lease_expires_at": after(100)}, 100),
    ],
)
def test_await_agent_looks_at_the_earliest_clock(facts: dict[str, Any], look_s: float) -> None:
    live = running(**{"lease_expires_at": after(99_999)} | facts)
    decision = decide(working_on(live), NOON, Policy())
    assert (decision.rule, decision.next_look) == ("await_agent", after(look_s))


def test_why_says_that_it_stands_still() -> None:
    stalled = working_on(beating(1000, stall_tier=1))
    assert decide(stalled, after(1000), Policy()).reason == (
        "attempt 1 is at work on here, without progress since 12:00:00 UTC"
    )
    went_on = working_on(beating(1000, stall_tier=1, progress_at=after(990)))
    assert decide(went_on, after(1000), Policy()).reason == "attempt 1 is at work on here"


@pytest.mark.parametrize(
    ("agent", "rule"),
    [
        (AgentStatus.WORKING, "release_orphan"),
        (AgentStatus.IDLE, "dispatch"),
        (None, "dispatch"),
    ],
)
def test_release_orphan(agent: AgentStatus | None, rule: str) -> None:
    decision = decide(a_view(status=BeadStatus.IN_PROGRESS, agent=agent, slot=SLOT), NOON, Policy())
    assert decision.rule == rule
    if agent is AgentStatus.WORKING:
        assert (decision.actions, decision.next_look) == ((FreeAgent(),), NOON)


def test_an_agent_with_a_live_attempt_is_no_orphan() -> None:
    assert decide(working_on(running(), agent=AgentStatus.WORKING), NOON, Policy()).rule == "await_agent"


def test_an_orphan_is_freed_before_anything_else_is_done_with_its_bead() -> None:
    view = a_view(status=BeadStatus.IN_PROGRESS, agent=AgentStatus.WORKING, agent_failures=9, failure=a_failure())
    assert decide(view, NOON, Policy()).rule == "release_orphan"
