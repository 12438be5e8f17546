"""Machines: their containers, and the runtime as the workers on them see it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from gastown.errors import RuntimeUnavailable, StartRefused
from gastown.runtimes import CommandResult, CommandSpec, Handle, RunSpec, Status
from gastown.sim.actors import Option, Stage

if TYPE_CHECKING:
    from gastown.sim.agents import SimAgent
    from gastown.sim.world import World

STARTING = (
    Option("accepted", 20),
    Option("refused", 0.7, fault=True),
    Option("raises", 0.7, fault=True),
    Option("proves that nothing started", 1, fault=True),
    Option("raises, and started", 1.5, fault=True),
    Option("no answer, and started", 1.5, fault=True),
    Option("no answer, nothing started", 1, fault=True),
    Option("no answer, starts late", 6, fault=True),
)
INSPECTING = (Option("answers", 20), Option("unavailable", 1, fault=True))
STOPPING = (Option("stops", 20), Option("raises", 0.5, fault=True))


@dataclass
class Node:
    """One machine. `agents` are those of which a process is there; `late` starts may still come up."""

    name: str
    capacity: int
    up: bool = True
    connected: bool = True  # to the database, the broker and the API
    joined: bool = True
    agents: dict[str, "SimAgent"] = field(default_factory=dict)
    late: list[RunSpec] = field(default_factory=list)


class SimRuntime:
    """The runtime of the node whose worker is calling. Implements gastown.runtimes.Runtime."""

    def __init__(self, stage: Stage, boot: Callable[[Node, RunSpec], None], world: "World") -> None:
        self.stage, self.boot, self.world = stage, boot, world

    @property
    def node(self) -> Node:
        assert self.stage.current is not None
        node: Node = self.stage.current.home.node
        return node

    def start(self, spec: RunSpec) -> Handle | None:
        self.world.oracles.note_start(spec.name)
        outcome, node = self.stage.pause("runtime.start", STARTING), self.node
        handle = Handle(name=spec.name, pid=1)
        if spec.name in node.agents:
            return handle
        if outcome == "refused" or self.world.starts_fail(node, spec):
            return None
        if outcome == "raises":
            raise OSError("no space left on device")
        if outcome == "proves that nothing started":
            raise StartRefused("no such image")
        if outcome == "no answer, nothing started":
            raise RuntimeUnavailable("the runtime does not answer")
        if outcome == "no answer, starts late":
            node.late.append(spec)
            raise RuntimeUnavailable("the runtime does not answer")
        self.boot(node, spec)
        if outcome == "raises, and started":
            raise OSError("broken pipe")
        if outcome == "no answer, and started":
            raise RuntimeUnavailable("the runtime does not answer")
        self.stage.pause("started")
        return handle

    def inspect(self, name: str) -> Status:
        if self.stage.pause("inspects", INSPECTING) == "unavailable":
            raise RuntimeUnavailable("the runtime does not answer")
        return Status(present=name in self.node.agents, exit_code=None)

    def stop(self, name: str, *, grace_s: float) -> None:
        outcome = self.stage.pause("runtime.stop", STOPPING)
        if outcome == "raises":
            raise RuntimeUnavailable("the runtime does not answer")
        node = self.node
        agent = node.agents.get(name)
        if agent is None:
            return
        self.world.oracles.note_stop(name)
        agent.told_to_stop = True
        self.stage.pause("waits for it to wind down")
        agent.leave()  # what it wrote is on its ref by now: the supervisor saves before anything else

    def list_names(self) -> list[str]:
        self.stage.pause("lists")
        return sorted(self.node.agents)

    def run(self, spec: CommandSpec, *, should_stop: Any = None) -> CommandResult:
        raise AssertionError("gates run in the targets of the simulation")
