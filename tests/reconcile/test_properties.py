"""What holds for every view that can be constructed, also for those that no row should ever give."""

from datetime import datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gastown.reconcile import decide
from gastown.reconcile.actions import (
    AskMerge,
    AskStop,
    CleanUp,
    CreateDispatch,
    CreateReview,
    CreateRework,
    Escalate,
    FailMerge,
    FreeAgent,
    HoldBead,
    Lose,
    NoteStall,
    RollBack,
    StopAttempt,
    StopContainer,
)
from gastown.reconcile.policy import Policy
from gastown.reconcile.views import BeadView, BlockerView, DispatchView, FailureView, LandingView, MergeView, dump, load
from gastown.states import (
    LIVE,
    REWORKED,
    AgentStatus,
    BeadStatus,
    ConvoyStatus,
    DispatchStatus,
    FailureClass,
    HoldCode,
    MergeStatus,
    Resolution,
    StopCode,
    Verdict,
)
from tests.views import NOON, SLOT, after, running

# verdicts that some event ends, with the transaction that wakes the bead then; all others need a next look
WOKEN = {
    Verdict.READY,  # a slot: every tick of a town with ready beads
    Verdict.BLOCKED,  # the blocker's end
    Verdict.BLOCKER_FAILED,  # its retry
    Verdict.HELD,  # release
    Verdict.AWAITING_MERGE,  # the end of the merge ahead
    Verdict.MERGE_HELD,  # retry
    Verdict.AWAITING_REWORK,  # the end of the bead that mends it
    Verdict.AWAITING_REVIEW,  # the end of the bead that reviews it
    Verdict.AWAITING_APPROVAL,  # retry, when nobody looks by itself
    Verdict.STAGED,  # the start of its convoy
    Verdict.AWAITING_MEMBERS,  # the end of a member
    Verdict.MEMBER_FAILED,  # its retry
    Verdict.TERMINAL,  # retry
    Verdict.EXHAUSTED,  # it is terminal with this decision
}
MOMENTS = st.integers(-300, 300).map(after) | st.floats(-300, 300).map(after)
MAYBE = st.none() | MOMENTS
DISPATCHES = st.builds(
    DispatchView,
    id=st.just("d1"),
    epoch=st.integers(1, 9),
    status=st.sampled_from(LIVE),
    node=st.just("here"),
    queued_at=MOMENTS,
    starting_at=MAYBE,
    call_ended_at=MAYBE,
    heartbeat_at=MAYBE,
    lease_expires_at=MAYBE,
    seen=st.sampled_from([None, "present", "absent"]),
    seen_at=MAYBE,
    seen_exit_code=st.none() | st.integers(-64, 255),
    seen_oom=st.booleans(),
    api_was_away=st.booleans(),
    api_back_at=MAYBE,
    started_at=MAYBE | st.integers(-20_000, 0).map(after),
    progress_at=MAYBE | st.integers(-9_000, 0).map(after),
    tool_running=st.booleans(),
    stall_tier=st.integers(0, 2),
    stop_asked_at=MAYBE,
    stop_code=st.none() | st.sampled_from(StopCode),
    stop_reason=st.just("told"),
    cost_usd=st.floats(0, 3),
    cap_usd=st.none() | st.floats(0, 3),
)
BLOCKERS = st.builds(
    BlockerView,
    id=st.just("gt-other"),
    status=st.sampled_from(BeadStatus),
    resolution=st.none() | st.sampled_from(Resolution),
)
MERGES = st.builds(
    MergeView,
    id=st.just(3),
    status=st.sampled_from([MergeStatus.OPEN, MergeStatus.IN_PROGRESS, MergeStatus.PUSHING]),
    target=st.just("main"),
    lease_expires_at=MAYBE,
    held_reason=st.none() | st.text(max_size=5),
    look_at=MAYBE,
    asked_at=MAYBE,
    ahead=st.none() | st.just("gt-other"),
    held_code=st.none() | st.sampled_from(HoldCode),
    batch=st.none() | st.just("gt-other"),
    rounds=st.integers(0, 5),
    rework_agent=st.none() | st.just("fixer"),
    rework=st.none() | BLOCKERS,
    review_agent=st.none() | st.just("reader"),
    reviewed=st.booleans(),
    review=st.none() | BLOCKERS,
)
FEW = st.integers(0, 3)
LANDINGS = st.builds(
    LandingView,
    convoy=st.just("cv-1"),
    convoy_status=st.sampled_from(ConvoyStatus),
    members=st.integers(0, 12),
    **dict.fromkeys(("released", "canceled", "failed", "stuck"), FEW),
    branch=st.none() | st.just("convoy/one"),
    has_head=st.booleans(),
    partial=st.booleans(),
    attempts=st.integers(0, 7),
    others_over=st.booleans(),
)
FAILURES = st.builds(
    FailureView, failure_class=st.sampled_from(FailureClass), code=st.just("oom"), message=st.text(max_size=9)
)
VIEWS = st.builds(
    BeadView,
    id=st.just("gt-bead"),
    status=st.sampled_from(BeadStatus),
    held_reason=st.none() | st.text(max_size=9),
    forced=st.booleans(),
    not_before=MAYBE,
    blockers=st.lists(BLOCKERS, max_size=2).map(tuple),
    live=st.none() | DISPATCHES,
    agent=st.none() | st.sampled_from(AgentStatus),
    agent_failures=st.integers(0, 7),
    infra_failures=st.integers(0, 25),
    failure=st.none() | FAILURES,
    merge=st.none() | MERGES,
    staged=st.none() | st.just("cv-1"),
    landing=st.none() | LANDINGS,
    outage=st.booleans(),
    unasked=st.booleans(),
    slot=st.none() | st.just(SLOT),
)


@settings(max_examples=800, deadline=None, derandomize=True)
@given(view=VIEWS, now=st.just(NOON) | MOMENTS)
def test_decide(view: BeadView, now: datetime) -> None:
    decision = decide(view, now, Policy())  # total: some rule speaks

    assert decision == decide(view, now, Policy())
    assert load(dump(view)) == view
    assert decide(load(dump(view)), now, Policy()) == decision  # a stored view replays
    assert decision.reason or view.failure or view.merge

    kinds = [type(action) for action in decision.actions]
    if CreateDispatch in kinds:
        assert kinds == [CreateDispatch]
        assert view.slot is not None
        assert view.live is None
        assert view.merge is None
        assert view.status in (BeadStatus.OPEN, BeadStatus.IN_PROGRESS)
        assert view.held_reason is None
        assert all(blocker.released for blocker in view.blockers)
        assert view.forced or view.not_before is None or view.not_before <= now
    if RollBack in kinds:  # never one that made its first call
        assert view.live is not None
        assert view.live.status in (DispatchStatus.QUEUED, DispatchStatus.STARTING)
    if {Lose, AskStop, NoteStall, StopAttempt} & set(kinds):
        assert view.live is not None
        assert view.live.status is DispatchStatus.RUNNING
        asked = view.live.stop_code is not None
        # who was asked to stop, or has to be for what it cost, is never lost, so never adopted, nor asked again
        assert (StopAttempt in kinds) is asked or view.live.over_cap
        if StopAttempt in kinds:  # what it cost is charged, whatever it was asked to stop for
            code = decision.actions[0].code  # type: ignore[union-attr]
            assert code is view.live.stop_code or (code is StopCode.OVER_CAP and view.live.over_cap)
    if StopContainer in kinds:  # rules stop nothing that is live or may be adopted once their actions are done
        assert (CleanUp in kinds and view.terminal) or StopAttempt in kinds
    if FreeAgent in kinds:
        assert view.live is None
        assert view.agent is AgentStatus.WORKING
    if HoldBead in kinds:
        assert view.held_reason is None
        assert view.live is None
        assert Escalate in kinds

    if CreateRework in kinds:  # one at a time, for what an agent may mend, and only so often
        assert view.merge is not None
        assert view.merge.rework is None
        assert view.merge.held_code in REWORKED
        assert view.merge.rounds < Policy().rework_rounds
    if FailMerge in kinds:
        assert view.merge is not None
        assert view.merge.rounds >= Policy().rework_rounds
    if {CreateRework, CreateReview, FailMerge, AskMerge} & set(kinds):  # never on what a worker has in hand
        assert view.merge is not None
        assert view.merge.status is MergeStatus.OPEN or AskMerge in kinds

    if decision.next_look is None:
        assert decision.verdict in WOKEN, f"{decision} would sleep for ever"
    else:
        assert decision.next_look > now or decision.actions, f"{decision} would be made again at once"


def test_a_view_has_no_ended_attempt_as_its_live_one() -> None:
    with pytest.raises(ValueError, match="the live attempt of gt-bead is lost"):
        BeadView(id="gt-bead", status=BeadStatus.OPEN, live=running(status=DispatchStatus.LOST))
