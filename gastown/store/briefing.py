"""What an agent is told that has to mend what holds a merge. It knows nothing but this text and its clone."""

import re

from gastown import gates
from gastown.errors import Refused
from gastown.gates import MergeMethod
from gastown.models import Bead, MergeRequest, Rig
from gastown.states import HoldCode

TITLE_CHARACTERS = 300
EARLIER_ROUNDS = (
    "Earlier rounds, {}, ended and did not get it merged. What they did is in your branch: `git log` shows it."
)


def title_of(bead: Bead, request: MergeRequest) -> str:
    what = {
        HoldCode.CONFLICT: f"Resolve conflicts of {bead.id} with {request.target}",
        HoldCode.GATE_FAILED: f"Mend {bead.id}, a gate is red",
        HoldCode.CHANGES_REQUESTED: f"Mend {bead.id}, its review asks for changes",
    }
    title = what.get(HoldCode(request.held_code or ""), f"Mend {bead.id}")
    return f"{title}: {' '.join(bead.title.split())}"[:TITLE_CHARACTERS]


def body_of(bead: Bead, request: MergeRequest, rig: Rig, earlier: list[str]) -> str:
    """`earlier`: beads of earlier rounds."""
    code, target = HoldCode(request.held_code or ""), request.target
    parts = [
        f"An agent has finished the work on {bead.id}, and Gastown was about to merge it into {target}. {_WHY[code]}\n"
        f"You are in a clone of the repository. Checked out is that work, commit {request.head_sha[:12]}, on a branch "
        f"of your own; `origin/{target}` is the target. Mend the work, so that it can be merged.",
        f"## What the work is to do\n\n{bead.title.strip()}\n\n{bead.body.strip()}".rstrip(),
        f"## What happened\n\n{request.held_reason}",
    ]
    if request.held_output:
        parts.append(_fenced(request.held_output))
    if earlier:
        parts.append(EARLIER_ROUNDS.format(", ".join(earlier)))
    parts += [f"## How to go on\n\n{_steps(code, rig, target)}", f"## What ends this\n\n{_END.format(bead.id, target)}"]
    return "\n\n".join(parts)


_WHY = {
    HoldCode.CONFLICT: "The target has changed meanwhile, and git cannot bring the two together by itself.",
    HoldCode.GATE_FAILED: "One of the commands that have to pass before a merge has failed on it.",
    HoldCode.CHANGES_REQUESTED: "Somebody has read it first, and asks for changes.",
}
_END = """\
When you end with exit code 0, the head of your branch takes the place of the work on {0}, and Gastown tries the merge \
again, with all gates. So leave your branch checked out, commit everything, and do not push. Change nothing that this \
does not need, and undo nothing that {1} has. If the head is right as it is (a gate that fails now and then), change \
nothing. If it cannot be done, or two intents contradict each other and a person has to choose, say so with \
`gastown self escalate "..."`, and end with an exit code that is not 0."""


def _steps(code: HoldCode, rig: Rig, target: str) -> str:
    together = f"git rebase origin/{target}" if rig.merge_method == MergeMethod.REBASE else f"git merge origin/{target}"
    steps = [f"{_FETCH.format(target)} Then `{together}`.{_REBASED if rig.merge_method == MergeMethod.REBASE else ''}"]
    if code is HoldCode.CONFLICT:
        steps.append(
            "Resolve each conflict so that both intents are kept: that of the work (above), and that of the commits "
            f"on {target} (what happened lists those that touched these files; `git show` has the rest). Taking one "
            "side as it is drops the other. Look also at files that git merged without a conflict: one side may use "
            "what the other has renamed or removed."
        )
    elif code is HoldCode.GATE_FAILED:
        steps.append(
            f"The gate ran on the work merged with {target}, which is what you have now. Find out why it fails, and "
            "mend the cause. Never weaken, skip or delete a check to get it green, unless the work is to do just that."
        )
    else:
        steps.append(
            "Do what the review asks for, each point of it. Where it is wrong, say why in the message of a commit."
        )
    commands = _commands(rig)
    if commands:
        steps.append("Run what has to pass before the merge, in this order:\n" + "\n".join(commands))
    steps.append("Commit, with a message that says what was wrong and what you did.")
    return "\n".join(f"{number}. {step}" for number, step in enumerate(steps, 1))


_FETCH = "`git fetch origin`; where that is not allowed, `origin/{}` is still as new as your clone."
_REBASED = (
    " This repository takes each commit by itself, without merge commits: conflicts that a merge commit resolves would "
    "come up again, so rebase."
)


def _commands(rig: Rig) -> list[str]:
    try:
        required = gates.of_rig(rig.gates)
    except Refused:  # stored wrong; whoever merges says so
        return []
    setup = [f"   - `{rig.setup}` (set-up; it ran before you began)"] if rig.setup else []
    return setup + [f"   - `{gate.command}`" + (f" in `{gate.cwd}`" if gate.cwd else "") for gate in required]


def _fenced(text: str) -> str:
    """Whatever is in it, it does not end the block."""
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=2))
    return f"{fence}\n{text.strip()}\n{fence}"
