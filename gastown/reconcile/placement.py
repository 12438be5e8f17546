"""Which ready bead gets which free slot. Pure, like the rules."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from heapq import heapify, heappop, heapreplace
from itertools import groupby
from typing import Any

from gastown.reconcile.views import Slot

_EPSILON_USD = 1e-9  # ten caps of 0.1 fit into a budget of 1
_UNKNOWN = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A ready bead and its claim to a slot."""

    bead_id: str
    rig_id: int
    forced: bool = False
    priority: int = 2  # 0 is the most urgent
    created_at: datetime = _UNKNOWN
    preset: str = ""
    last_node_id: int | None = None  # its worktree is there
    failed_node_id: int | None = None  # its last start failed there
    tried_at: datetime = _UNKNOWN  # when its last attempt was made


@dataclass(frozen=True, kw_only=True)
class NodeRoom:
    node_id: int
    name: str
    free: int
    probing: bool = False  # starts failed there: its one place is to find out whether it works again
    failed_rigs: tuple[int, ...] = ()  # whose starts those were, the latest last


@dataclass(frozen=True, kw_only=True)
class Room:
    """What may still be started. Counted from rows in the deciding transaction, never from counters (G6)."""

    town: int
    rigs: Mapping[int, int]
    nodes: tuple[NodeRoom, ...]
    used: Mapping[int, int] = field(default_factory=dict)  # live attempts of each rig, for fairness
    resting: frozenset[str] = frozenset()  # presets that start nothing
    budget_usd: float | None = None  # what is left; None: no budget
    caps_usd: Mapping[int, float] = field(default_factory=dict)  # what an attempt of each rig reserves
    probing: bool = False  # attempts of the town failed: its one place is to find out whether it works again
    failed_rigs: tuple[int, ...] = ()  # whose attempts those were, the latest last
    only: Mapping[tuple[int, int], frozenset[str]] = field(default_factory=dict)  # of a rig, on a node: these presets

    @property
    def open_rigs(self) -> list[int]:
        """Rigs of which at least one bead may be started, if the town has a place and a node that they fit on."""
        return [
            rig_id
            for rig_id, free in self.rigs.items()
            if free > 0 and self.affords(rig_id) and self.presets_of(rig_id) != frozenset()
        ]

    def presets_of(self, rig_id: int) -> frozenset[str] | None:
        """With which of them attempts of this rig fit on a node that has a place. None: with any."""
        found = [self.only.get((rig_id, node.node_id)) for node in self.nodes if node.free > 0]
        if not self.only or None in found:
            return None
        return frozenset().union(*(presets for presets in found if presets is not None))

    def admits(self, node_id: int, each: Candidate) -> bool:
        presets = self.only.get((each.rig_id, node_id))
        return presets is None or each.preset in presets

    @property
    def slots(self) -> int:
        """Not more than so many beads may be started."""
        free = max(0, min(self.town, sum(max(0, node.free) for node in self.nodes)))
        return min(free, sum(self.rigs[rig_id] for rig_id in self.open_rigs))

    @property
    def probes(self) -> int:
        """How many of the slots are to find out whether something works again."""
        return self.slots if self.probing else sum(node.free > 0 for node in self.nodes if node.probing)

    def affords(self, rig_id: int, spent_usd: float = 0.0) -> bool:
        """Whether the cap of one more attempt of this rig fits into what is left of the budget."""
        left = self.budget_usd
        return left is None or self.caps_usd.get(rig_id, 0.0) <= left - spent_usd + _EPSILON_USD


class _Placing:
    """What is left of a room while its slots are given away."""

    def __init__(self, room: Room) -> None:
        self.room = room
        self.town, self.rigs, self.used, self.spent = room.town, dict(room.rigs), dict(room.used), 0.0
        self.free = {node.node_id: node.free for node in room.nodes if node.free > 0}
        self.names = {node.node_id: node.name for node in room.nodes}
        self.placed: dict[str, Slot] = {}

    def fits(self, rig_id: int) -> bool:
        return self.rigs.get(rig_id, 0) > 0 and self.room.affords(rig_id, self.spent)

    def nodes_for(self, each: Candidate, node_ids: set[int]) -> dict[int, int]:
        """Those of these nodes that have a place and on which it fits."""
        return {
            node_id: free
            for node_id, free in self.free.items()
            if node_id in node_ids and self.room.admits(node_id, each)
        }

    def take(self, each: Candidate, nodes: Mapping[int, int]) -> None:
        """One of these nodes for it."""
        node_id = _choose(each, nodes)
        self.placed[each.bead_id] = Slot(node_id=node_id, node=self.names[node_id])
        self.town, self.spent = self.town - 1, self.spent + self.room.caps_usd.get(each.rig_id, 0.0)
        self.rigs[each.rig_id] -= 1
        self.used[each.rig_id] = self.used.get(each.rig_id, 0) + 1
        self.free[node_id] -= 1
        if self.free[node_id] == 0:
            del self.free[node_id]


def place(candidates: Iterable[Candidate], room: Room) -> dict[str, Slot]:
    """A slot for as many candidates as fit, in the order in which they get theirs.

    Forced ones first, then by priority; among equals a bead of the rig with the fewest attempts, then the oldest. On
    the node that has its worktree, else on the emptiest one; not where it just failed, if there is another. A slot that
    is a probe goes to whoever is likeliest to start, see `_probe_order`.
    """
    left = _Placing(room)
    waiting = [each for each in candidates if each.preset not in room.resting]
    if room.probing:
        _probe(left, waiting, room.failed_rigs, room.town, set(left.free))
        return left.placed
    probing = {node.node_id for node in room.nodes if node.probing}
    _share(left, waiting, left.free.keys() - probing)
    for node in room.nodes:
        if node.probing:
            rest = [each for each in waiting if each.bead_id not in left.placed]
            _probe(left, rest, node.failed_rigs, node.free, {node.node_id})
    return left.placed


def _share(left: _Placing, candidates: Iterable[Candidate], node_ids: set[int]) -> None:
    """By rank, and in turn between rigs."""
    for equals in _classes(candidates):
        queues = [(left.used.get(rig_id, 0), queue[-1].created_at, rig_id, queue) for rig_id, queue in equals.items()]
        heapify(queues)
        while queues and left.town > 0:
            if not left.free.keys() & node_ids:
                return
            _, _, rig_id, queue = queues[0]
            if not left.fits(rig_id):
                heappop(queues)
                continue
            each = queue.pop()
            if nodes := left.nodes_for(each, node_ids):
                left.take(each, nodes)
            if queue:
                heapreplace(queues, (left.used.get(rig_id, 0), queue[-1].created_at, rig_id, queue))
            else:
                heappop(queues)


def _probe(
    left: _Placing, candidates: list[Candidate], failed_rigs: tuple[int, ...], count: int, node_ids: set[int]
) -> None:
    """So many of them on these nodes, those first that are likeliest to start."""
    for each in sorted(candidates, key=lambda each: _probe_order(each, failed_rigs)):
        if count <= 0 or left.town <= 0 or not left.free.keys() & node_ids:
            return
        if left.fits(each.rig_id) and (nodes := left.nodes_for(each, node_ids)):
            left.take(each, nodes)
            count -= 1


def _probe_order(each: Candidate, failed_rigs: tuple[int, ...]) -> Any:
    """Forced ones, then those of the rig that has not failed, or not for the longest time; of a rig, those whose last
    start did not fail, by rank; then the others, in turn.

    By rank alone a rig that cannot start, with the oldest bead, would take each probe, and nobody else would ever show
    that the rest works.
    """
    latest = max((place for place, rig_id in enumerate(failed_rigs) if rig_id == each.rig_id), default=-1)
    turn = _UNKNOWN if each.failed_node_id is None else each.tried_at
    return not each.forced, latest, each.failed_node_id is not None, turn, each.priority, each.created_at


def _classes(candidates: Iterable[Candidate]) -> Iterable[dict[int, list[Candidate]]]:
    """Those of equal rank, by rig, the oldest last. Of equally old ones the earlier given counts as older."""
    ordered = sorted(candidates, key=lambda each: (not each.forced, each.priority, each.created_at))
    for _, equals in groupby(ordered, key=lambda each: (each.forced, each.priority)):
        queues: dict[int, list[Candidate]] = {}
        for each in equals:
            queues.setdefault(each.rig_id, []).append(each)
        for queue in queues.values():
            queue.reverse()
        yield queues


def _choose(candidate: Candidate, nodes: Mapping[int, int]) -> int:
    """A retry avoids the node that just failed it, where there is another."""
    others = {node: free for node, free in nodes.items() if node != candidate.failed_node_id} or nodes
    if candidate.last_node_id in others:
        assert candidate.last_node_id is not None
        return candidate.last_node_id
    return max(others, key=lambda node: (others[node], -node))
