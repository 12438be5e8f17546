"""One merge, as its task sees it: plain functions on git and a runtime, called in this order, with all records between.

prepare -> Prepared       gated; keep the answer, then move the merge request to `pushing`
        -> AlreadyMerged  record it
        -> NothingLeft    record that nothing was merged
        -> Held, Stopped  give it back
prepare_batch             the same for several at once; who is not pushed with the first is queued again, or held
push    -> Pushed         record it, then release
        -> Moved          prepare again, with the next merge epoch
        -> Dirty          stage; later merges are prepared onto the staged tip, and `land` tries again
        -> PushRefused    hold it
        -> Unknown        ask `contains` until it answers; also what settles a crash in `pushing`
"""

from gastown.refinery.batching import Batch, prepare_batch
from gastown.refinery.jobs import (
    AlreadyMerged,
    Dirty,
    GateRun,
    Held,
    MergeJob,
    Moved,
    NothingLeft,
    Prepared,
    PrepareOutcome,
    Pushed,
    PushOutcome,
    PushRefused,
    Stacked,
    Stopped,
    Unknown,
)
from gastown.refinery.preparing import prepare
from gastown.refinery.pushing import contains, land, push, release, stage

__all__ = [
    "AlreadyMerged",
    "Batch",
    "Dirty",
    "GateRun",
    "Held",
    "MergeJob",
    "Moved",
    "NothingLeft",
    "PrepareOutcome",
    "Prepared",
    "PushOutcome",
    "PushRefused",
    "Pushed",
    "Stacked",
    "Stopped",
    "Unknown",
    "contains",
    "land",
    "prepare",
    "prepare_batch",
    "push",
    "release",
    "stage",
]
