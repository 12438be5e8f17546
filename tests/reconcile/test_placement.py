"""Which ready bead gets which free slot."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gastown.reconcile.placement import Candidate, NodeRoom, Room, place


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


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    rigs=st.dictionaries(st.integers(1, 3), st.integers(-2, 4)),
    frees=st.lists(st.integers(-2, 4), max_size=4),
    town=st.integers(-2, 6),
    wishes=st.lists(st.tuples(st.integers(1, 4), st.none() | st.integers(0, 4), st.none() | st.integers(0, 4))),
)
def test_never_more_than_is_free_and_never_less(
    rigs: dict[int, int], frees: list[int], town: int, wishes: list[tuple[int, int | None, int | None]]
) -> None:
    nodes = tuple(NodeRoom(node_id=number, name=str(number), free=free) for number, free in enumerate(frees))
    candidates = [
        Candidate(bead_id=f"gt-{number}", rig_id=rig, last_node_id=last, failed_node_id=failed)
        for number, (rig, last, failed) in enumerate(wishes)
    ]
    placed = place(candidates, Room(town=town, rigs=rigs, nodes=nodes))
    rig_of = {each.bead_id: each.rig_id for each in candidates}
    assert len(placed) <= max(0, town)
    for number, free in enumerate(frees):
        assert sum(slot.node_id == number for slot in placed.values()) <= max(0, free)
    for rig in {rig for rig, _, _ in wishes}:
        assert sum(rig_of[bead] == rig for bead in placed) <= max(0, rigs.get(rig, 0))
    wanted = sum(min(sum(each.rig_id == rig for each in candidates), max(0, free)) for rig, free in rigs.items())
    assert len(placed) == min(wanted, max(0, town), sum(max(0, free) for free in frees))
