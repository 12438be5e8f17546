"""What an attempt and the agent API say to each other. Plain dataclasses: the supervisor has no other dependencies.

Attempts outlive an upgrade, so the API serves PROTOCOL and PROTOCOL - 1. Unknown keys are ignored by both sides.
"""

from dataclasses import asdict, dataclass, field, fields
from typing import Any, Self

PROTOCOL = 2
FENCED_EXIT = 75  # the supervisor's exit code when it was superseded (EX_TEMPFAIL)
CHUNK_BYTES = 64 * 1024  # the largest log chunk
LOG_BYTES = 64 * 1024 * 1024  # kept of one attempt: the first half, and the last half as it ends
HEARTBEAT_S = 10.0
COST_USD = 1e6  # no attempt costs more: a larger number is an error of whoever said it
CHECKPOINT_S = 300.0
SNAPSHOT = "Gastown-Snapshot"  # trailer of a commit that holds uncommitted work


class Message:
    def to_json(self) -> dict[str, Any]:
        return asdict(self)  # type: ignore[call-overload, no-any-return]

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        known = {field.name for field in fields(cls)}  # type: ignore[arg-type]
        return cls(**{key: value for key, value in data.items() if key in known})


@dataclass(frozen=True, kw_only=True)
class Launch(Message):
    """What the runtime writes to the supervisor's standard input: who it is, and where to ask for the rest."""

    dispatch_id: str
    bead_id: str
    epoch: int
    api_url: str
    home: str  # mirrors, worktrees, logs: GASTOWN_HOME of the node, or a home of the bead's own in a container
    token: str = field(repr=False)
    shared_home: str | None = None  # the node's, when `home` is a bead's own: it is read, and nothing is written there
    network: str = ""  # "none": neither set-up nor agent gets a socket but of this machine's files
    disk_mb: int = 0  # that `home` may hold; 0: no limit
    git_token: str = field(default="", repr=False)  # TOKEN or USER:TOKEN, for the supervisor's own git


@dataclass(frozen=True, kw_only=True)
class Assignment(Message):
    """`GET /agent/v1/assignment`: the work."""

    dispatch_id: str
    bead_id: str
    epoch: int
    title: str
    body: str
    agent: str  # the agent's name: author of its commits
    rig_id: int  # names the mirror
    repository: str  # URL or path
    branch: str  # the target
    setup: str  # shell command run in the worktree before the agent; may be empty
    environment: dict[str, str] = field(repr=False)  # captured at `rig add`, already scrubbed
    argv: list[str]  # the preset's command; "{prompt_file}" and "{prompt}" are filled in
    prompt_on_stdin: bool
    preset: str
    previous_epochs: list[int]  # earlier attempts on this bead, oldest first
    base: str | None  # a SHA to start from (the head of its merge request), unless there is WIP above `base_epoch`
    notes: str  # what went wrong before: the last failure, or the output of a red gate
    base_epoch: int = 0  # the last epoch when `base` was given: WIP of a later one is built on it
    base_ref: str | None = None  # where the remote has `base`; None: under this bead's own refs
    feature: str | None = None  # the feature branch that it is for instead of `branch`, if something was merged there
    feature_sha: str | None = None  # its head after that
    heartbeat_s: float = HEARTBEAT_S
    checkpoint_s: float = CHECKPOINT_S
    protocol: int = PROTOCOL


@dataclass(frozen=True, kw_only=True)
class Heartbeat(Message):
    """`POST /agent/v1/heartbeat`: alive; and whether it got anywhere since the last one."""

    phase: str  # workspace | setup | agent | saving
    progressed: bool  # output, or a change in the worktree, since the last heartbeat
    tool_running: bool = False  # a tool of the agent's runs: its silence means nothing
    cost_usd: float = 0.0  # what the agent says it has cost so far


@dataclass(frozen=True, kw_only=True)
class HeartbeatAnswer(Message):
    """With `stop`, a StopCode: end the agent, save its work, and report `stopped`. Protocol 1 never read it."""

    status: str = "ok"
    stop: str | None = None
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class LogChunk(Message):
    """`POST /agent/v1/logs`: sent again until acknowledged; the number makes that safe."""

    seq: int
    data: str  # base64, at most CHUNK_BYTES decoded


@dataclass(frozen=True, kw_only=True)
class Checkpoint(Message):
    """`POST /agent/v1/checkpoint`: uncommitted work is safe under refs/gastown/wip/<bead>/<epoch>."""

    wip_sha: str


@dataclass(frozen=True, kw_only=True)
class Done(Message):
    """`POST /agent/v1/done`: how the attempt ended. Sent again until answered; a repeated one gets the same answer."""

    outcome: str  # succeeded | failed | stopped
    base_sha: str | None = None
    head_sha: str | None = None  # succeeded: the candidate; equal to base_sha: nothing was changed
    wip_sha: str | None = None
    code: str | None = None  # failed: a FailureCode; stopped: a StopCode
    message: str = ""  # failed: what to show, with the last output
    exit_code: int | None = None  # of the agent
    cost_usd: float = 0.0
    retry_at: str | None = None  # rate_limited: when the provider lets it go on; ISO 8601 with a zone
    retry_after_s: float | None = None  # ... or in how many seconds from this report


@dataclass(frozen=True, kw_only=True)
class NewWork(Message):
    """`POST /agent/v1/beads`: work that the agent found and leaves to others. The same `key` again is the same bead."""

    title: str
    body: str = ""
    priority: str = "medium"
    after: list[str] = field(default_factory=list)  # beads it waits for; the attempt's own may be among them
    agent: str | None = None  # a preset; None: the one that this attempt runs
    key: str = ""  # tells this bead's filings apart; empty: made of the content


@dataclass(frozen=True, kw_only=True)
class Filed(Message):
    id: str
    created: bool  # False: it was filed before under this key


@dataclass(frozen=True, kw_only=True)
class Review(Message):
    """`POST /agent/v1/reviews`: what a review's agent says of the head that its clone began with."""

    verdict: str  # approve | changes
    comment: str = ""  # changes: what has to change


@dataclass(frozen=True, kw_only=True)
class Reviewed(Message):
    counted: bool  # False: nobody waited for it any more
    message: str


def wip_ref(bead_id: str, epoch: int) -> str:
    return f"refs/gastown/wip/{bead_id}/{epoch}"


def head_ref(bead_id: str, epoch: int) -> str:
    return f"refs/gastown/head/{bead_id}/{epoch}"


def archive_ref(bead_id: str, epoch: int) -> str:
    return f"refs/gastown/archive/{bead_id}/{epoch}"
