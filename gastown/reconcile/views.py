"""Frozen facts that rules may see: rows as they were at one moment, nothing else."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from pydantic import TypeAdapter

from gastown.states import (
    LIVE,
    RELEASING,
    TERMINAL,
    AgentStatus,
    BeadStatus,
    ConvoyStatus,
    DispatchStatus,
    FailureClass,
    MergeStatus,
    Resolution,
    StopCode,
)

SPEND_WINDOW = timedelta(days=1)  # of a budget


@dataclass(frozen=True, kw_only=True)
class BlockerView:
    id: str
    status: BeadStatus
    resolution: Resolution | None = None

    @property
    def over(self) -> bool:
        return self.status in TERMINAL

    @property
    def released(self) -> bool:
        return self.resolution in RELEASING

    @property
    def failed(self) -> bool:
        return self.status in TERMINAL and not self.released


@dataclass(frozen=True, kw_only=True)
class DispatchView:
    """The bead's live attempt."""

    id: str
    epoch: int
    status: DispatchStatus
    node: str
    queued_at: datetime
    starting_at: datetime | None = None
    call_ended_at: datetime | None = None  # nobody is inside runtime.start any more
    heartbeat_at: datetime | None = None
    lease_expires_at: datetime | None = None
    seen: str | None = None  # present | absent, by the last inspection
    seen_at: datetime | None = None  # when that inspection began
    seen_exit_code: int | None = None
    seen_oom: bool = False
    api_was_away: bool = False  # silent for a while since its last heartbeat
    api_back_at: datetime | None = None  # the end of its last silence
    started_at: datetime | None = None  # its first call
    progress_at: datetime | None = None  # its last output, or change in its worktree
    tool_running: bool = False  # a tool of the agent's runs, so its silence means nothing
    stall_tier: int = 0  # 0: nothing noted; 1: nudged; 2: a person was asked
    stop_code: StopCode | None = None  # it is asked to stop, and hears of it with its next heartbeat
    stop_reason: str = ""
    stop_asked_at: datetime | None = None
    cost_usd: float = 0.0  # as it reported
    cap_usd: float | None = None  # reserved when it was created; None: no cap

    @property
    def over_cap(self) -> bool:
        return self.cap_usd is not None and self.cost_usd > self.cap_usd


@dataclass(frozen=True, kw_only=True)
class MergeView:
    """The bead's unfinished merge request."""

    id: int
    status: MergeStatus
    target: str
    lease_expires_at: datetime | None = None
    held_code: str | None = None
    held_reason: str | None = None
    look_at: datetime | None = None
    asked_at: datetime | None = None
    ahead: str | None = None  # the bead whose merge comes first on this target
    batch: str | None = None  # the bead whose worker merges it along
    rounds: int = 0  # of rework that were begun
    rework_agent: str | None = None  # the preset that may mend what holds it
    rework: BlockerView | None = None  # the bead that mends what holds it
    review_agent: str | None = None  # the preset that has to approve its head; None: no review is asked for
    reviewed: bool = False  # its head was approved
    review: BlockerView | None = None  # the bead that reviews its head


@dataclass(frozen=True, kw_only=True)
class LandingView:
    """Of a landing bead: how its convoy stands on its rig."""

    convoy: str
    convoy_status: ConvoyStatus
    members: int = 0  # of this rig
    released: int = 0  # of them: merged, or done without changes
    canceled: int = 0
    failed: int = 0
    stuck: int = 0  # waiting for one that failed or was canceled
    failures: tuple[str, ...] = ()  # the first of those that failed
    branch: str | None = None  # the feature branch; None: its members are merged each by itself
    has_head: bool = False  # something was merged into the feature branch
    partial: bool = False  # somebody asked to land without the members that failed
    attempts: int = 0  # merge requests of this bead that failed since somebody last retried it
    others_over: bool = True  # the landings on other rigs have ended

    @property
    def waiting(self) -> int:
        """Members that may still end well."""
        return self.members - self.released - self.canceled - self.failed - self.stuck


@dataclass(frozen=True, kw_only=True)
class FailureView:
    """How the last attempt that failed ended."""

    failure_class: FailureClass
    code: str
    message: str


@dataclass(frozen=True, kw_only=True)
class Slot:
    """A free place that the tick offers to a ready bead."""

    node_id: int
    node: str


@dataclass(frozen=True, kw_only=True)
class BeadView:
    id: str
    status: BeadStatus
    held_reason: str | None = None
    unasked: bool = False  # a review that nobody waits for: it was answered, or its merge request went on without it
    staged: str | None = None  # the convoy that it is a member of, and that nobody has started
    landing: LandingView | None = None
    forced: bool = False
    not_before: datetime | None = None
    blockers: tuple[BlockerView, ...] = ()
    live: DispatchView | None = None
    agent: AgentStatus | None = None  # of the agent that is hooked to it
    agent_failures: int = 0  # failed attempts of class `agent` that count
    infra_failures: int = 0  # failed attempts of class `infra` in a row, up to the last one
    failure: FailureView | None = None
    merge: MergeView | None = None
    outage: bool = False  # the API is silent, or was within the last lease
    slot: Slot | None = None

    @property
    def terminal(self) -> bool:
        return self.status in TERMINAL

    def __post_init__(self) -> None:
        if self.live is not None and self.live.status not in LIVE:
            raise ValueError(f"the live attempt of {self.id} is {self.live.status}")


@dataclass(frozen=True, kw_only=True)
class RigView:
    id: int
    name: str
    used: int  # its live attempts
    limit: int  # policy rig_max_running of this rig
    preset: str = ""  # of beads that name none
    cap_usd: float = 0.0  # what one attempt reserves of the budget
    paused_at: datetime | None = None
    wrong: str | None = None  # what is wrong with its policy, or with its environment
    no_environment: bool = False  # it is the environment
    node_labels: tuple[str, ...] = ()  # a node has to have all of them
    contained: bool = False  # it says how its containers are made, so it runs in one or not at all
    image: bool = False  # and from which image


@dataclass(frozen=True, kw_only=True)
class NodeView:
    id: int
    name: str
    used: int  # live attempts of all towns
    capacity: int
    heartbeat_at: datetime
    alive: bool
    draining: bool = False  # its attempts are being stopped, or a person drains it
    closed_at: datetime | None = None  # since when a person drains it, until that is undone
    starting: int = 0  # live attempts that have not made their first call
    failures: int = 0  # starts that failed since one last worked; as many as the policy has numbers for
    failed_at: datetime | None = None  # the last of them
    failure: str = ""  # its code and message
    failed_rigs: tuple[int, ...] = ()  # whose starts those were, the latest last
    runtime: str = "process"
    labels: tuple[str, ...] = ()
    images: tuple[str, ...] = ()  # presets that have an image there; "*": all
    refused: str = ""  # why a worker that would be of this node is not let in


class Rest(NamedTuple):
    """A preset whose provider asked for a pause."""

    until: datetime
    reason: str


@dataclass(frozen=True, kw_only=True)
class TownView:
    """A town as its rows were at one moment."""

    used: int  # its live attempts
    starting: int = 0  # those of them that have not made their first call
    paused_at: datetime | None = None
    wrong: str | None = None  # what is wrong with its policy
    api_silent: bool = False
    breaker_opened_at: datetime | None = None
    breaker_reason: str = ""
    infra_failures: int = 0  # of attempts, within the breaker's window; not more than the policy's number
    infra_since: datetime | None = None  # the first of them
    infra_failure: str = ""  # code and message of the last
    infra_rigs: tuple[int, ...] = ()  # whose attempts those were, the latest last
    last_started_at: datetime | None = None  # the last time that an attempt made its first call
    probe_ended_at: datetime | None = None  # the last end of an attempt made since the breaker opened
    spent_usd: float = 0.0  # by attempts that ended within 24 h
    spent_since: datetime | None = None  # the oldest end among them
    reserved_usd: float = 0.0  # by live attempts: their cap, or what they used if that is more
    rigs: Mapping[int, RigView] = field(default_factory=dict)
    nodes: tuple[NodeView, ...] = ()
    rests: Mapping[str, Rest] = field(default_factory=dict)  # by preset

    @property
    def closed(self) -> tuple[NodeView, ...]:
        """Nodes that are there and would take starts, if a person did not drain them."""
        return tuple(node for node in self.nodes if node.alive and node.closed_at is not None)

    @property
    def down(self) -> bool:
        """No part of Gastown shows a sign of life: nothing will happen, whatever the rules say."""
        return self.api_silent and not any(node.alive for node in self.nodes)


_ADAPTER = TypeAdapter(BeadView)


def dump(view: BeadView) -> dict[str, Any]:
    """For the decision log: JSON that `load` turns into the same view."""
    stored: dict[str, Any] = _ADAPTER.dump_python(view, mode="json", exclude_defaults=True)
    return stored


def load(stored: dict[str, Any]) -> BeadView:
    return _ADAPTER.validate_python(stored)
