"""Which ready bead gets which free slot. Pure, like the rules."""

from collections.abc import Iterable
from dataclasses import dataclass

from gastown.reconcile.views import Slot


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A ready bead, in the order of its claim to a slot: forced, then priority, then age."""

    bead_id: str
    rig_id: int
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
    rigs: dict[int, int]
    nodes: tuple[NodeRoom, ...]

    @property
    def open_rigs(self) -> list[int]:
        return [rig_id for rig_id, free in self.rigs.items() if free > 0]

    @property
    def slots(self) -> int:
        return max(0, min(self.town, sum(max(0, node.free) for node in self.nodes)))


def place(candidates: Iterable[Candidate], room: Room) -> dict[str, Slot]:
    """A slot for as many candidates as fit: on the node that has their worktree, else on the emptiest one."""
    town, rigs = room.town, dict(room.rigs)
    nodes = {node.node_id: node.free for node in room.nodes if node.free > 0}
    names = {node.node_id: node.name for node in room.nodes}
    placed: dict[str, Slot] = {}
    for each in candidates:
        if town <= 0 or not nodes:
            break
        if rigs.get(each.rig_id, 0) <= 0:
            continue
        node_id = _choose(each, nodes)
        placed[each.bead_id] = Slot(node_id=node_id, node=names[node_id])
        town -= 1
        rigs[each.rig_id] -= 1
        nodes[node_id] -= 1
        if nodes[node_id] == 0:
            del nodes[node_id]
    return placed


def _choose(candidate: Candidate, nodes: dict[int, int]) -> int:
    """A retry avoids the node that just failed it, where there is another."""
    others = {node: free for node, free in nodes.items() if node != candidate.failed_node_id} or nodes
    if candidate.last_node_id in others:
        assert candidate.last_node_id is not None
        return candidate.last_node_id
    return max(others, key=lambda node: (others[node], -node))
