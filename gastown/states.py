"""Every state machine as data: the states, the legal moves, and one sentence about each move.

The tables are the truth: `store` refuses a move that is not drawn here, and `docs/architecture.md` shows the diagrams
that `gastown.states` draws of them.
"""

from enum import StrEnum
from typing import NamedTuple


class BeadStatus(StrEnum):
    OPEN = "open"
    IN_PROGRESS = "in_progress"
    IN_REVIEW = "in_review"
    CLOSED = "closed"
    FAILED = "failed"


class Resolution(StrEnum):
    """How a closed bead ended. `merged`, `no_changes` and `done` release the beads that wait for it."""

    MERGED = "merged"
    NO_CHANGES = "no_changes"
    DONE = "done"
    CANCELED = "canceled"


class AgentStatus(StrEnum):
    IDLE = "idle"
    WORKING = "working"
    RETIRED = "retired"


class DispatchStatus(StrEnum):
    QUEUED = "queued"
    STARTING = "starting"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"  # what the agent reported
    ROLLED_BACK = "rolled_back"  # a start given up: a guess, so it may be adopted
    LOST = "lost"  # a lease that ran out, or a process that vanished: a guess too
    STOPPED = "stopped"  # ended by decision: cancel, hold, drain, stall, max runtime, over cap


class Purpose(StrEnum):
    """What a bead is for that Gastown made itself, for the sake of a merge request or a convoy."""

    CONFLICT = "conflict"  # bring a merge request's head and its target together
    REWORK = "rework"  # mend what a gate or a reviewer found in a merge request
    REVIEW = "review"  # read a merge request, and say whether it may be merged
    LANDING = "landing"  # bring what a convoy's members made on one rig into its target


class ConvoyStatus(StrEnum):
    STAGED = "staged"
    OPEN = "open"
    LANDING = "landing"
    CLOSED = "closed"
    FAILED = "failed"


class ConvoyMode(StrEnum):
    """Where the members of a convoy are merged."""

    REVIEW_THEN_LAND = "review-then-land"  # into a feature branch, which lands as a whole
    REVIEW_AND_MERGE = "review-and-merge"  # each by itself into the rig's target


class Strategy(StrEnum):
    """How a rig's merge requests reach the target."""

    DIRECT = "direct"  # Gastown pushes the gated merge
    BRANCH = "branch"  # Gastown pushes the gated work as branch gt/<bead>, and a person merges that


class MergeStatus(StrEnum):
    OPEN = "open"
    IN_PROGRESS = "in_progress"
    PUSHING = "pushing"
    CLOSED = "closed"
    FAILED = "failed"


class Move(NamedTuple):
    source: StrEnum
    target: StrEnum
    meaning: str


BEAD_MOVES = (
    Move(BeadStatus.OPEN, BeadStatus.IN_PROGRESS, "the reconciler makes the first attempt"),
    Move(BeadStatus.OPEN, BeadStatus.IN_REVIEW, "a landing: the members of its convoy are over, their work is merged"),
    Move(BeadStatus.OPEN, BeadStatus.CLOSED, "somebody ends it by hand, or it is a landing with nothing to land"),
    Move(BeadStatus.OPEN, BeadStatus.FAILED, "it can never be started"),
    Move(BeadStatus.IN_PROGRESS, BeadStatus.IN_REVIEW, "an attempt is done and has commits"),
    Move(
        BeadStatus.IN_PROGRESS,
        BeadStatus.CLOSED,
        "an attempt is done without commits, its work goes to another merge request, or somebody ends it by hand",
    ),
    Move(BeadStatus.IN_PROGRESS, BeadStatus.FAILED, "its attempts are used up, or its configuration cannot work"),
    Move(BeadStatus.IN_REVIEW, BeadStatus.CLOSED, "its commits are merged, or somebody ends it by hand"),
    Move(BeadStatus.IN_REVIEW, BeadStatus.OPEN, "somebody asks for another attempt"),
    Move(BeadStatus.IN_REVIEW, BeadStatus.FAILED, "its merge is given up, after so many rounds of rework"),
    Move(BeadStatus.CLOSED, BeadStatus.OPEN, "somebody retries a canceled bead"),
    Move(BeadStatus.FAILED, BeadStatus.OPEN, "somebody retries it"),
    Move(BeadStatus.FAILED, BeadStatus.CLOSED, "somebody ends it by hand: it is canceled, or done by other means"),
)
AGENT_MOVES = (
    Move(AgentStatus.IDLE, AgentStatus.WORKING, "it is dispatched, or its attempt is adopted"),
    Move(AgentStatus.WORKING, AgentStatus.IDLE, "its attempt ended; a failed one leaves the hook"),
    Move(AgentStatus.IDLE, AgentStatus.RETIRED, "nobody needed it for a day"),
)
DISPATCH_MOVES = (
    Move(DispatchStatus.QUEUED, DispatchStatus.STARTING, "a worker claims the start"),
    Move(DispatchStatus.QUEUED, DispatchStatus.ROLLED_BACK, "no worker claimed the start"),
    Move(DispatchStatus.QUEUED, DispatchStatus.STOPPED, "somebody cancels the bead, or stops what its node runs"),
    Move(DispatchStatus.STARTING, DispatchStatus.RUNNING, "the attempt makes its first call"),
    Move(DispatchStatus.STARTING, DispatchStatus.ROLLED_BACK, "the start failed, or its lease ran out"),
    Move(DispatchStatus.STARTING, DispatchStatus.STOPPED, "somebody cancels the bead"),
    Move(DispatchStatus.RUNNING, DispatchStatus.SUCCEEDED, "the attempt reports that it is done"),
    Move(DispatchStatus.RUNNING, DispatchStatus.FAILED, "the attempt reports that it failed"),
    Move(DispatchStatus.RUNNING, DispatchStatus.LOST, "no heartbeat for a whole lease, or its process is gone"),
    Move(
        DispatchStatus.RUNNING,
        DispatchStatus.STOPPED,
        "somebody cancels the bead, the node drains, or it stalled, ran for too long or cost too much",
    ),
    Move(
        DispatchStatus.ROLLED_BACK, DispatchStatus.RUNNING, "adopted: it had started after all, and nothing replaced it"
    ),
    Move(DispatchStatus.LOST, DispatchStatus.RUNNING, "adopted: it came back, and nothing replaced it"),
)
MERGE_MOVES = (
    Move(MergeStatus.OPEN, MergeStatus.IN_PROGRESS, "a merge worker claims it, with a new merge epoch"),
    Move(
        MergeStatus.OPEN,
        MergeStatus.CLOSED,
        "the target has it already, a batch brought it, or the bead is ended by hand or tried again",
    ),
    Move(MergeStatus.OPEN, MergeStatus.FAILED, "its rounds of rework are used up"),
    Move(MergeStatus.IN_PROGRESS, MergeStatus.OPEN, "the target moved, a gate is red, or the merge lease ran out"),
    Move(MergeStatus.IN_PROGRESS, MergeStatus.PUSHING, "the gates passed and the bead is still wanted"),
    Move(MergeStatus.IN_PROGRESS, MergeStatus.CLOSED, "the target has it already, or the bead is ended by hand"),
    Move(MergeStatus.IN_PROGRESS, MergeStatus.FAILED, "it can never be merged"),
    Move(MergeStatus.PUSHING, MergeStatus.CLOSED, "the target has it"),
    Move(
        MergeStatus.PUSHING,
        MergeStatus.OPEN,
        "the target does not have it: refused, moved, or the worker died before the push",
    ),
)
CONVOY_MOVES = (
    Move(ConvoyStatus.STAGED, ConvoyStatus.OPEN, "somebody starts it"),
    Move(ConvoyStatus.STAGED, ConvoyStatus.CLOSED, "somebody closes it"),
    Move(ConvoyStatus.OPEN, ConvoyStatus.LANDING, "its members are over, and what they made is being merged"),
    Move(ConvoyStatus.OPEN, ConvoyStatus.CLOSED, "its members are over and there is nothing to land, or it is closed"),
    Move(ConvoyStatus.OPEN, ConvoyStatus.FAILED, "its landing is given up"),
    Move(ConvoyStatus.LANDING, ConvoyStatus.OPEN, "a member was added or is tried again"),
    Move(ConvoyStatus.LANDING, ConvoyStatus.CLOSED, "each target has what its members made, or somebody closes it"),
    Move(ConvoyStatus.LANDING, ConvoyStatus.FAILED, "its landing is given up"),
    Move(ConvoyStatus.FAILED, ConvoyStatus.OPEN, "somebody retries its landing"),
    Move(ConvoyStatus.FAILED, ConvoyStatus.CLOSED, "somebody closes it"),
)

LIVE = (DispatchStatus.QUEUED, DispatchStatus.STARTING, DispatchStatus.RUNNING)
ADOPTABLE = (DispatchStatus.ROLLED_BACK, DispatchStatus.LOST)
TERMINAL = (BeadStatus.CLOSED, BeadStatus.FAILED)
RELEASING = (Resolution.MERGED, Resolution.NO_CHANGES, Resolution.DONE)
MERGING = (MergeStatus.IN_PROGRESS, MergeStatus.PUSHING)

MACHINES: dict[str, tuple[Move, ...]] = {
    "bead": BEAD_MOVES,
    "agent": AGENT_MOVES,
    "dispatch": DISPATCH_MOVES,
    "merge_request": MERGE_MOVES,
    "convoy": CONVOY_MOVES,
}
# states of two machines may have the same name, and are equal then
_LEGAL = {(type(move.source), move.source, move.target) for moves in MACHINES.values() for move in moves}


def is_legal(source: StrEnum, target: StrEnum) -> bool:
    """Whether the tables draw this move. Staying in a state is no move."""
    return type(source) is type(target) and (type(source), source, target) in _LEGAL


class FailureClass(StrEnum):
    """Whose fault an ended attempt was, which decides what it costs the bead."""

    INFRA = "infra"  # ours or the machine's: never counts against the bead
    AGENT = "agent"  # the agent's: five of them and the bead fails
    AUTH = "auth"  # the provider does not let the agent in: the bead is held until a person has looked
    RATE_LIMIT = "rate_limit"  # the provider asks for a pause: its preset rests, and no attempt is counted
    CONFIG = "config"  # the user's set-up: no attempt can succeed, the bead fails at once
    BUDGET = "budget"  # it cost more than it may: the bead is held until a person has looked


class FailureCode(StrEnum):
    START_REFUSED = "start_refused"
    START_ERROR = "start_error"
    START_TIMEOUT = "start_timeout"
    NO_NODE = "no_node"
    HEARTBEAT_LOST = "heartbeat_lost"
    WORKSPACE_FAILED = "workspace_failed"  # clone, mirror or disk
    VANISHED = "vanished"
    OOM = "oom"
    DISK_FULL = "disk_full"  # its home held more than its container's disk_mb
    NODE_LOST = "node_lost"  # gone, after a time in which nothing of its node was there
    AGENT_FAILED = "agent_failed"
    STOPPED_UNASKED = "stopped_unasked"  # its supervisor was told to stop, and not by us
    STOPPED_OUTSIDE = "stopped_outside"  # as that, by its engine or a person: nothing in its container could have
    SETUP_FAILED = "setup_failed"
    COMMAND_NOT_FOUND = "command_not_found"
    REPOSITORY_EMPTY = "repository_empty"
    BRANCH_MISSING = "branch_missing"
    CONTAINER_UNUSABLE = "container_unusable"  # its image, network or mounts are not there, or not right
    PRESET_UNUSABLE = "preset_unusable"  # gone or wrong since the bead was slung
    AUTH_FAILED = "auth_failed"  # the provider does not know the agent's login, or not any more
    RATE_LIMITED = "rate_limited"

    @property
    def failure_class(self) -> FailureClass:
        return _CLASS_OF.get(self, FailureClass.INFRA)


_CLASS_OF = {
    FailureCode.VANISHED: FailureClass.AGENT,
    FailureCode.OOM: FailureClass.AGENT,
    FailureCode.DISK_FULL: FailureClass.AGENT,
    FailureCode.AGENT_FAILED: FailureClass.AGENT,
    FailureCode.STOPPED_UNASKED: FailureClass.AGENT,
    FailureCode.SETUP_FAILED: FailureClass.AGENT,
    FailureCode.COMMAND_NOT_FOUND: FailureClass.CONFIG,
    FailureCode.REPOSITORY_EMPTY: FailureClass.CONFIG,
    FailureCode.BRANCH_MISSING: FailureClass.CONFIG,
    FailureCode.CONTAINER_UNUSABLE: FailureClass.CONFIG,
    FailureCode.PRESET_UNUSABLE: FailureClass.CONFIG,
    FailureCode.AUTH_FAILED: FailureClass.AUTH,
    FailureCode.RATE_LIMITED: FailureClass.RATE_LIMIT,
}


class StopCode(StrEnum):
    """Why a live attempt was ended by decision. What people decide never counts against the bead."""

    CANCELED = "canceled"
    DRAINED = "drained"
    HELD = "held"
    STALLED = "stalled"
    MAX_RUNTIME = "max_runtime"
    OVER_CAP = "over_cap"

    @property
    def failure_class(self) -> FailureClass | None:
        return _CLASS_OF_STOP.get(self)


def stop_code_of(stored: str) -> StopCode:
    """What an attempt was asked to stop for. What only a newer version knows costs the bead nothing, like a drain."""
    return StopCode(stored) if stored in set(StopCode) else StopCode.DRAINED


_CLASS_OF_STOP = {
    StopCode.STALLED: FailureClass.AGENT,
    StopCode.MAX_RUNTIME: FailureClass.AGENT,
    StopCode.OVER_CAP: FailureClass.BUDGET,
}


class HoldCode(StrEnum):
    """Why a merge request waits instead of being merged."""

    CONFLICT = "conflict"
    GATE_FAILED = "gate_failed"
    PUSH_REFUSED = "push_refused"
    DIRTY_CHECKOUT = "dirty_checkout"
    UNREACHABLE = "unreachable"
    HEAD_MISSING = "head_missing"
    MERGE_ERROR = "merge_error"
    CHANGES_REQUESTED = "changes_requested"  # by a review
    AWAITING_APPROVAL = "awaiting_approval"  # its branch is pushed, and a person has to merge it
    BRANCH_GONE = "branch_gone"  # that branch was deleted, and not merged


REWORKED = (HoldCode.CONFLICT, HoldCode.GATE_FAILED, HoldCode.CHANGES_REQUESTED)  # an agent may mend these


class Verdict(StrEnum):
    """What the reconciler says about a bead each time it looks. `gastown why` explains each."""

    DISPATCH = "dispatch"
    READY = "ready"
    BLOCKED = "blocked"
    BLOCKER_FAILED = "blocker_failed"
    COOLDOWN = "cooldown"
    INFRA_FAILING = "infra_failing"
    AT_CAPACITY = "at_capacity"
    BREAKER_OPEN = "breaker_open"
    RATE_LIMITED = "rate_limited"
    OVER_BUDGET = "over_budget"
    NO_NODE = "no_node"
    DRAINING = "draining"
    PAUSED = "paused"
    MISCONFIGURED = "misconfigured"
    HELD = "held"
    AWAITING_START = "awaiting_start"
    AWAITING_AGENT = "awaiting_agent"
    STOPPING = "stopping"
    AWAITING_MERGE = "awaiting_merge"
    AWAITING_REVIEW = "awaiting_review"
    AWAITING_REWORK = "awaiting_rework"
    AWAITING_APPROVAL = "awaiting_approval"
    AWAITING_MEMBERS = "awaiting_members"
    MEMBER_FAILED = "member_failed"
    STAGED = "staged"
    MERGE_HELD = "merge_held"
    LOST = "lost"
    ROLLED_BACK = "rolled_back"
    EXHAUSTED = "exhausted"
    TERMINAL = "terminal"


PRIORITIES = ("critical", "high", "medium", "low")
