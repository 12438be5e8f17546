"""Everything that a rule can ask for. An action holds all that is needed to apply it.

Row actions are applied in the deciding transaction; effects are Celery messages, published after its commit.
"""

from dataclasses import dataclass, field, replace

from gastown.states import FailureCode, Purpose, StopCode


@dataclass(frozen=True, kw_only=True)
class CreateDispatch:
    """A new attempt: the hooked agent or an idle one or a new one, the next epoch, queued on the node."""

    node_id: int


@dataclass(frozen=True, kw_only=True)
class RollBack:
    """Give a start up: its agent goes idle and keeps the hook, its bead waits out the backoff."""

    dispatch_id: str
    code: FailureCode
    message: str


@dataclass(frozen=True, kw_only=True)
class Lose:
    """Give a running attempt up. Nothing is sent to it: it may come back and be adopted."""

    dispatch_id: str
    code: FailureCode
    message: str
    exit_code: int | None = None


@dataclass(frozen=True, kw_only=True)
class AskStop:
    """Have a running attempt wind down: the answer to its next heartbeat says so, and it saves its work and reports."""

    dispatch_id: str
    code: StopCode
    reason: str


@dataclass(frozen=True, kw_only=True)
class StopAttempt:
    """running -> stopped: it was asked and is gone, or did not listen. Its agent goes idle and keeps the hook."""

    dispatch_id: str
    code: StopCode
    message: str


@dataclass(frozen=True, kw_only=True)
class NoteStall:
    """The next tier of an attempt that gets nowhere, once for each tier."""

    dispatch_id: str
    tier: int
    message: str


@dataclass(frozen=True, kw_only=True)
class Escalate:
    """A person is asked: once for each town and cause, until that is settled."""

    cause: str
    message: str


@dataclass(frozen=True, kw_only=True)
class HoldBead:
    """No attempt until somebody releases it; the agent that is hooked to it is let go."""

    reason: str


@dataclass(frozen=True, kw_only=True)
class FreeAgent:
    """The agent that is hooked to the bead is at work with no live attempt behind it: it goes idle."""


@dataclass(frozen=True, kw_only=True)
class FailBead:
    """The bead fails, its agent is unhooked, a human is told."""

    code: str
    message: str


@dataclass(frozen=True, kw_only=True)
class CleanUp:
    """A terminal bead: stop what is live on it, free the agent that is hooked to it."""


@dataclass(frozen=True, kw_only=True)
class ReclaimMerge:
    """The merge lease ran out: a merge that was not pushing goes back into the queue."""

    merge_id: int


@dataclass(frozen=True, kw_only=True)
class CreateRework:
    """One more round: a bead whose agent mends what holds the merge request, from its head, with the preset given."""

    merge_id: int
    purpose: Purpose  # CONFLICT or REWORK
    agent: str


@dataclass(frozen=True, kw_only=True)
class CreateReview:
    """A bead whose agent reads the merge request's head and approves it or asks for changes."""

    merge_id: int
    agent: str


@dataclass(frozen=True, kw_only=True)
class CloseReview:
    """A review that nobody waits for any more is closed, without another attempt."""

    reason: str


@dataclass(frozen=True, kw_only=True)
class FailMerge:
    """The merge request is given up: it and its bead fail (`merge_failed`), and a person is asked."""

    merge_id: int
    message: str


@dataclass(frozen=True, kw_only=True)
class OpenLanding:
    """A landing bead goes to review: what its convoy's feature branch has, enters the queue of its target."""


@dataclass(frozen=True, kw_only=True)
class CloseLanding:
    """A landing bead with nothing to land is closed, as `no_changes`, or `done` where members are merged one by one."""

    message: str


@dataclass(frozen=True, kw_only=True)
class EndConvoy:
    """The last landing of a convoy has ended: the convoy is closed, or fails with it."""


@dataclass(frozen=True, kw_only=True)
class AskMerge:
    """Effect: `gastown.merge`. Applying it notes when it was asked for."""

    merge_id: int
    about: str = field(default="", compare=False)  # the bead, for people who look at messages


@dataclass(frozen=True, kw_only=True)
class StartContainer:
    """Effect: `gastown.start_container` on the queue of the node."""

    dispatch_id: str
    node: str
    about: str = field(default="", compare=False)  # the bead, for people who look at messages


@dataclass(frozen=True, kw_only=True)
class StopContainer:
    """Effect: `gastown.stop_container` on the queue of the node."""

    dispatch_id: str
    node: str
    about: str = field(default="", compare=False)  # the bead, for people who look at messages


@dataclass(frozen=True, kw_only=True)
class InspectContainers:
    """Effect: `gastown.inspect_containers` on the queue of the node."""

    node: str


Effect = AskMerge | StartContainer | StopContainer | InspectContainers
Action = (
    CreateDispatch
    | RollBack
    | Lose
    | AskStop
    | StopAttempt
    | NoteStall
    | Escalate
    | HoldBead
    | FreeAgent
    | FailBead
    | CleanUp
    | ReclaimMerge
    | CreateRework
    | CreateReview
    | CloseReview
    | FailMerge
    | OpenLanding
    | CloseLanding
    | EndConvoy
    | Effect
)

TITLE_LENGTH = 60


def said_about(effect: Effect, bead_id: str, title: str) -> Effect:
    """The same with the bead that it is about. An inspection is about its node."""
    return effect if isinstance(effect, InspectContainers) else replace(effect, about=bead_named(bead_id, title))


def bead_named(bead_id: str, title: str) -> str:
    """A bead as Flower shows it: `gt-7k3fq "Mend the parser"`, on one line, and not a long one."""
    line = " ".join(title.split())
    short = line if len(line) <= TITLE_LENGTH else f"{line[: TITLE_LENGTH - 1]}…"
    return f'{bead_id} "{short}"'
