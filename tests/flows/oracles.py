"""Which promises a cell of the outcome matrix broke."""

from collections.abc import Iterator
from datetime import UTC, datetime

from gastown.agent.protocol import FENCED_EXIT
from gastown.states import DispatchStatus
from tests.flows.matrix import (
    ANSWER,
    CELL_TIMEOUT_S,
    COPIES_REFUSED,
    ENDED,
    EXPECTED,
    FIRST_CALL,
    INSPECTION,
    LEASE,
    NEVER,
    SUPERSEDED,
    YES,
    Expected,
    Played,
)
from tests.flows.town import Town
from tests.flows.watch import AGENT, SUPERVISOR

# What the rules may take at most, and how much more a loaded machine may: every bound below is made of these.
INSPECTED_WITHIN_S = 5.0
TICK_S = 5.0  # beat's period: a tick that nobody asked for
SLACK = 6


def problems_of(played: Played, town: Town) -> list[str]:
    """Each promise that this cell broke, with the times that were seen."""
    found = [*_one_agent(played, town), *_no_dead_zone(played)]
    if not played.over:
        return [*found, f"it was not over after {CELL_TIMEOUT_S:.0f} s, with attempts {ends_of(played)}"]
    found += [*_is_played(played), *_nothing_lost(played)]
    expected = match(played)
    if expected is None:
        wanted = " or ".join(str(each.ends) for each in EXPECTED[played.cell[:2]])
        return [*found, f"its attempts ended as {ends_of(played)}, expected was {wanted}"]
    return [*found, *_settled_in_time(played, expected), *_late_one(played, expected, town)]


def ends_of(played: Played) -> tuple[str, ...]:
    return tuple(
        ("adopted" if row.adopted_at else str(row.status))
        if row.status == DispatchStatus.SUCCEEDED
        else str(row.code or row.status)
        for row in played.attempts
    )


def match(played: Played) -> Expected | None:
    return next((each for each in EXPECTED[played.cell[:2]] if each.ends == ends_of(played)), None)


def _is_played(played: Played) -> Iterator[str]:
    """That the cell was played at all: a fault that did not strike proves nothing."""
    first = played.attempts[0]
    if played.answered_at is None:
        yield "the start's answer was never given"
    if played.not_ours < (copies := COPIES_REFUSED[played.cell.message]):
        yield f"of {copies} further copies of the start's message, {played.not_ours} arrived"
    republished_s = (first.starting_at - first.queued_at).total_seconds() if first.starting_at else 0.0
    if played.cell.message == NEVER and republished_s < played.cell.policy.republish_s[0]:
        yield f"the lost start was taken {republished_s:.1f} s after it was queued, before it was published again"
    if played.cell[:2] == (SUPERSEDED, YES) and not played.frozen:
        yield "the first attempt was not frozen"


def _one_agent(played: Played, town: Town) -> Iterator[str]:
    """G2: at most one live agent at any moment."""
    if town.watch.most.get(played.bead, 0) > 1:
        seen = [
            f"epoch {row.epoch} {_clock(span.first)}-{_clock(span.last)}"
            for row in played.attempts
            for span in town.watch.of(played.bead, row.epoch, AGENT)
        ]
        yield f"{town.watch.most[played.bead]} agents worked at one moment: {', '.join(seen)}"


def _no_dead_zone(played: Played) -> Iterator[str]:
    """Nothing stays `working` without a process for longer than its lease."""
    policy = played.cell.policy
    in_start = policy.start_timeout_s if played.cell.held else INSPECTED_WITHIN_S
    bounds = {
        "queued": policy.republish_s[0] + SLACK * TICK_S,
        "starting": in_start + SLACK * TICK_S,
        "running": INSPECTED_WITHIN_S + SLACK * TICK_S,
    }
    for gap in played.gaps:
        bound, lasted_s = bounds.get(gap.state, SLACK * TICK_S), gap.ended - gap.began
        if gap.state and lasted_s > bound:
            when = f"{gap.state}, {_clock(gap.began)}-{_clock(gap.ended)}"
            yield f"`working` without a process for {lasted_s:.1f} s ({when}), at most {bound:.0f}"


def _nothing_lost(played: Played) -> Iterator[str]:
    """Merged once, with what the attempt wrote that succeeded; a frozen agent's work is taken up by its successor."""
    assert played.bead_row is not None
    if (played.bead_row.resolution, played.merges) != ("merged", 1):
        yield f"it is {played.bead_row.status} as {played.bead_row.resolution}, with {played.merges} merge commits"
        return
    worked = [str(row.epoch) for row in played.attempts if row.status == DispatchStatus.SUCCEEDED]
    wanted = ["1", *worked] if played.frozen else worked
    if played.content.split() != wanted:
        yield f"merged is the work of epochs {played.content.split()}, not of {wanted}"


def _settled_in_time(played: Played, expected: Expected) -> Iterator[str]:
    settled_s, retried_s = times_of(played, expected)
    policy = played.cell.policy
    limit = SLACK * (INSPECTED_WITHIN_S if expected.settled_by == INSPECTION else TICK_S)
    if settled_s is None:
        yield f"when {expected.settled_by} settled it is not known"
    elif settled_s > limit:
        yield f"{expected.settled_by} settled it after {settled_s:.1f} s, at most {limit:.0f}"
    elif settled_s < 0:
        yield f"{expected.settled_by} settled it {-settled_s:.1f} s too early"
    if retried_s is None:
        return
    waits_s = policy.unknown_start_delay_s if expected.ends[0] == "start_timeout" else 0.0
    if not waits_s <= retried_s <= waits_s + SLACK * TICK_S:
        yield f"the next attempt was queued {retried_s:.1f} s after the first was given up, not after {waits_s:.0f}"
    if waits_s == 0 and (waited := [row.reason for row in played.decisions if row.verdict == "cooldown"]):
        yield f"the first retry had to wait: {waited}"


def times_of(played: Played, expected: Expected) -> tuple[float | None, float | None]:
    """Seconds to the settlement of the first attempt, from when it could be known; and from there to the next attempt.

    An answer counts from when it was given, an inspection from the end of the call, a lease from its expiry, a first
    call from the claim of the start or from when a late one came up.
    """
    first, policy = played.attempts[0], played.cell.policy
    retried_s = _between(first.ended_at, played.attempts[1].queued_at) if played.attempts[1:] else None
    if expected.settled_by == FIRST_CALL:
        settled_s = _between(played.came_up_at or first.starting_at, first.adopted_at or first.started_at)
    elif expected.settled_by == LEASE and first.lease_expires_at is None:
        settled_s = _between(first.starting_at, first.ended_at)
        settled_s = None if settled_s is None else settled_s - policy.start_timeout_s
    else:
        ends = {ANSWER: played.answered_at, INSPECTION: first.call_ended_at, LEASE: first.lease_expires_at}
        settled_s = _between(ends[expected.settled_by], first.ended_at)
    return settled_s, retried_s


def _between(earlier: datetime | None, later: datetime | None) -> float | None:
    return None if earlier is None or later is None else (later - earlier).total_seconds()


def _late_one(played: Played, expected: Expected, town: Town) -> Iterator[str]:
    """A fenced one works on nothing, is told so at its first call, and ends itself."""
    if not expected.late:
        return
    if played.late_exit not in (FENCED_EXIT, *([None] if expected.late == ENDED else [])):
        yield f"the superseded attempt's supervisor exited with {played.late_exit}, not {FENCED_EXIT}"
    if agents := town.watch.of(played.bead, 1, AGENT):
        yield f"the superseded attempt ran an agent at {_clock(agents[0].first)}"
    lived_s = _lived_s(played, town)
    if lived_s > played.cell.policy.heartbeat_s + SLACK * TICK_S:
        yield f"the superseded attempt lived for {lived_s:.1f} s, much longer than a heartbeat"


def _lived_s(played: Played, town: Town) -> float:
    """How long the supervisor of the first attempt was there."""
    return sum(span.last - span.first for span in town.watch.of(played.bead, 1, SUPERVISOR))


def _clock(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%H:%M:%S.%f")[:-3]


def row_of(played: Played, town: Town) -> tuple[str, ...]:
    """For the table at the end of a test run."""
    expected = match(played)
    settled_s, retried_s = (None, None) if expected is None or not played.over else times_of(played, expected)
    gap_s = max((gap.ended - gap.began for gap in played.gaps if gap.state), default=0.0)
    return (
        str(played.cell.outcome),
        played.cell.started,
        played.cell.message,
        ", ".join(ends_of(played)),
        expected.settled_by if expected else "?",
        "-" if settled_s is None else f"{settled_s:.2f} s",
        "-" if retried_s is None else f"{retried_s:.2f} s",
        f"{gap_s:.1f} s",
        f"{_lived_s(played, town):.2f} s" if expected and expected.late else "-",
        str(town.watch.most.get(played.bead, 0)),
    )
