"""Which ready bead gets which free slot. Pure, like the rules."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from heapq import heapify, heappop, heapreplace
from itertools import groupby

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


@dataclass(frozen=True, kw_only=True)
class NodeRoom:
    node_id: int
    name: str
    free: int


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

    @property
    def open_rigs(self) -> list[int]:
        """Rigs of which at least one bead may be started, if the town and a node have a place."""
        return [rig_id for rig_id, free in self.rigs.items() if free > 0 and self.affords(rig_id)]

    @property
    def slots(self) -> int:
        """Not more than so many beads may be started."""
        free = max(0, min(self.town, sum(max(0, node.free) for node in self.nodes)))
        return min(free, sum(self.rigs[rig_id] for rig_id in self.open_rigs))

    def affords(self, rig_id: int, spent_usd: float = 0.0) -> bool:
        """Whether the cap of one more attempt of this rig fits into what is left of the budget."""
        left = self.budget_usd
        return left is None or self.caps_usd.get(rig_id, 0.0) <= left - spent_usd + _EPSILON_USD


def place(candidates: Iterable[Candidate], room: Room) -> dict[str, Slot]:
    """A slot for as many candidates as fit, in the order in which they get theirs.

    Forced ones first, then by priority; among equals a bead of the rig with the fewest attempts, then the oldest. On
    the node that has its worktree, else on the emptiest one; not where it just failed, if there is another.
    """
    town, rigs, used, spent = room.town, dict(room.rigs), dict(room.used), 0.0
    nodes = {node.node_id: node.free for node in room.nodes if node.free > 0}
    names = {node.node_id: node.name for node in room.nodes}
    placed: dict[str, Slot] = {}
    for equals in _classes(each for each in candidates if each.preset not in room.resting):
        queues = [(used.get(rig_id, 0), queue[-1].created_at, rig_id, queue) for rig_id, queue in equals.items()]
        heapify(queues)
        while queues and town > 0 and nodes:
            _, _, rig_id, queue = queues[0]
            if rigs.get(rig_id, 0) <= 0 or not room.affords(rig_id, spent):
                heappop(queues)
                continue
            each = queue.pop()
            node_id = _choose(each, nodes)
            placed[each.bead_id] = Slot(node_id=node_id, node=names[node_id])
            town, spent = town - 1, spent + room.caps_usd.get(rig_id, 0.0)
            rigs[rig_id] -= 1
            used[rig_id] = used.get(rig_id, 0) + 1
            nodes[node_id] -= 1
            if nodes[node_id] == 0:
                del nodes[node_id]
            if queue:
                heapreplace(queues, (used[rig_id], queue[-1].created_at, rig_id, queue))
            else:
                heappop(queues)
    return placed


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


def _choose(candidate: Candidate, nodes: dict[int, int]) -> int:
    """A retry avoids the node that just failed it, where there is another."""
    others = {node: free for node, free in nodes.items() if node != candidate.failed_node_id} or nodes
    if candidate.last_node_id in others:
        assert candidate.last_node_id is not None
        return candidate.last_node_id
    return max(others, key=lambda node: (others[node], -node))
