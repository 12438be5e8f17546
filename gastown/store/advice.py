"""What opens each gate: for every verdict, one sentence and the command to type next. Pure."""

import shlex
from dataclasses import dataclass

from gastown.states import REWORKED, BeadStatus, HoldCode, Resolution, Verdict


@dataclass(frozen=True)
class Advice:
    opens: str
    command: str


_BY_VERDICT = {
    Verdict.DISPATCH: ("nothing: its attempt is being started", "gastown logs -f {id}"),
    Verdict.READY: ("nothing: the next tick starts it", "gastown logs -f {id}"),
    Verdict.BLOCKED: ("the beads it waits for have to be merged; then it starts by itself", "gastown why {blocker}"),
    Verdict.BLOCKER_FAILED: (
        "a bead it waits for ended without being merged: retry that one, or cancel this one",
        "gastown bead retry {blocker}",
    ),
    Verdict.COOLDOWN: (
        "time: the next attempt starts by itself; a retry by hand starts it at once",
        "gastown bead retry {id}",
    ),
    Verdict.INFRA_FAILING: (
        "what keeps breaking on the machine has to be put right; attempts go on by themselves, and by a retry at once",
        "gastown attempts {id}",
    ),
    Verdict.AT_CAPACITY: (
        "an attempt that runs now has to end; or raise the limit",
        "gastown bead list --status in_progress",
    ),
    Verdict.BREAKER_OPEN: (
        "what keeps attempts from starting has to be put right; then one tries it, and all go on by themselves",
        "gastown node list",
    ),
    Verdict.OVER_BUDGET: (
        "time, as what was spent a day ago counts no more, or the end of an attempt; or a higher budget",
        "gastown town set --policy budget_usd_per_day=USD",
    ),
    Verdict.RATE_LIMITED: ("time: the provider asked for a pause", "gastown why {id}"),
    Verdict.NO_NODE: ("a worker has to run on which attempts start", "gastown up"),
    Verdict.DRAINING: ("a worker that is not being stopped has to run", "gastown up"),
    Verdict.MISCONFIGURED: ("somebody has to put its policy right", "{set_policy} --unset KEY"),
    Verdict.PAUSED: ("somebody paused it, and has to resume it", "gastown resume"),
    Verdict.HELD: ("somebody holds it, and has to release it", "gastown bead release {id}"),
    Verdict.STAGED: ("somebody has to start its convoy", "gastown convoy start {convoy}"),
    Verdict.AWAITING_MEMBERS: ("its members have to be over; then it lands by itself", "gastown convoy show {convoy}"),
    Verdict.MEMBER_FAILED: (
        "members that failed have to be retried or canceled, or the others land without them",
        "gastown convoy show {convoy}; gastown convoy land {convoy} --partial",
    ),
    Verdict.AWAITING_START: ("nothing: its attempt makes its first call in a moment", "gastown logs -f {id}"),
    Verdict.AWAITING_AGENT: ("its agent has to finish", "gastown logs -f {id}"),
    Verdict.STOPPING: ("nothing: its attempt saves its work and ends, or is ended", "gastown logs -f {id}"),
    Verdict.AWAITING_MERGE: ("nothing: the merge queue comes to it by itself", "gastown bead show {id}"),
    Verdict.AWAITING_APPROVAL: (
        "somebody has to merge its branch into the target, in any way; that is noticed by itself, by a retry at once",
        "{merge_branch}",
    ),
    Verdict.AWAITING_REVIEW: (
        "an agent has to approve it; when none does any more: a person, or another review after a retry",
        "gastown mr show {id}",
    ),
    Verdict.AWAITING_REWORK: (
        "nothing: an agent mends what holds its merge, and then that goes on; a retry tries the merge as it is",
        "gastown bead show {id}",
    ),
    Verdict.MERGE_HELD: ("what holds its merge has to change", "gastown bead retry {id}"),
    Verdict.LOST: ("nothing: the next tick tries again", "gastown attempts {id}"),
    Verdict.ROLLED_BACK: ("nothing: the next tick tries again", "gastown attempts {id}"),
    Verdict.EXHAUSTED: ("a human has to look at why its attempts failed, then retry it", "gastown logs {id}"),
}
_DRAINED_BY_HAND = ("somebody drains the node, and has to undo that", "gastown node drain {drained} --undo")
_UNFIT = (
    "a node has to have what the rig asks for (node_labels, an image: gastown node list), or the rig to ask for less",
    "gastown rig show {rig}",
)
_NO_ENVIRONMENT = ("somebody has to give the rig an environment anew", "gastown rig set {rig} --environment")
_BY_HOLD = {
    HoldCode.CONFLICT: (
        "its changes conflict with the target: have its agent work on it once more",
        "gastown bead retry --again {id}",
    ),
    HoldCode.GATE_FAILED: (
        "a gate is red on the merged result: see the output, then have its agent mend it (--again), or only try anew",
        "gastown bead show {id}; gastown bead retry --again {id}",
    ),
    HoldCode.CHANGES_REQUESTED: (
        "its review asks for changes: have its agent make them (--again), or approve it as it is (gastown mr approve)",
        "gastown mr show {id}; gastown bead retry --again {id}",
    ),
    HoldCode.PUSH_REFUSED: (
        "the repository refuses the push: allow it there, then try again",
        "gastown bead retry {id}",
    ),
    HoldCode.DIRTY_CHECKOUT: (
        "your checkout has changes in its way: commit or stash them, and it is merged by itself",
        "git -C {repository} status",
    ),
    HoldCode.UNREACHABLE: (
        "the repository has to answer again; it is asked by itself, less and less often, and by a retry at once",
        "git ls-remote {repository}",
    ),
    HoldCode.HEAD_MISSING: (
        "the commits of the attempt are gone from the repository: have its agent work on it once more",
        "gastown bead retry --again {id}",
    ),
    HoldCode.AWAITING_APPROVAL: _BY_VERDICT[Verdict.AWAITING_APPROVAL],
    HoldCode.BRANCH_GONE: (
        "somebody deleted its branch, and the target has nothing of it: have it published anew, cancel the bead, or, "
        "when the target has it in another form, say so (gastown bead done)",
        "gastown bead retry {id}",
    ),
    HoldCode.MERGE_ERROR: ("something unexpected stopped the merge: try it again", "gastown bead retry {id}"),
}
_BY_ENDING = {
    Resolution.CANCELED: ("it is canceled; a retry opens it again", "gastown bead retry {id}"),
    Resolution.MERGED: ("nothing: it is merged", "gastown bead show {id}"),
    Resolution.NO_CHANGES: ("nothing: nothing had to change, or the target had it already", "gastown logs {id}"),
    Resolution.DONE: ("nothing: it is done", "gastown bead show {id}"),
}
_FAILED = (
    "it has failed: see why, then retry it (its attempts count from 0), or cancel it for good",
    "gastown bead retry {id}",
)
_MENDING_FAILED = (
    "the bead that was to mend it failed: put right what stopped that, then retry that one, or have this one's own "
    "agent work on it once more (--again)",
    "gastown bead retry {mending}",
)
BY_HAND = frozenset(HoldCode) - {HoldCode.UNREACHABLE}  # merges that wait for a person


_BY_A_PERSON = (Verdict.BLOCKER_FAILED, Verdict.MEMBER_FAILED, Verdict.STAGED, Verdict.PAUSED, Verdict.MISCONFIGURED)


def advise(
    bead_id: str,
    status: str,
    verdict: str | None,
    *,
    resolution: str | None = None,
    held_code: str | None = None,
    blocker: str = "",
    repository: str = "",
    rig: str = "",
    of_town: bool = False,
    drained: str = "",
    no_environment: bool = False,
    unfit: bool = False,
    convoy: str = "",
    mending: str = "",
) -> Advice:
    """What a person can do about this bead. A verdict that is not known yet has the next tick to wait for.

    `of_town`: what is paused or misconfigured is the town, not the rig. `drained`: a node that somebody drains.
    `no_environment`: what is misconfigured is the rig's environment. `unfit`: nodes are there, but none fits it.
    `mending`: the bead that was to mend what holds
    its merge, and failed.
    """
    if status == BeadStatus.FAILED:
        opens, command = _FAILED
    elif resolution is not None:
        opens, command = _BY_ENDING[Resolution(resolution)]
    elif verdict == Verdict.MERGE_HELD and mending:
        opens, command = _MENDING_FAILED
    elif verdict == Verdict.MERGE_HELD and held_code in set(HoldCode):
        opens, command = _BY_HOLD[HoldCode(held_code)]
    elif verdict in set(_BY_VERDICT):
        opens, command = _BY_VERDICT[Verdict(verdict)]
        if verdict == Verdict.PAUSED and not of_town:
            command += " --rig {rig}"
        if verdict == Verdict.MISCONFIGURED and no_environment and not of_town:
            opens, command = _NO_ENVIRONMENT
        if verdict == Verdict.NO_NODE and unfit:
            opens, command = _UNFIT
        if verdict == Verdict.DRAINING and drained:
            opens, command = _DRAINED_BY_HAND
    else:
        opens, command = "nothing: the next tick looks at it", "gastown why {id}"
    set_policy = "gastown town set" if of_town else f"gastown rig set {rig}"
    words = {
        "id": bead_id,
        "merge_branch": _merge_by_hand(bead_id, repository),
        "blocker": blocker,
        "convoy": convoy,
        "mending": mending,
        "repository": repository,
        "rig": rig,
        "set_policy": set_policy,
    }
    return Advice(opens, command.format(drained=drained, **words))


def _merge_by_hand(bead_id: str, repository: str) -> str:
    """In the person's own checkout when that is the rig, else in any clone of it."""
    branch = f"gt/{bead_id}"
    if repository.startswith("/") and not repository.endswith(".git"):
        return shlex.join(["git", "-C", repository, "merge", branch])
    return f"git pull --no-rebase {shlex.quote(repository)} {branch}, and push the result"


def needs_a_person(
    status: str,
    verdict: str | None,
    *,
    live: bool,
    held_by_hand: bool = False,
    held_code: str | None = None,
    review_over: bool = False,
) -> bool:
    """Whether this bead goes on only when somebody does something.

    `review_over`: the review that its merge waits for ended without an answer.
    """
    if status == BeadStatus.FAILED:
        return True
    if held_code in BY_HAND and not (held_code in REWORKED and verdict != Verdict.MERGE_HELD):
        return True  # what an agent may mend waits for a person only when the rules have said so
    if verdict == Verdict.AWAITING_REVIEW and status == BeadStatus.IN_REVIEW and review_over:
        return True
    if status in (BeadStatus.CLOSED, BeadStatus.IN_REVIEW) or live:
        return False
    return held_by_hand or verdict in _BY_A_PERSON
