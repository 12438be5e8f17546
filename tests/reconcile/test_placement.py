"""Which ready bead gets which free slot."""

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gastown.reconcile.placement import Candidate, NodeRoom, Room, place
from tests.views import after


def a_room(town: int = 9, rigs: dict[int, int] | None = None, **nodes: int) -> Room:
    """`n1=2`: node 1 has two free places."""
    rooms = tuple(NodeRoom(node_id=int(name[1:]), name=name, free=free) for name, free in nodes.items())
    return Room(town=town, rigs={1: 9, 2: 9} if rigs is None else rigs, nodes=rooms)


def beads(count: int, **facts: Any) -> list[Candidate]:
    return [Candidate(bead_id=f"gt-{number}", **{"rig_id": 1} | facts) for number in range(count)]


def names(placed: dict[str, Any]) -> dict[str, str]:
    return {bead: slot.node for bead, slot in placed.items()}


@pytest.mark.parametrize("free", [-1, 0, 1, 2, 3])
def test_town_bounds_starts(free: int) -> None:
    assert len(place(beads(3), a_room(town=free, n1=9))) == max(0, free)
    assert a_room(town=free, n1=9).slots == max(0, free)


@pytest.mark.parametrize("free", [-1, 0, 1, 2, 3])
def test_rig_bounds_starts_and_leaves_the_rest_to_others(free: int) -> None:
    mixed = [*beads(3), Candidate(bead_id="gt-other-rig", rig_id=2)]
    placed = place(mixed, a_room(rigs={1: free, 2: 1}, n1=9))
    assert sum(bead != "gt-other-rig" for bead in placed) == max(0, free)
    assert "gt-other-rig" in placed
    assert a_room(rigs={1: free, 2: 1}, n1=9).open_rigs == ([1, 2] if free > 0 else [2])


def test_a_rig_that_is_not_open_gets_nothing() -> None:
    assert place(beads(1, rig_id=5), a_room(n1=9)) == {}


@pytest.mark.parametrize("free", [-1, 0, 1, 2, 3])
def test_nodes_bound_starts(free: int) -> None:
    assert len(place(beads(3), a_room(n1=free))) == max(0, free)
    assert a_room(n1=free, n2=-4).slots == max(0, free)


def test_order_is_kept_when_slots_run_out() -> None:
    assert list(place(beads(5), a_room(town=2, n1=9))) == ["gt-0", "gt-1"]


def test_the_emptiest_node_first() -> None:
    assert names(place(beads(4), a_room(n1=1, n2=3))) == {"gt-0": "n2", "gt-1": "n2", "gt-2": "n1", "gt-3": "n2"}


@pytest.mark.parametrize(
    ("last", "failed", "nodes", "chosen"),
    [
        (None, None, {"n1": 1, "n2": 2}, "n2"),
        (1, None, {"n1": 1, "n2": 2}, "n1"),  # its worktree is there
        (1, 1, {"n1": 9, "n2": 1}, "n2"),  # it just failed there
        (1, 1, {"n1": 1}, "n1"),  # there is no other
        (2, 1, {"n1": 9, "n2": 1}, "n2"),
        (2, None, {"n1": 1, "n2": 0}, "n1"),  # the last one is full
        (None, 3, {"n1": 1, "n2": 1}, "n1"),  # equal: the older node
    ],
)
def test_node_of_a_retry(last: int | None, failed: int | None, nodes: dict[str, int], chosen: str) -> None:
    placed = place(beads(1, last_node_id=last, failed_node_id=failed), a_room(**nodes))
    assert names(placed) == {"gt-0": chosen}


def many(rig_id: int, count: int, at_s: float = 0, **facts: Any) -> list[Candidate]:
    """Beads of a rig, each a second younger than the one before."""
    return [
        Candidate(**{"bead_id": f"r{rig_id}-{number}", "rig_id": rig_id, "created_at": after(at_s + number)} | facts)
        for number in range(count)
    ]


def order(candidates: list[Candidate], room: Room) -> list[str]:
    return list(place(candidates, room))


def test_forced_then_priority_then_age() -> None:
    low = Candidate(bead_id="low", rig_id=1, priority=3, created_at=after(-9))
    high = Candidate(bead_id="high", rig_id=1, priority=1, created_at=after(9))
    forced = Candidate(bead_id="forced", rig_id=1, priority=3, forced=True, created_at=after(99))
    urgent = Candidate(bead_id="urgent", rig_id=1, priority=0, forced=True, created_at=after(100))
    old = Candidate(bead_id="old", rig_id=1, created_at=after(-100))
    assert order([low, high, forced, urgent, old], a_room(n1=9)) == ["urgent", "forced", "high", "old", "low"]


@pytest.mark.parametrize(
    ("used", "slots", "chosen"),
    [
        ({}, 4, ["r1-0", "r2-0", "r1-1", "r2-1"]),  # in turn, though all of rig 1 are older
        ({1: 2}, 4, ["r2-0", "r2-1", "r1-0", "r2-2"]),  # the one that has fewer catches up
        ({1: 9, 2: 1}, 3, ["r2-0", "r2-1", "r2-2"]),
        ({2: 1}, 1, ["r1-0"]),
    ],
)
def test_fair_between_rigs(used: dict[int, int], slots: int, chosen: list[str]) -> None:
    room = Room(town=slots, rigs={1: 9, 2: 9}, nodes=a_room(n1=9).nodes, used=used)
    assert order(many(1, 5) + many(2, 5, at_s=100), room) == chosen


def test_priority_goes_before_fairness() -> None:
    room = Room(town=3, rigs={1: 9, 2: 9}, nodes=a_room(n1=9).nodes, used={1: 7})
    assert order(many(1, 2, priority=1) + many(2, 2), room) == ["r1-0", "r1-1", "r2-0"]


def probing(*failed_rigs: int, town: int = 9, **facts: Any) -> Room:
    """One node that failed starts of these rigs, and may have one more."""
    node = NodeRoom(node_id=1, name="n1", free=1, probing=True, failed_rigs=failed_rigs)
    return Room(**{"town": town, "rigs": {1: 9, 2: 9, 3: 9}, "nodes": (node,)} | facts)


@pytest.mark.parametrize(
    ("failed_rigs", "chosen"),
    [
        ((), "r1-0"),
        ((1,), "r2-0"),  # though it is the younger one
        ((1, 1, 2), "r3-0"),
        ((3, 1, 2), "r3-0"),  # all failed: whose turn it is
        ((1, 2, 3, 1), "r2-0"),
    ],
)
@pytest.mark.parametrize("whose", ["node", "town"])
def test_a_probe_is_for_a_rig_that_did_not_fail_of_late(failed_rigs: tuple[int, ...], chosen: str, whose: str) -> None:
    room = probing(*failed_rigs)
    if whose == "town":
        room = Room(town=1, rigs=room.rigs, nodes=a_room(n1=9).nodes, probing=True, failed_rigs=failed_rigs)
    assert room.probes == 1
    assert order(many(1, 2) + many(2, 2, at_s=50) + many(3, 2, at_s=99), room) == [chosen]


def test_a_probe_is_for_a_bead_that_did_not_fail() -> None:
    failed = many(1, 2, priority=0, failed_node_id=1, tried_at=after(5))
    good = many(1, 1, at_s=99, bead_id="good", priority=3)
    assert order([*failed, *good], probing(1)) == ["good"]
    assert order(failed, probing(1)) == ["r1-0"]
    waited = many(1, 1, at_s=50, bead_id="waited", failed_node_id=1, tried_at=after(4))
    assert order([*failed, *waited], probing(1)) == ["waited"]
    forced = many(1, 1, at_s=99, bead_id="forced", failed_node_id=1, forced=True, tried_at=after(9))
    assert order([*failed, *good, *forced], probing(1)) == ["forced"]  # somebody asked for that one, by hand


def test_a_probe_that_does_not_fit_is_for_the_next() -> None:
    room = probing(2, rigs={1: 0, 2: 9, 3: 9}, budget_usd=1.0, caps_usd={3: 2.0})
    assert order(many(1, 1) + many(2, 1) + many(3, 1), room) == ["r2-0"]
    assert order(many(1, 1) + many(2, 1), probing(town=0)) == []


def test_a_node_that_rests_is_tried_when_the_others_are_full() -> None:
    nodes = (*a_room(n2=1).nodes, *probing(1).nodes)
    room = Room(town=9, rigs={1: 9, 2: 9}, nodes=nodes)
    assert names(place(many(1, 2, last_node_id=1) + many(2, 1, at_s=50), room)) == {"r1-0": "n2", "r2-0": "n1"}
    assert names(place(many(1, 1, last_node_id=1), room)) == {"r1-0": "n2"}
    assert room.probes == 1


def test_a_preset_at_rest_starts_nothing() -> None:
    room = Room(town=9, rigs={1: 9}, nodes=a_room(n1=9).nodes, resting=frozenset({"claude"}))
    assert order(many(1, 1, preset="claude") + many(1, 1, bead_id="gt-2", preset="shell"), room) == ["gt-2"]


@pytest.mark.parametrize(
    ("left", "started"),
    [
        (None, ["r1-0", "r2-0", "r1-1", "r2-1"]),
        (0.9, []),
        (1.0, ["r2-0"]),  # the dearer rig does not fit, so it holds up nobody
        (4.0, ["r1-0", "r2-0"]),
        (5.0, ["r1-0", "r2-0", "r2-1"]),
        (-3.0, []),
    ],
)
def test_a_budget_bounds_starts(left: float | None, started: list[str]) -> None:
    nodes = a_room(n1=9).nodes
    room = Room(town=9, rigs={1: 9, 2: 9}, nodes=nodes, budget_usd=left, caps_usd={1: 3.0, 2: 1.0})
    assert order(many(1, 2) + many(2, 2), room) == started
    assert (room.slots > 0) is bool(started)
    assert room.open_rigs == [rig for rig, cap in ((1, 3.0), (2, 1.0)) if left is None or cap <= left]


CANDIDATES = st.builds(
    Candidate,
    bead_id=st.uuids().map(str),
    rig_id=st.integers(1, 4),
    forced=st.booleans(),
    priority=st.integers(0, 3),
    created_at=st.integers(-9, 9).map(after),
    preset=st.sampled_from(["", "shell", "claude"]),
    last_node_id=st.none() | st.integers(0, 4),
    failed_node_id=st.none() | st.integers(0, 4),
    tried_at=st.integers(-9, 9).map(after),
)
FAILED_RIGS = st.lists(st.integers(1, 4), max_size=4).map(tuple)
ROOMS = st.builds(
    Room,
    town=st.integers(-2, 6),
    rigs=st.dictionaries(st.integers(1, 3), st.integers(-2, 4)),
    nodes=st.lists(st.integers(-2, 4), max_size=4).map(
        lambda frees: tuple(NodeRoom(node_id=number, name=str(number), free=free) for number, free in enumerate(frees))
    )
    | st.lists(st.tuples(st.integers(-1, 1), FAILED_RIGS), max_size=3).map(
        lambda given: tuple(
            NodeRoom(node_id=number, name=str(number), free=free, probing=bool(number), failed_rigs=failed)
            for number, (free, failed) in enumerate(given)
        )
    ),
    probing=st.booleans(),
    failed_rigs=FAILED_RIGS,
    used=st.dictionaries(st.integers(1, 3), st.integers(0, 5)),
    resting=st.sampled_from([frozenset(), frozenset(), frozenset({"claude"})]),
    budget_usd=st.none() | st.floats(-1, 9),
    caps_usd=st.fixed_dictionaries({rig: st.sampled_from([0.5, 1.0, 3.0]) for rig in (1, 2, 3)}),
)


@settings(max_examples=600, deadline=None, derandomize=True)
@given(candidates=st.lists(CANDIDATES, max_size=12, unique_by=lambda each: each.bead_id), room=ROOMS)
def test_never_more_than_is_free_and_never_less(candidates: list[Candidate], room: Room) -> None:
    placed = place(candidates, room)
    assert placed == place(candidates, room)
    by_id = {each.bead_id: each for each in candidates}
    started = Counter(by_id[bead].rig_id for bead in placed)
    on = Counter(slot.node_id for slot in placed.values())
    spent = sum(room.caps_usd[rig] * count for rig, count in started.items())

    assert len(placed) <= max(0, room.town)
    assert len(placed) <= room.slots
    assert all(on[node.node_id] <= max(0, node.free) for node in room.nodes)
    assert on.keys() <= {node.node_id for node in room.nodes}
    assert all(count <= room.rigs[rig] for rig, count in started.items())
    assert all(by_id[bead].preset not in room.resting for bead in placed)
    assert room.budget_usd is None or not placed or spent <= room.budget_usd + 1e-6

    free = any(node.free > on[node.node_id] for node in room.nodes)
    if len(placed) < room.town and free:  # work-conserving: whoever was left out would not fit
        for each in candidates:
            fits = room.rigs.get(each.rig_id, 0) > started[each.rig_id] and room.affords(each.rig_id, spent)
            assert each.bead_id in placed or each.preset in room.resting or not fits


@settings(max_examples=300, deadline=None, derandomize=True)
@given(ready=st.dictionaries(st.integers(1, 4), st.integers(1, 6), min_size=1), kept=st.integers(4, 9))
def test_each_bead_gets_its_probe_though_all_fail(ready: dict[int, int], kept: int) -> None:
    """Probe after probe: each rig within as many as there are rigs, each bead in a round of its rig."""
    waiting = {each.bead_id: each for rig, count in ready.items() for each in many(rig, count, priority=rig % 2)}
    begun: list[int] = []
    tried: Counter[str] = Counter()
    for now in range(3 * sum(ready.values())):
        (bead_id,) = order(list(waiting.values()), probing(*begun[-kept:], rigs=dict.fromkeys(ready, 9)))
        waiting[bead_id] = replace(waiting[bead_id], failed_node_id=1, last_node_id=1, tried_at=after(now))
        begun.append(waiting[bead_id].rig_id)
        tried[bead_id] += 1
        assert set(begun[-len(ready) :]) == ready.keys() or len(begun) < len(ready)
    for rig in ready:
        times = [tried[bead_id] for bead_id, each in waiting.items() if each.rig_id == rig]
        assert max(times) - min(times) <= 1


@settings(max_examples=300, deadline=None, derandomize=True)
@given(ready=st.dictionaries(st.integers(1, 5), st.integers(1, 30), min_size=1), slots=st.integers(1, 5))
def test_no_rig_starves_at_equal_priority(ready: dict[int, int], slots: int) -> None:
    """Tick after tick, when each attempt ends before the next tick: all get their turn, however unequal the queues."""
    nodes = (NodeRoom(node_id=1, name="n1", free=slots),)
    waiting = [each for rig, count in ready.items() for each in many(rig, count, at_s=rig * 100)]
    running: Counter[int] = Counter()
    begun: list[str] = []
    while waiting:
        free = slots - running.total()
        room = Room(town=free, rigs=dict.fromkeys(ready, 99), nodes=nodes, used=running)
        placed = place(waiting, room)
        assert len(placed) == min(free, len(waiting))
        begun += placed
        waiting = [each for each in waiting if each.bead_id not in placed]
        running.update(int(bead[1]) for bead in placed)
        most = max(running.values())
        behind = [rig for rig in ready if running[rig] < most - 1 and any(each.rig_id == rig for each in waiting)]
        assert not behind, f"rigs {behind} wait while another has two attempts more"
        running -= Counter({max(sorted(running), key=lambda rig: running[rig]): 1})
    assert len(begun) == sum(ready.values())


@pytest.mark.parametrize(
    ("only", "placed"),
    [
        ({}, {"r1-0": "n1", "r2-0": "n2"}),
        ({(1, 1): frozenset()}, {"r1-0": "n2", "r2-0": "n1"}),
        ({(1, 1): frozenset(), (1, 2): frozenset()}, {"r2-0": "n1"}),
        (  # r1-0 holds nobody up
            {(1, 1): frozenset({"claude"}), (1, 2): frozenset(), (2, 1): frozenset()},
            {"r1-1": "n1", "r2-0": "n2"},
        ),
    ],
)
def test_only_on_nodes_that_it_fits_on(only: dict[tuple[int, int], frozenset[str]], placed: dict[str, str]) -> None:
    one, two = many(1, 2, preset="shell"), many(2, 1)
    one[1] = replace(one[1], preset="claude")
    room = replace(a_room(town=2, n1=1, n2=1), only=only)
    assert names(place(one + two, room)) == placed
    assert room.open_rigs == ([2] if placed.keys() == {"r2-0"} else [1, 2])


def test_a_probe_goes_to_one_that_fits() -> None:
    room = replace(probing(), only={(1, 1): frozenset()})
    assert order(many(1, 2) + many(2, 2, at_s=9), room) == ["r2-0"]
    assert order(many(1, 2), room) == []


def test_full_nodes_open_no_rig() -> None:
    """What fits only on a node that is full is not looked for in each tick."""
    room = replace(a_room(n1=0, n2=3), only={(1, 2): frozenset(), (2, 2): frozenset({"shell"})})
    assert (room.open_rigs, room.presets_of(2)) == ([2], frozenset({"shell"}))
