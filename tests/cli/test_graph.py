"""The graph that `convoy show` draws: read back from what is drawn, it says the same as the beads."""

import random
from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gastown.cli import graph

MARK = "○"
Edges = Mapping[str, Sequence[str]]


def drawn(after: Edges) -> list[str]:
    lines = graph.draw(after, dict.fromkeys(after, MARK), plain=False)
    return [f"{line} {name or ''}".rstrip() for line, name in lines]


@pytest.mark.parametrize(
    ("after", "lines"),
    [
        ({}, []),
        ({"a": [], "b": ["a"], "c": ["b"]}, ["○ a", "○ b", "○ c"]),
        ({"a": [], "b": []}, ["╶○ a", "╶○ b"]),
        ({"a": [], "b": ["a"], "c": ["a"], "d": ["a"]}, ["○   a", "├▸○ b", "├▸○ c", "○   d"]),
        ({"a": [], "b": [], "c": [], "d": ["a", "b", "c"]}, ["○   a", "├◂○ b", "├◂○ c", "○   d"]),
        ({"a": [], "b": ["a"], "c": ["a"], "d": ["b", "c"]}, ["○   a", "├▸○ b", "○▸┤ c", "  ○ d"]),
        ({"a": [], "b": ["a"], "c": ["a", "b"]}, ["○ a", "○ b", "○ c"]),
        ({"a": [], "b": ["a"], "x": [], "y": ["x"]}, ["○   a", "○   b", "  ○ x", "  ○ y"]),
        ({"a": [], "b": ["a"], "x": ["a"], "y": ["a"], "z": ["x"]}, ["○   a", "├▸○ b", "├▸○ x", "│ ○ z", "○   y"]),
    ],
)
def test_small_graphs(after: Edges, lines: list[str]) -> None:
    assert drawn(after) == lines


def test_fifty_beads_with_the_same_dependants_share_a_lane() -> None:
    first, last = [f"a{number}" for number in range(50)], [f"z{number}" for number in range(50)]
    after: dict[str, list[str]] = {name: [] for name in first} | dict.fromkeys(last, first)
    lines = graph.draw(after, dict.fromkeys(after, MARK), plain=False)
    assert len(lines) == 100
    assert len(lines[0][0]) == 3


def test_plain_characters_where_others_may_not_be_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    after = {"a": [], "b": ["a"], "c": ["a"], "d": ["b", "c"], "e": []}
    lines = graph.draw(after, {"a": "●", "b": "✗", "c": "◐", "d": "○", "e": "◌"})
    assert [line for line, _ in lines] == ["*  ", "+>x", "@>+", "  o", "-. "]


def test_waves_and_the_longest_chain() -> None:
    after = {"d": ["b", "c"], "a": [], "b": ["a", "elsewhere"], "c": [], "e": ["d"]}
    assert graph.waves(after) == [["a", "c"], ["b"], ["d"], ["e"]]
    assert graph.longest_chain(after) == ["a", "b", "d", "e"]
    assert graph.waves({}) == []
    assert graph.longest_chain({}) == []


def test_two_hundred_beads_are_drawn() -> None:
    chance = random.Random(7)
    names = [f"n{number}" for number in range(200)]
    after = {name: chance.sample(names[:number], min(number, 2)) for number, name in enumerate(names)}
    assert _closure(_read(graph.draw(after, dict.fromkeys(after, MARK), plain=False))) == _closure(after)


@given(st.lists(st.sets(st.integers(0, 11), max_size=4), min_size=1, max_size=12))
def test_what_is_drawn_says_what_waits_for_what(edges: list[set[int]]) -> None:
    after = {
        f"n{number}": [f"n{other}" for other in sorted(found) if other < number] for number, found in enumerate(edges)
    }
    lines = graph.draw(after, dict.fromkeys(after, MARK), plain=False)
    assert len({len(line) for line, _ in lines}) == 1
    assert [name for _, name in lines if name] == [*dict.fromkeys(name for _, name in lines if name)]
    assert _closure(_read(lines)) == _closure(after)


def _read(lines: Sequence[graph.Line]) -> dict[str, set[str]]:
    """What each bead waits for, as somebody sees it who follows the lines with a finger."""
    waits: dict[str, set[str]] = {}
    lanes: dict[int, set[str]] = {}  # the beads that lead into each lane
    last, beside = -1, set[int]()
    for line, name in lines:
        cells = line[::2]
        lanes = {number: beads for number, beads in lanes.items() if cells[number] not in " ─"}
        if name is None:
            own, other = _joined(cells)
            lanes[other] = lanes[other] | lanes.pop(own)
            last = -1
            continue
        if line.startswith("╶"):
            waits[name] = set()
            continue
        own = cells.index(MARK)
        reached = _reached(line, own)
        above = lanes.pop(own, set())
        waits[name] = set() if own == last and beside & set(reached) else above
        last, beside = own, set(reached)
        lanes[own] = {name}
        for number in reached:
            if _leads_into(line, own, number):
                lanes[number] = lanes[number] | {name}
                continue
            waits[name] |= lanes[number]
            if cells[number] in "╰╯┴":
                del lanes[number]
    return waits


def _joined(cells: str) -> tuple[int, int]:
    own = next(number for number, cell in enumerate(cells) if cell in "╰╯")
    return own, next(number for number, cell in enumerate(cells) if cell in "├┤" and number != own)


def _reached(line: str, own: int) -> list[int]:
    """The lanes that are joined with a bead's own one by a line across."""
    found = []
    for number, cell in enumerate(line[::2]):
        between = line[2 * number + 1 : 2 * own] if number < own else line[2 * own + 1 : 2 * number]
        if number != own and cell in "├┤╰╯┴┼" and " " not in between:
            found.append(number)
    return found


def _leads_into(line: str, own: int, number: int) -> bool:
    """Whether the arrow across points at the lane, not at the bead."""
    across = line[2 * number + 1 : 2 * own] if number < own else line[2 * own + 1 : 2 * number]
    return ("◂" if number < own else "▸") in across


def _closure(after: Mapping[str, Sequence[str] | set[str]]) -> dict[str, set[str]]:
    """All that has to be over before each."""
    found: dict[str, set[str]] = {}
    for name in graph.in_order({name: list(others) for name, others in after.items()}):
        found[name] = set().union(*({each} | found[each] for each in after[name]))
    return found
