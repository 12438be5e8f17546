"""What waits for what, drawn beside the lines of a list: the beads that are waited for come first.

A bead stands in a lane, which goes down to the beads that wait for it: they branch off from it (`├▸○`), and the last
one ends it. Beads with the same dependants share a lane (`├◂○`), so that fifty of them take no more room than two.
"""

import os
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

After = Mapping[str, Collection[str]]  # each bead, and those that it waits for
_ASCII = str.maketrans("╶│─├┤┴┼╰╯▸◂●○◐✗◌", "-|-++++``><*o@x.")
LEFT, RIGHT, UP, DOWN = 1, 2, 4, 8
_BOX = {
    UP | DOWN: "│",
    UP: "│",
    DOWN: "│",
    LEFT | RIGHT: "─",
    UP | DOWN | RIGHT: "├",
    UP | DOWN | LEFT: "┤",
    UP | RIGHT: "╰",
    UP | LEFT: "╯",
    UP | LEFT | RIGHT: "┴",
    UP | DOWN | LEFT | RIGHT: "┼",
}
Line = tuple[str, str | None]  # what is drawn, and the bead that the line is about


def waves(after: After) -> list[list[str]]:
    """Beads that can be worked on at the same time, wave by wave, each as early as what it waits for allows."""
    numbers: dict[str, int] = {}
    for name in in_order(after):
        numbers[name] = max((numbers[each] + 1 for each in _known(after, name)), default=0)
    found: list[list[str]] = [[] for _ in range(max(numbers.values(), default=-1) + 1)]
    for name in after:
        found[numbers[name]].append(name)
    return found


def longest_chain(after: After) -> list[str]:
    """The most beads of which each waits for the one before it."""
    chains: dict[str, list[str]] = {}
    for name in in_order(after):
        chains[name] = [*max((chains[each] for each in _known(after, name)), key=len, default=[]), name]
    return max(chains.values(), key=len, default=[])


def in_order(after: After) -> list[str]:
    """Each after what it waits for, and soon after: a chain stays together. Without cycles, which no convoy has."""
    dependants = _dependants(after)
    left = {name: len(_known(after, name)) for name in after}
    ready = [name for name in reversed(list(after)) if not left[name]]
    found = []
    while ready:
        name = ready.pop()
        found.append(name)
        for each in dependants[name]:
            left[each] -= 1
        ready += [each for each in reversed(dependants[name]) if not left[each]]
    return found


def draw(after: After, marks: Mapping[str, str], *, plain: bool | None = None) -> list[Line]:
    """The lines of the graph, all of one width. `plain` characters by default where others may not be shown."""
    needed = _without_detours(after)
    dependants = _dependants(needed)
    lanes = _Lanes()
    alone = [name for name in after if not needed[name] and not dependants[name]]
    for name in in_order({name: needed[name] for name in after if name not in alone}):
        lanes.place(name, marks[name], frozenset(dependants[name]))
    for name in alone:
        lanes.place_alone(name, marks[name])
    width = max((len(line) for line, _ in lanes.lines), default=0)
    plain = _must_be_plain() if plain is None else plain
    return [((line.translate(_ASCII) if plain else line).ljust(width), name) for line, name in lanes.lines]


def both(mark: str) -> tuple[str, str]:
    """A mark as it is, and as it is drawn in plain characters."""
    return mark, mark.translate(_ASCII)


def _must_be_plain() -> bool:
    return os.environ.get("TERM") == "dumb" or not (sys.stdout.encoding or "").lower().startswith("utf")


@dataclass
class _Lanes:
    """The lanes as they are below the last line: each has the beads that it leads to, or is free."""

    lanes: list[frozenset[str]] = field(default_factory=list)
    lines: list[Line] = field(default_factory=list)
    last: int = -1  # the lane in which the bead of the last line stands: what is below it seems to wait for it,
    beside: frozenset[int] = frozenset()  # unless both branch off from one of these lanes, or lead into it

    def place_alone(self, name: str, mark: str) -> None:
        """A bead that has nothing to do with others, once all lanes have ended."""
        self.lines.append((f"╶{mark}", name))

    def place(self, name: str, mark: str, dependants: frozenset[str]) -> None:
        before = list(self.lanes)
        sources = [number for number, lane in enumerate(before) if name in lane]
        self.lanes = [lane - {name} for lane in before]
        own = next((number for number in sources if not self.lanes[number]), None)
        shared = next((number for number, lane in enumerate(self.lanes) if dependants and lane == dependants), None)
        if own is None:
            told_apart = self.beside & {*sources, *([] if sources or shared is None else [shared])}
            own = self._free(but=-1 if told_apart else self.last)
        comes = [number for number in sources if number != own]
        if shared is None:
            self.lanes[own] = dependants
        joined = shared if not comes else None  # two kinds of arrows in one line would be one too many
        self._add(before, own, mark, name, comes, joined)
        if shared is not None and joined is None:
            self._join(own, shared)
        while self.lanes and not self.lanes[-1]:
            self.lanes.pop()

    def _free(self, *, but: int) -> int:
        self.lanes += [frozenset(), frozenset()]
        return next(number for number, lane in enumerate(self.lanes) if not lane and number != but)

    def _add(
        self, before: Sequence[Collection[str]], own: int, mark: str, name: str, comes: list[int], joined: int | None
    ) -> None:
        flags = self._upright(before)
        cells = self._connected(flags, own, [*comes, *([] if joined is None else [joined])])
        cells[2 * own] = mark
        for number in comes:
            cells[2 * own + (1 if number > own else -1)] = "◂" if number > own else "▸"
        if joined is not None:
            cells[2 * joined + (-1 if joined > own else 1)] = "▸" if joined > own else "◂"
        self.lines.append(("".join(cells).rstrip(), name))
        self.last = own
        self.beside = frozenset(comes if joined is None else [joined])

    def _join(self, own: int, shared: int) -> None:
        """A line of its own, in which the lane of a bead ends in another one."""
        self.last = -1
        flags = self._upright(self.lanes)
        flags[own] = UP | (LEFT if shared < own else RIGHT)
        self.lines.append(("".join(self._connected(flags, own, [shared])).rstrip(), None))

    def _upright(self, before: Sequence[Collection[str]]) -> list[int]:
        above = [*(UP if lane else 0 for lane in before), *[0] * (len(self.lanes) - len(before))]
        return [up | (DOWN if lane else 0) for up, lane in zip(above, self.lanes, strict=False)]

    def _connected(self, flags: list[int], own: int, others: Iterable[int]) -> list[str]:
        """The characters of a line in which the lane `own` is joined to others. Lanes between them pass in front."""
        ends = set(others)
        first, last = min([own, *ends]), max([own, *ends])
        cells = []
        for number, flag in enumerate(flags):
            inside = first <= number <= last and bool(ends)
            if number in ends:
                flag |= (LEFT if number > first else 0) | (RIGHT if number < last else 0)
            elif inside and number != own and not flag:
                flag = LEFT | RIGHT
            cells += [_BOX.get(flag, " "), "─" if first <= number < last and ends else " "]
        return cells


def _known(after: After, name: str) -> list[str]:
    """What it waits for, of those that are drawn."""
    return [each for each in dict.fromkeys(after[name]) if each in after]


def _dependants(after: After) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {name: [] for name in after}
    for name in after:
        for each in _known(after, name):
            found[each].append(name)
    return found


def _without_detours(after: After) -> dict[str, list[str]]:
    """What each waits for directly: what another one of these waits for in turn is left out."""
    order = in_order(after)
    bits = {name: 1 << number for number, name in enumerate(order)}
    above: dict[str, int] = {}  # all that must be over before it, as a set of bits
    for name in order:
        above[name] = 0
        for each in _known(after, name):
            above[name] |= above[each] | bits[each]
    needed = {}
    for name in after:
        known = _known(after, name)
        detours = 0
        for each in known:
            detours |= above[each]
        needed[name] = [each for each in known if not detours & bits[each]]
    return needed
