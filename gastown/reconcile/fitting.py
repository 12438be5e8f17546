"""Which nodes may run a rig's attempts: its labels, and whether there is a container for it. Pure."""

import re
from collections.abc import Mapping

from gastown.reconcile.views import NodeView, RigView, TownView

LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/=-]{0,62}")  # such as gpu, or zone=eu
ANY_PRESET = "*"  # among the images of a node: the one of presets that have none of their own there
WITH_CONTAINERS = frozenset({"docker"})  # runtimes that make a container for each attempt


def check_labels(labels: list[str]) -> list[str]:
    """Them, each once. Raises ValueError for what cannot be a label."""
    for label in labels:
        if not LABEL.fullmatch(label):
            raise ValueError(f"{label[:80]!r} cannot be a label: letters, digits, and inside . _ / = - (63 at most)")
    return list(dict.fromkeys(labels))


def misfit(rig: RigView, preset: str, node: NodeView) -> str | None:
    """Why no attempt of this rig with this preset runs on this node. None: it may.

    A rig that says something of its containers runs nowhere without one: what it asked for would not be enforced.
    """
    missing = [label for label in rig.node_labels if label not in node.labels]
    if missing:
        return f"{node.name} has not the label{'s' * (len(missing) > 1)} {', '.join(missing)}"
    if node.runtime not in WITH_CONTAINERS:
        asks = "the rig asks for a container (gastown rig show), and"
        return f"{asks} {node.name} starts plain processes" if rig.contained else None
    if rig.image or preset in node.images or ANY_PRESET in node.images:
        return None
    return f"{node.name} starts containers, and neither it nor the rig names an image for {preset or 'no preset'}"


def restrictions(view: TownView) -> Mapping[tuple[int, int], frozenset[str]]:
    """By rig and node, where not everything may run: the presets that may. Most towns have none of these."""
    found = {}
    for rig in view.rigs.values():
        for node in view.nodes:
            if misfit(rig, ANY_PRESET, node) is not None:
                found[rig.id, node.id] = frozenset(each for each in node.images if misfit(rig, each, node) is None)
    return found


def fitting_nodes(view: TownView, rig: RigView, preset: str) -> list[NodeView]:
    """The nodes that are alive and may run this."""
    return [node for node in view.nodes if node.alive and misfit(rig, preset, node) is None]


def refusals(view: TownView) -> str:
    """The end of a sentence about nodes: workers that would be there, but are not let in."""
    return "".join(f"; a worker is refused: {node.refused}" for node in view.nodes if node.refused)
