"""Where work goes that somebody else merges: one seam for a rig's branches, and for pull requests of a forge.

open   -> Published      it is there for people, at this head; opening it again finds it
       -> Taken          something of somebody else's has its name, which is never overwritten
       -> PushRefused    the remote said no, and will say no again
       -> Unknown        no answer: open it again
status -> Waiting        a person has to act; that has no deadline and starts nothing
       -> Merged         the target has it, as a merge, a squash or a rebase, or together with more
       -> Conflicting    it cannot be merged any more as it is
       -> Closed         it is gone, and the target does not have it
       -> Unknown        no answer, which is never taken for a yes
merge  -> Merged         exactly this head was merged
       -> HeadMoved      something else is there by now: nothing was merged
       -> ByHand         only a person merges it
       -> Unknown        no answer: `status` settles it
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Protocol

from gastown.refinery.jobs import MergeJob, PushRefused, Unknown


@dataclass(frozen=True, kw_only=True)
class Published:
    ref: str  # what the forge calls it: a branch, or the number of a pull request
    sha: str  # the head it was opened with
    url: str | None = None  # where people see it


@dataclass(frozen=True)
class Taken:
    """Somebody else has something of that name, and this sentence says what."""

    reason: str


@dataclass(frozen=True, kw_only=True)
class Waiting:
    target_sha: str  # the head of the target at this look
    remark: str = ""  # what a person should know, but for that they have to merge it


@dataclass(frozen=True)
class Merged:
    """The target has it; this commit brought it there."""

    merge_sha: str


@dataclass(frozen=True, kw_only=True)
class Conflicting:
    reason: str
    output: str = ""
    target_sha: str


@dataclass(frozen=True)
class Closed:
    reason: str


@dataclass(frozen=True)
class HeadMoved:
    head_sha: str | None  # what is there now


@dataclass(frozen=True)
class ByHand:
    """This forge leaves merging to people."""


OpenOutcome = Published | Taken | PushRefused | Unknown
Status = Waiting | Merged | Conflicting | Closed | Unknown
MergeOutcome = Merged | HeadMoved | ByHand | Unknown


class Forge(Protocol):
    """Every call may be repeated. What was published is looked for in the rig's own repository alone."""

    def open(self, job: MergeJob, ours: Collection[str]) -> OpenOutcome:
        """Publish the job's head. `ours`: heads of the same bead that were published before; it replaces them."""

    def status(self, job: MergeJob, published: Published, seen: str | None = None) -> Status:
        """`seen`: the target's head when it was published, or at the last look that found it waiting; without it."""

    def merge(self, job: MergeJob, published: Published, head_sha: str) -> MergeOutcome:
        """Merge it if its head is `head_sha`, which is what was gated and approved; never a newer one."""

    def close(self, job: MergeJob, published: Published) -> str | None:
        """Remove what `open` made, once it is merged, unless somebody changed it. Why it stays; None: it is gone."""


__all__ = [
    "ByHand",
    "Closed",
    "Conflicting",
    "Forge",
    "HeadMoved",
    "MergeOutcome",
    "Merged",
    "OpenOutcome",
    "Published",
    "PushRefused",
    "Status",
    "Taken",
    "Unknown",
    "Waiting",
]
