"""The town's gates at their boundaries, the breakers, and that `why` and a tick say the same."""

from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gastown.reconcile import town
from gastown.reconcile.placement import Candidate, place
from gastown.reconcile.policy import Policy
from gastown.reconcile.views import NodeView, Rest, RigView, TownView
from gastown.states import Verdict
from tests.views import NOON, after

POLICY = Policy()
DEAR = Policy(budget_usd_per_day=10, attempt_cap_usd=2)


def a_rig(number: int = 1, **facts: Any) -> RigView:
    return RigView(**{"id": number, "name": f"rig{number}", "used": 0, "limit": 4, "preset": "shell"} | facts)


def a_node(number: int = 1, **facts: Any) -> NodeView:
    usual = {"name": f"n{number}", "used": 0, "capacity": 8, "heartbeat_at": NOON, "alive": True}
    return NodeView(**{"id": number} | usual | facts)


def a_town(*nodes: NodeView, **facts: Any) -> TownView:
    return TownView(**{"used": 0, "rigs": {1: a_rig()}, "nodes": nodes or (a_node(),)} | facts)


def failing(failures: int, since_s: float = -60, **facts: Any) -> TownView:
    return a_town(infra_failures=failures, infra_since=after(since_s), infra_failure="start_error: no disk", **facts)


def opened(at_s: float = 0, **facts: Any) -> TownView:
    return a_town(breaker_opened_at=after(at_s), breaker_reason="no disk", **facts)


def resting_node(failures: int = 3, **facts: Any) -> NodeView:
    return a_node(**{"failures": failures, "failed_at": NOON, "failure": "start_error: no disk"} | facts)


@pytest.mark.parametrize(
    ("failures", "started_s", "opens"),
    [
        (19, None, False),
        (20, None, True),
        (20, -61, True),  # the last start was before the first of them
        (20, -60, True),
        (20, -59.999, False),
        (0, None, False),
    ],
)
def test_the_breaker_opens(failures: int, started_s: float | None, opens: bool) -> None:
    view = failing(failures, last_started_at=None if started_s is None else after(started_s))
    move = town.breaker_move(view, NOON, POLICY)
    assert (move is not None) is opens
    if move is not None:
        assert move.opens
        assert move.reason == (
            "20 attempts failed since 11:59:00 UTC and none made a first call; the last: start_error: no disk"
        )
        assert town.room(view, NOON, POLICY).slots == 0  # in the same tick
        assert town.open_breaker(view, NOON, POLICY) == (NOON, move.reason, after(300), False)


def test_a_town_without_failures_has_no_first_one() -> None:
    assert town.breaker_move(a_town(infra_failures=99), NOON, POLICY) is None


@pytest.mark.parametrize(("started_s", "closes"), [(None, False), (-1, False), (0, False), (0.001, True)])
def test_the_first_call_of_any_attempt_closes_the_breaker(started_s: float | None, closes: bool) -> None:
    view = opened(last_started_at=None if started_s is None else after(started_s))
    move = town.breaker_move(view, after(1), POLICY)
    assert (move is not None) is closes
    if move is not None:
        assert (move.opens, move.reason) == (False, "an attempt made its first call at 12:00:00 UTC")
        assert town.room(view, after(1), POLICY).slots == 4
        assert town.open_breaker(view, after(1), POLICY) is None


@pytest.mark.parametrize(("started_s", "closes"), [(-61, False), (-60, False), (-59, True), (0, True)])
def test_a_first_call_that_nobody_saw_when_the_breaker_opened_closes_it(started_s: float, closes: bool) -> None:
    """Its transaction was not committed then. Older ones are no news."""
    view = opened(last_started_at=after(started_s), infra_since=after(-60), infra_failures=20)
    assert (town.breaker_move(view, after(1), POLICY) is not None) is closes


@pytest.mark.parametrize(
    ("at_s", "ended_s", "starting", "slots"),
    [
        (299.999, None, 0, 0),
        (300, None, 0, 1),  # exactly one
        (300, None, 1, 0),  # it is on its way
        (400, 200, 0, 0),  # that one failed too
        (499.999, 200, 0, 0),
        (500, 200, 0, 1),
        (300, -50, 0, 1),  # the end of something older says nothing
    ],
)
def test_probes_of_the_breaker(at_s: float, ended_s: float | None, starting: int, slots: int) -> None:
    view = opened(probe_ended_at=None if ended_s is None else after(ended_s), starting=starting, used=starting)
    assert town.room(view, after(at_s), POLICY).slots == slots
    hold = town.hold_of(view, 1, None, after(at_s), POLICY)
    assert hold.verdict is (Verdict.READY if slots else Verdict.BREAKER_OPEN)
    if starting:
        assert hold.reason == (
            "the breaker is open since 12:00:00 UTC: no disk; one attempt tries now whether it works again"
        )
        assert hold.opens_at is None
    elif not slots:
        assert hold.opens_at is not None
        assert hold.opens_at > after(at_s)
        assert hold.reason.endswith(f"one attempt may try at {hold.opens_at:%H:%M:%S} UTC")


@pytest.mark.parametrize(
    ("failures", "at_s", "starting", "free"),
    [
        (2, 0, 0, 8),
        (3, 0, 0, 0),
        (3, 59.999, 0, 0),
        (3, 60, 0, 1),
        (3, 60, 1, 0),
        (4, 119.999, 0, 0),
        (4, 120, 0, 1),
        (5, 299.999, 0, 0),
        (5, 300, 0, 1),
        (99, 300, 0, 1),
    ],
)
def test_a_node_whose_starts_fail_rests(failures: int, at_s: float, starting: int, free: int) -> None:
    node = resting_node(failures, starting=starting)
    assert town.free_on(node, after(at_s), POLICY) == free
    hold = town.hold_of(a_town(node), 1, None, after(at_s), POLICY)
    assert hold.verdict is (Verdict.READY if free else Verdict.NO_NODE)
    assert hold.gate == ("" if free else "node_breaker")


def test_a_probe_needs_a_free_place() -> None:
    node = resting_node(used=8)
    assert town.free_on(node, after(60), POLICY) == 0
    assert town.hold_of(a_town(node), 1, None, after(60), POLICY).verdict is Verdict.AT_CAPACITY


def test_a_node_of_which_no_failure_is_dated_does_not_rest() -> None:
    assert town.node_rests_until(a_node(failures=3), POLICY) is None


PAUSED_AT = after(-60)
SHUT = {  # in the order in which the gates are asked
    "misconfigured": a_town(wrong="policy of town default: max_running = -1"),
    "paused": a_town(paused_at=PAUSED_AT),
    "town_breaker": opened(-1),
    "budget": a_town(spent_usd=8.5, spent_since=after(-3600), rigs={1: a_rig(cap_usd=2)}),
    "preset_at_rest": a_town(rests={"shell": Rest(after(30), "429")}),
    "no_node": a_town(a_node(alive=False)),
    "unfit": a_town(a_node(runtime="docker")),
    "draining": a_town(a_node(draining=True)),
    "node_breaker": a_town(resting_node()),
    "capacity": a_town(used=4),
}


@pytest.mark.parametrize(
    ("gate", "verdict", "reason", "opens_s"),
    [
        ("misconfigured", Verdict.MISCONFIGURED, "policy of town default: max_running = -1", None),
        ("paused", Verdict.PAUSED, "the town is paused since 11:59:00 UTC", None),
        (
            "town_breaker",
            Verdict.BREAKER_OPEN,
            "the breaker is open since 11:59:59 UTC: no disk; one attempt may try at 12:04:59 UTC",
            299,
        ),
        (
            "budget",
            Verdict.OVER_BUDGET,
            "8.50 USD spent in 24 h and 0.00 reserved by running attempts: 2.00 more do not fit into 10.00 "
            "(policy budget_usd_per_day)",
            23 * 3600,
        ),
        ("preset_at_rest", Verdict.RATE_LIMITED, "shell rests until 12:00:30 UTC: 429", 30),
        ("no_node", Verdict.NO_NODE, "no worker is alive; the last one was n1, seen at 12:00:00 UTC", None),
        (
            "unfit",
            Verdict.NO_NODE,
            "no live node fits: n1 starts containers, and neither it nor the rig names an image for shell",
            None,
        ),
        ("draining", Verdict.DRAINING, "draining: n1", None),
        (
            "node_breaker",
            Verdict.NO_NODE,
            "starts fail on every node: n1 failed 3 in a row (start_error: no disk) and rests until 12:01:00 UTC",
            60,
        ),
        ("capacity", Verdict.AT_CAPACITY, "the town runs 4 of at most 4 attempts (policy max_running)", None),
    ],
)
def test_what_each_gate_says(gate: str, verdict: Verdict, reason: str, opens_s: float | None) -> None:
    opens_at = None if opens_s is None else after(opens_s)
    assert town.hold_of(SHUT[gate], 1, None, NOON, DEAR) == (verdict, reason, opens_at, gate)


def test_the_first_gate_that_is_shut_speaks() -> None:
    """Each of them alone is asked after those before it."""
    assert [gate.__name__ for gate in town.GATES] == list(SHUT)
    everything: dict[str, Any] = {"rigs": {1: a_rig(cap_usd=2)}}
    for name, view in reversed(SHUT.items()):
        fresh = a_town()
        changed = {key: getattr(view, key) for key in view.__dataclass_fields__ if key != "rigs"}
        everything |= {key: value for key, value in changed.items() if value != getattr(fresh, key)}
        assert town.hold_of(replace(a_town(), **everything), 1, None, NOON, DEAR).gate == name


GPU = {1: a_rig(node_labels=("gpu",))}


@pytest.mark.parametrize(
    ("view", "verdict", "reason"),
    [
        (
            a_town(rigs={1: a_rig(wrong="policy of rig rig1: x = 1")}),
            Verdict.MISCONFIGURED,
            "policy of rig rig1: x = 1",
        ),
        (a_town(rigs={1: a_rig(paused_at=PAUSED_AT)}), Verdict.PAUSED, "rig rig1 is paused since 11:59:00 UTC"),
        (
            a_town(rigs={1: a_rig(used=4)}),
            Verdict.AT_CAPACITY,
            "rig rig1 runs 4 of at most 4 attempts (policy rig_max_running)",
        ),
        (a_town(nodes=()), Verdict.NO_NODE, "no worker has ever shown itself"),
        (
            a_town(a_node(alive=False), a_node(2, alive=False, heartbeat_at=after(-60))),
            Verdict.NO_NODE,
            "no worker is alive; the last one was n1, seen at 12:00:00 UTC",
        ),
        (a_town(a_node(alive=False), a_node(2, draining=True)), Verdict.DRAINING, "draining: n2"),
        (
            a_town(resting_node(), a_node(2, used=8), a_node(3, alive=False), a_node(4, draining=True)),
            Verdict.AT_CAPACITY,
            "every node is full: n1 failed 3 in a row (start_error: no disk) and rests until 12:01:00 UTC, n2 8 of 8",
        ),
        (
            a_town(resting_node(failed_at=after(-60), starting=1)),
            Verdict.NO_NODE,
            "starts fail on every node: n1 failed 3 in a row (start_error: no disk) and one start tries it now",
        ),
        (a_town(resting_node(), a_node(2)), Verdict.READY, "a slot is free: the next tick starts it"),
        (a_town(a_node(draining=True), a_node(2)), Verdict.READY, "a slot is free: the next tick starts it"),
        (
            a_town(a_node(labels=("eu",)), a_node(2, alive=False, labels=("gpu",)), rigs=GPU),
            Verdict.NO_NODE,
            "no live node fits: n1 has not the label gpu",
        ),
        (
            a_town(a_node(), a_node(2, labels=("gpu",), draining=True), rigs=GPU),  # the other one is none for it
            Verdict.DRAINING,
            "draining: n2",
        ),
        (
            a_town(a_node(), a_node(2, labels=("gpu",), used=8), rigs=GPU),
            Verdict.AT_CAPACITY,
            "every node is full: n2 8 of 8",
        ),
        (
            a_town(a_node(), rigs={1: a_rig(contained=True, image=True)}),
            Verdict.NO_NODE,
            "no live node fits: the rig asks for a container (gastown rig show), and n1 starts plain processes",
        ),
        (
            a_town(a_node(alive=False, refused="w@b: the name n1 is taken")),
            Verdict.NO_NODE,
            "no worker is alive; the last one was n1, seen at 12:00:00 UTC; "
            "a worker is refused: w@b: the name n1 is taken",
        ),
    ],
)
def test_other_words(view: TownView, verdict: Verdict, reason: str) -> None:
    hold = town.hold_of(view, 1, None, NOON, POLICY)
    assert (hold.verdict, hold.reason) == (verdict, reason)


@pytest.mark.parametrize(
    ("preset", "until_s", "verdict"),
    [
        (None, 0.001, Verdict.RATE_LIMITED),  # the rig's
        ("shell", 1, Verdict.RATE_LIMITED),
        ("claude", 1, Verdict.READY),
        ("shell", 0, Verdict.READY),
    ],
)
def test_a_preset_at_rest(preset: str | None, until_s: float, verdict: Verdict) -> None:
    view = a_town(rests={"shell": Rest(after(until_s), "429")})
    assert town.hold_of(view, 1, preset, NOON, POLICY).verdict is verdict


@pytest.mark.parametrize(
    ("spent", "reserved", "cap", "fits"),
    [
        (8.0, 0.0, 2.0, True),
        (8.01, 0.0, 2.0, False),
        (4.0, 4.0, 2.0, True),
        (4.0, 4.01, 2.0, False),
        (0.0, 11.0, 2.0, False),  # adopted attempts may exceed it
        (0.0, sum([0.1] * 99), 0.1, True),  # 9.899999999999986
    ],
)
def test_budget(spent: float, reserved: float, cap: float, fits: bool) -> None:
    view = a_town(spent_usd=spent, reserved_usd=reserved, rigs={1: a_rig(cap_usd=cap)})
    assert (town.hold_of(view, 1, None, NOON, DEAR).verdict is Verdict.READY) is fits
    assert (town.room(view, NOON, DEAR).slots > 0) is fits
    assert town.hold_of(view, 1, None, NOON, POLICY).verdict is Verdict.READY  # no budget


def test_what_is_only_reserved_says_no_time() -> None:
    view = a_town(reserved_usd=10, rigs={1: a_rig(cap_usd=2)})
    assert town.hold_of(view, 1, None, NOON, DEAR).opens_at is None


@pytest.mark.parametrize(
    ("api_silent", "alive", "down"),
    [(True, False, True), (True, True, False), (False, False, False), (False, True, False)],
)
def test_down(api_silent: bool, alive: bool, down: bool) -> None:
    assert a_town(a_node(alive=alive), api_silent=api_silent).down is down


AGO = st.integers(-700, 100).map(after)
MAYBE_AGO = st.none() | AGO
SMALL = st.integers(0, 4)
NODES = st.builds(
    NodeView,
    id=st.integers(1, 9),
    name=st.just("n"),
    used=SMALL,
    capacity=st.integers(1, 4),
    heartbeat_at=AGO,
    alive=st.sampled_from([True, True, False]),
    draining=st.sampled_from([False, False, True]),
    starting=st.sampled_from([0, 0, 1]),
    failures=st.integers(0, 6),
    failed_at=MAYBE_AGO,
    failure=st.just("start_error: x"),
    runtime=st.sampled_from(["process", "process", "docker"]),
    labels=st.sampled_from([(), ("gpu",), ("gpu", "eu")]),
    images=st.sampled_from([(), ("*",), ("claude",)]),
)
RIGS = st.builds(
    RigView,
    id=st.integers(1, 3),
    name=st.just("r"),
    used=SMALL,
    limit=SMALL,
    preset=st.sampled_from(["shell", "claude"]),
    cap_usd=st.sampled_from([1.0, 2.0, 5.0]),
    paused_at=st.none() | st.none() | AGO,
    wrong=st.none() | st.none() | st.just("x"),
    node_labels=st.sampled_from([(), (), ("gpu",), ("gpu", "eu")]),
    contained=st.sampled_from([False, False, True]),
    image=st.sampled_from([False, False, True]),
)
TOWNS = st.builds(
    TownView,
    used=SMALL,
    starting=st.sampled_from([0, 0, 1]),
    paused_at=st.none() | st.none() | AGO,
    wrong=st.none() | st.none() | st.just("x"),
    breaker_opened_at=MAYBE_AGO,
    infra_failures=st.integers(0, 25),
    infra_since=MAYBE_AGO,
    last_started_at=MAYBE_AGO,
    probe_ended_at=MAYBE_AGO,
    spent_usd=st.floats(0, 12),
    spent_since=MAYBE_AGO,
    reserved_usd=st.floats(0, 12),
    rigs=st.lists(RIGS, min_size=1, max_size=3).map(lambda rigs: {rig.id: rig for rig in rigs}),
    nodes=st.lists(NODES, max_size=3, unique_by=lambda node: node.id).map(tuple),
    rests=st.dictionaries(st.sampled_from(["shell", "claude"]), st.builds(Rest, AGO, st.just("429"))),
)


@settings(max_examples=800, deadline=None, derandomize=True)
@given(
    view=TOWNS, preset=st.none() | st.sampled_from(["shell", "claude", "codex"]), policy=st.sampled_from([POLICY, DEAR])
)
def test_why_says_ready_exactly_when_a_tick_would_start_it(view: TownView, preset: str | None, policy: Policy) -> None:
    room = town.room(view, NOON, policy)
    for rig in view.rigs.values():
        hold = town.hold_of(view, rig.id, preset, NOON, policy)
        candidate = Candidate(bead_id="gt-1", rig_id=rig.id, preset=rig.preset if preset is None else preset)
        placed = place([candidate], room)
        assert (hold.verdict is Verdict.READY) is bool(placed), hold
        assert hold.reason
        assert hold.opens_at is None or hold.verdict is not Verdict.READY
        if placed:
            assert room.slots > 0
            assert rig.id in room.open_rigs


@settings(max_examples=500, deadline=None, derandomize=True)
@given(view=TOWNS, wait_s=st.integers(0, 2000))
def test_a_shut_breaker_always_opens_again(view: TownView, wait_s: int) -> None:
    """No move undoes itself, and while nothing is on its way a probe comes in time."""
    move = town.breaker_move(view, NOON, POLICY)
    stored = view
    if move is not None:
        stored = replace(view, breaker_opened_at=NOON if move.opens else None)
        if move.opens:
            assert town.breaker_move(replace(stored, last_started_at=None), NOON, POLICY) is None
    later: datetime = after(1000 + wait_s)
    breaker = town.open_breaker(replace(stored, starting=0), later, POLICY)
    assert breaker is None or not breaker.shut(later) or breaker.opened_at == later
