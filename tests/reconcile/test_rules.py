"""Each rule at its boundaries: one before, at, and after. Asked by way of `decide`, so that the order counts too."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import pytest

from gastown.reconcile import decide
from gastown.reconcile.actions import (
    Action,
    AskMerge,
    CleanUp,
    CreateDispatch,
    FailBead,
    InspectContainers,
    Lose,
    ReclaimMerge,
    RollBack,
    StartContainer,
    StopContainer,
)
from gastown.reconcile.policy import Policy
from gastown.reconcile.rules import RULES, dispatching
from gastown.reconcile.views import BeadView
from gastown.states import AgentStatus, BeadStatus, FailureClass, FailureCode, MergeStatus, Resolution, Verdict
from tests.views import (
    NOON,
    SLOT,
    a_failure,
    a_view,
    after,
    blocked_by,
    in_review,
    queued,
    running,
    starting,
    working_on,
)

START = StartContainer(dispatch_id="d1", node="here")
STOP = StopContainer(dispatch_id="d1", node="here")
INSPECT = InspectContainers(node="here")
ASK = AskMerge(merge_id=3)
INFRA, AGENT, CONFIG = FailureClass.INFRA, FailureClass.AGENT, FailureClass.CONFIG
OPEN, IN_PROGRESS = BeadStatus.OPEN, BeadStatus.IN_PROGRESS
CLOSED, FAILED = BeadStatus.CLOSED, BeadStatus.FAILED


def check(view: BeadView, at: datetime, rule: str, actions: Sequence[Action], next_look: datetime | None) -> None:
    decision = decide(view, at, Policy())
    assert (decision.rule, decision.actions, decision.next_look) == (rule, tuple(actions), next_look)
    assert decision.reason


@pytest.mark.parametrize(
    ("age_s", "rule", "actions", "look_s"),
    [
        (0, "publish_queued", [], 10),
        (9.999, "publish_queued", [], 10),
        (10, "publish_queued", [START], 20),
        (19.999, "publish_queued", [START], 20),
        (20, "publish_queued", [START], 40),
        (40, "publish_queued", [START], 120),
        (119.999, "publish_queued", [START], 120),
    ],
)
def test_publish_queued(age_s: float, rule: str, actions: list[Action], look_s: float) -> None:
    check(working_on(queued()), after(age_s), rule, actions, after(look_s))


@pytest.mark.parametrize("age_s", [120, 120.001, 5000])
def test_give_up_unclaimed(age_s: float) -> None:
    message = "no worker on here took the start for 120 s"
    rollback = RollBack(dispatch_id="d1", code=FailureCode.NO_NODE, message=message)
    check(working_on(queued()), after(age_s), "give_up_unclaimed", [rollback], after(age_s))


@pytest.mark.parametrize(("age_s", "look_s"), [(60, 120), (120, 135), (28_800, 28_815)])
def test_what_is_queued_while_the_machine_sleeps_is_offered_again(age_s: float, look_s: float) -> None:
    """The API was away, or is, and so was the node perhaps: it is no failure of its."""
    check(working_on(queued(), outage=True), after(age_s), "publish_queued", [START], after(look_s))


@pytest.mark.parametrize(
    ("seen", "call_ended_s", "seen_s", "gone"),
    [
        ("absent", 2, 1.999, False),  # looked before the call of the start had ended: it may have come up since
        ("absent", 2, 2, True),
        ("absent", 2, 2.001, True),
        ("absent", None, 3, False),  # somebody is inside runtime.start
        ("absent", 2, None, False),
        ("present", 2, 3, False),
        (None, 2, 3, False),
    ],
)
def test_roll_back_absent(seen: str | None, call_ended_s: float | None, seen_s: float | None, gone: bool) -> None:
    live = starting(
        seen=seen,
        call_ended_at=None if call_ended_s is None else after(call_ended_s),
        seen_at=None if seen_s is None else after(seen_s),
    )
    decision = decide(working_on(live), after(4), Policy())
    assert (decision.rule == "roll_back_absent") is gone
    rollback = RollBack(
        dispatch_id="d1", code=FailureCode.START_ERROR, message="attempt 1 was not there after its start"
    )
    assert (rollback in decision.actions) is gone


@pytest.mark.parametrize(
    ("age_s", "outage", "expired"),
    [(119.999, False, False), (120, False, True), (120.001, False, True), (120, True, False), (5000, True, False)],
)
def test_expire_start(age_s: float, outage: bool, expired: bool) -> None:
    decision = decide(working_on(starting(), outage=outage), after(age_s), Policy())
    message = "attempt 1 made no call within 120 s of its start"
    rollback = RollBack(dispatch_id="d1", code=FailureCode.START_TIMEOUT, message=message)
    assert (decision.actions == (rollback,)) is expired
    assert (decision.rule == "expire_start") is expired
    assert decision.next_look == (after(age_s) if expired else after(age_s + 5))


def test_expire_start_needs_a_start() -> None:
    assert decide(working_on(starting(starting_at=None)), after(500), Policy()).rule == "await_first_call"


@pytest.mark.parametrize(
    ("age_s", "facts", "actions", "look_s"),
    [
        (0, {}, [], 5),
        (4.999, {}, [], 5),
        (5, {}, [INSPECT], 10),
        (7, {}, [INSPECT], 12),
        (1, {"call_ended_at": after(1)}, [INSPECT], 5),  # its end is in doubt
        (2, {"call_ended_at": after(1), "seen_at": after(1), "seen": "present"}, [], 5),  # looked at since
        (2, {"call_ended_at": after(1), "seen_at": after(0.5), "seen": "present"}, [INSPECT], 5),
        (2, {"call_ended_at": after(1), "heartbeat_at": after(1)}, [], 5),
    ],
)
def test_await_first_call(age_s: float, facts: dict[str, Any], actions: list[Action], look_s: float) -> None:
    check(working_on(starting(**facts)), after(age_s), "await_first_call", actions, after(look_s))


@pytest.mark.parametrize(
    ("seen", "seen_s", "beat_s", "lost"),
    [
        ("absent", 4.999, 5, False),  # it beat after that look: it is there
        ("absent", 5, 5, False),
        ("absent", 5.001, 5, True),
        ("absent", 1, None, True),
        ("absent", None, 5, False),
        ("present", 9, 5, False),
        (None, 9, 5, False),
    ],
)
def test_lose_vanished(seen: str | None, seen_s: float | None, beat_s: float | None, lost: bool) -> None:
    live = running(
        seen=seen,
        seen_at=None if seen_s is None else after(seen_s),
        heartbeat_at=None if beat_s is None else after(beat_s),
    )
    decision = decide(working_on(live, outage=True), after(6), Policy())  # an outage changes nothing about absence
    assert (decision.rule == "lose_vanished") is lost
    assert any(isinstance(action, Lose) for action in decision.actions) is lost


@pytest.mark.parametrize(
    ("oom", "exit_code", "code", "words"),
    [
        (False, 1, FailureCode.VANISHED, "exit code 1"),
        (False, None, FailureCode.VANISHED, "no exit code is known"),
        (True, 137, FailureCode.OOM, "exit code 137"),
    ],
)
def test_lose_vanished_says_how(oom: bool, exit_code: int | None, code: FailureCode, words: str) -> None:
    live = running(seen="absent", seen_at=after(1), seen_oom=oom, seen_exit_code=exit_code)
    message = f"the process of attempt 1 is gone from here ({words})"
    action = Lose(dispatch_id="d1", code=code, message=message, exit_code=exit_code)
    check(working_on(live), after(2), "lose_vanished", [action], after(2))


def test_lose_vanished_after_a_reboot_is_nobodys_fault() -> None:
    live = running(seen="absent", seen_at=after(1), api_was_away=True)
    (lost,) = decide(working_on(live), after(2), Policy()).actions
    assert isinstance(lost, Lose)
    assert (lost.code, lost.code.failure_class) == (FailureCode.NODE_LOST, FailureClass.INFRA)


@pytest.mark.parametrize(
    ("left_s", "outage", "lost"), [(0.001, False, False), (0, False, True), (-1, False, True), (-1, True, False)]
)
def test_lose_silent(left_s: float, outage: bool, lost: bool) -> None:
    decision = decide(working_on(running(lease_expires_at=after(left_s)), outage=outage), NOON, Policy())
    action = Lose(dispatch_id="d1", code=FailureCode.HEARTBEAT_LOST, message="attempt 1 is silent since 12:00:00")
    assert (decision.rule, decision.actions) == (("lose_silent", (action,)) if lost else ("await_agent", ()))


def test_lose_silent_one_that_never_beat() -> None:
    decision = decide(working_on(running(heartbeat_at=None, lease_expires_at=NOON)), NOON, Policy())
    assert decision.reason == "attempt 1 is silent never"


@pytest.mark.parametrize(
    ("lease_s", "outage", "look_s"),
    [(45, False, 45), (1, True, 1), (0, True, 15), (-100, True, 15), (None, False, 15)],
)
def test_await_agent(lease_s: float | None, outage: bool, look_s: float) -> None:
    live = running(lease_expires_at=None if lease_s is None else after(lease_s))
    check(working_on(live, outage=outage), NOON, "await_agent", [], after(look_s))


MERGING, PUSHING = MergeStatus.IN_PROGRESS, MergeStatus.PUSHING


@pytest.mark.parametrize(("status", "words"), [(MERGING, "being merged into main"), (PUSHING, "being pushed to main")])
def test_await_merge(status: MergeStatus, words: str) -> None:
    view = in_review(status=status, lease_expires_at=after(1))
    check(view, NOON, "await_merge", [], after(1))
    assert decide(view, NOON, Policy()).reason == words


@pytest.mark.parametrize(
    ("left_s", "words"),
    [
        (1, "being pushed to main, so far without an answer: no route"),
        (0, "the push to main had no answer (no route); the target is looked at"),
    ],
)
def test_a_push_without_an_answer_says_so(left_s: float, words: str) -> None:
    held = {"held_code": "unreachable", "held_reason": "no route"}
    view = in_review(status=PUSHING, lease_expires_at=after(left_s), **held)
    assert decide(view, NOON, Policy()).reason == words


@pytest.mark.parametrize(
    ("status", "left_s", "actions", "look_s"),
    [
        (MERGING, 0, [ReclaimMerge(merge_id=3)], 0),
        (MERGING, -1, [ReclaimMerge(merge_id=3)], 0),
        (MERGING, None, [ReclaimMerge(merge_id=3)], 0),
        (PUSHING, 0, [ASK], 10),  # never back into the queue: the target has to be looked at
        (PUSHING, -1, [ASK], 10),
    ],
)
def test_reclaim_expired(status: MergeStatus, left_s: float | None, actions: list[Action], look_s: float) -> None:
    view = in_review(status=status, lease_expires_at=None if left_s is None else after(left_s))
    check(view, NOON, "reclaim_expired", actions, after(look_s))


@pytest.mark.parametrize(
    ("look_s", "actions", "next_s"), [(None, [], None), (1, [], 1), (0, [ASK], 10), (-50, [ASK], 10)]
)
def test_hold_merge(look_s: float | None, actions: list[Action], next_s: float | None) -> None:
    look_at = None if look_s is None else after(look_s)
    view = in_review(held_code="conflict", held_reason="conflict in a.py", look_at=look_at, ahead="gt-other")
    check(view, NOON, "hold_merge", actions, None if next_s is None else after(next_s))


def test_queue_behind() -> None:
    check(in_review(ahead="gt-other"), NOON, "queue_behind", [], after(10))


@pytest.mark.parametrize(
    ("asked_s", "actions", "look_s"), [(None, [ASK], 10), (-9.999, [], 0.001), (-10, [ASK], 10), (-11, [ASK], 10)]
)
def test_ask_merge(asked_s: float | None, actions: list[Action], look_s: float) -> None:
    view = in_review(asked_at=None if asked_s is None else after(asked_s))
    check(view, NOON, "ask_merge", actions, after(look_s))


def test_nothing_to_merge_starts_nothing() -> None:
    check(a_view(status=BeadStatus.IN_REVIEW, slot=SLOT), NOON, "ask_merge", [], None)


@pytest.mark.parametrize(("failure_class", "fails"), [(INFRA, False), (AGENT, False), (CONFIG, True)])
def test_fail_misconfigured(failure_class: FailureClass, fails: bool) -> None:
    decision = decide(a_view(status=IN_PROGRESS, failure=a_failure(failure_class)), NOON, Policy())
    assert (decision.rule == "fail_misconfigured") is fails
    assert (FailBead(code="agent_failed", message="exit code 1") in decision.actions) is fails


@pytest.mark.parametrize(("failures", "fails"), [(0, False), (4, False), (5, True), (6, True)])
@pytest.mark.parametrize("held", [None, "wait"])
def test_fail_exhausted(failures: int, fails: bool, held: str | None) -> None:
    view = a_view(status=IN_PROGRESS, agent_failures=failures, failure=a_failure(), held_reason=held)
    decision = decide(view, NOON, Policy())
    assert (decision.rule == "fail_exhausted") is fails
    message = f"{failures} attempts failed; the last one: exit code 1"
    assert (FailBead(code="attempts_exhausted", message=message) in decision.actions) is fails


def test_an_adopted_attempt_cleared_the_failure() -> None:
    assert decide(a_view(status=IN_PROGRESS, agent_failures=9, slot=SLOT), NOON, Policy()).rule == "dispatch"


def test_hold() -> None:
    check(a_view(held_reason="Friday", slot=SLOT), NOON, "hold", [], None)


@pytest.mark.parametrize(
    ("status", "resolution", "rule"),
    [
        (OPEN, None, "wait_for_blockers"),
        (IN_PROGRESS, None, "wait_for_blockers"),
        (BeadStatus.IN_REVIEW, None, "wait_for_blockers"),  # done is not merged
        (CLOSED, Resolution.MERGED, "dispatch"),
        (CLOSED, Resolution.NO_CHANGES, "dispatch"),
        (CLOSED, Resolution.DONE, "dispatch"),
        (CLOSED, Resolution.CANCELED, "wait_for_failed_blocker"),
        (FAILED, None, "wait_for_failed_blocker"),
    ],
)
def test_blockers(status: BeadStatus, resolution: Resolution | None, rule: str) -> None:
    decision = decide(a_view(blockers=blocked_by(status, resolution), slot=SLOT, forced=True), NOON, Policy())
    assert decision.rule == rule
    assert decision.next_look is None or rule == "dispatch"
    assert "gt-other" in decision.reason or rule == "dispatch"


def test_a_failed_blocker_is_named_before_one_that_may_still_come() -> None:
    decision = decide(a_view(blockers=blocked_by(OPEN) + blocked_by(FAILED)), NOON, Policy())
    assert decision.verdict is Verdict.BLOCKER_FAILED


@pytest.mark.parametrize(
    ("left_s", "forced", "cools"), [(0.001, False, True), (0, False, False), (-1, False, False), (60, True, False)]
)
def test_cool_down(left_s: float, forced: bool, cools: bool) -> None:
    view = a_view(status=IN_PROGRESS, not_before=after(left_s), forced=forced, failure=a_failure(), slot=SLOT)
    decision = decide(view, NOON, Policy())
    assert decision.rule == ("cool_down" if cools else "dispatch")
    assert decision.next_look == (after(left_s) if cools else after(10))


def test_cool_down_says_when_and_why() -> None:
    assert decide(a_view(not_before=after(30), failure=a_failure()), NOON, Policy()).reason == (
        "next attempt at 12:00:30 UTC: exit code 1"
    )
    assert decide(a_view(not_before=after(30)), NOON, Policy()).reason == "next attempt at 12:00:30 UTC"


@pytest.mark.parametrize("status", [OPEN, IN_PROGRESS])
def test_ready_then_dispatch(status: BeadStatus) -> None:
    check(a_view(status=status), NOON, "queue_ready", [], None)
    check(a_view(status=status, slot=SLOT), NOON, "dispatch", [CreateDispatch(node_id=7)], after(10))


@pytest.mark.parametrize("status", [CLOSED, FAILED])
@pytest.mark.parametrize(
    ("live", "agent", "actions"),
    [
        (None, None, []),
        (running(), AgentStatus.WORKING, [CleanUp(), STOP]),
        (running(), None, [CleanUp(), STOP]),
        (None, AgentStatus.IDLE, [CleanUp()]),  # hooked without a live attempt: freed as well
    ],
)
def test_terminal(status: BeadStatus, live: Any, agent: AgentStatus | None, actions: list[Action]) -> None:
    view = a_view(status=status, live=live, agent=agent, slot=SLOT, failure=a_failure(CONFIG))
    check(view, NOON, "clean_up_terminal" if actions else "rest_terminal", actions, None)


def test_a_view_nobody_speaks_for_is_a_bug(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gastown.reconcile.RULES", [dispatching.hold])
    with pytest.raises(AssertionError, match="no rule speaks of gt-bead, which is open"):
        decide(a_view(), NOON, Policy())


def test_every_rule_says_when_it_applies() -> None:
    for rule in RULES:
        assert rule.__doc__, rule.__name__
    assert len({rule.__name__ for rule in RULES}) == len(RULES)
