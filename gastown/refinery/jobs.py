"""One merge, and every way in which its two halves, preparing and pushing, can end."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from gastown.agent.tail import last_lines
from gastown.containers import Container
from gastown.gates import GATE_TIMEOUT_S, Gate, MergeMethod
from gastown.states import HoldCode

OUTPUT_CHARS = 16 * 1024  # of a gate's output, kept for people: the end of it, where the failure is

OnStep = Callable[[str], None]
ShouldStop = Callable[[], bool]


@dataclass(frozen=True, kw_only=True)
class MergeJob:
    """Everything about one merge. The recorded `head_sha` is what is merged, whatever `head_ref` says by now."""

    home: Path
    rig_id: int
    repository: str
    target: str  # branch name, without refs/heads/
    bead_id: str
    dispatch_id: str
    title: str
    head_sha: str
    head_ref: str  # refs/gastown/head/<bead>/<epoch>
    setup: str = ""
    gates: tuple[Gate, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    merge_epoch: int = 1
    staged_sha: str | None = None  # the tip on which earlier merges wait for a dirty checkout
    made_from: str | None = None  # the target is a feature branch, which begins as this branch
    made_at: str | None = None  # ... and was here after the last merge into it
    convoy: str | None = None  # what a landing lands: a merge is recorded only if it brought something
    method: MergeMethod = MergeMethod.MERGE
    author: str | None = None  # "Name <mail>" of merge and squash commits; None: Gastown, or who made the head
    committer: str = "Gastown"
    email: str = "gastown@localhost"
    setup_timeout_s: float = GATE_TIMEOUT_S
    container: Container = field(default_factory=Container)  # of set-up and gates, where these run in one

    @property
    def branch(self) -> str:
        """What the target is called in the worktree: git checks no branch out that could be taken for an option."""
        return f"target/{self.target}" if self.target.startswith("-") or self.target == "HEAD" else self.target

    @property
    def merging_ref(self) -> str:
        """Where the mirror keeps the merge commit, so that a crash before or after the push cannot lose it."""
        return f"refs/gastown/merging/{self.bead_id}/{self.merge_epoch}"

    @property
    def merged_ref(self) -> str:
        """Where a finished merge waits until a dirty checkout lets it in."""
        return f"refs/gastown/merged/{self.target}"


@dataclass(frozen=True, kw_only=True)
class GateRun:
    """How a gate passed, as it is kept with the merge."""

    name: str
    command: str
    tries: int  # the last one passed; more than 1: it is flaky
    allowed: int  # tries
    duration_s: float
    output: str  # of every try


@dataclass(frozen=True, kw_only=True)
class Stacked:
    """A merge that is pushed along with another, on whose commit it stands."""

    bead_id: str
    merge_sha: str
    base_sha: str  # what it was merged onto: the commit of the one before it


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """Merged and gated, ready to push."""

    merge_sha: str
    base_sha: str  # what it was merged onto: `expected_sha`, or the staged tip
    expected_sha: str  # the head of the target on the remote, which the push must find
    gate_runs: tuple[GateRun, ...] = field(default=(), compare=False)
    along: tuple[Stacked, ...] = ()  # the rest of its batch, in order

    @property
    def tip_sha(self) -> str:
        """What was gated, and is pushed."""
        return self.along[-1].merge_sha if self.along else self.merge_sha


@dataclass(frozen=True)
class AlreadyMerged:
    """The target has it: pushed before a crash, or by a person. `merge_sha` is the commit that brought it there."""

    merge_sha: str
    tip_sha: str | None = field(default=None, compare=False)  # the head of the target, as it was looked at


@dataclass(frozen=True)
class NothingLeft:
    """The target, at this commit, has the content of the work although it has not its commits: there is nothing to add.

    Of squash and rebase alone: a merge then still says where the work came from.
    """

    target_sha: str


@dataclass(frozen=True, kw_only=True)
class Held:
    """It cannot be merged now, and `reason` says why in one line."""

    code: HoldCode
    reason: str
    output: str = ""


@dataclass(frozen=True)
class Stopped:
    """The caller asked to stop, because it lost its lease or the bead is not wanted any more."""


@dataclass(frozen=True)
class Pushed:
    """The target has it."""


@dataclass(frozen=True)
class Moved:
    """The target is not where it was when the merge was prepared: start over."""


@dataclass(frozen=True)
class Dirty:
    """A person's checkout is in the way, with these changed files; `stage` keeps the result for later."""

    paths: tuple[str, ...]


@dataclass(frozen=True)
class PushRefused:
    """The remote said no, in these words, and will say no again."""

    reason: str


@dataclass(frozen=True)
class Unknown:
    """No answer: it may have been pushed or not. `contains` settles it."""

    reason: str


PrepareOutcome = Prepared | AlreadyMerged | NothingLeft | Held | Stopped
PushOutcome = Pushed | Moved | Dirty | PushRefused | Unknown


def presentable(text: str | bytes, limit: int = OUTPUT_CHARS) -> str:
    """Text that Postgres, JSON and a terminal take: valid Unicode, no NUL, and only its last lines when it is long."""
    raw = text if isinstance(text, bytes) else text.encode("utf-8", "surrogateescape")
    end = max(0, len(raw) - 4 * limit)
    shown = raw[end:].decode("utf-8", "replace").replace("\0", "\N{REPLACEMENT CHARACTER}")
    return last_lines(shown, limit, raw.count(b"\n", 0, end))


def presentable_path(path: str) -> str:
    """A file name on one line, whatever is in it."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in presentable(path))
