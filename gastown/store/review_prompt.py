"""What the agent of a review is told. It sees nothing else but its clone."""

import shlex

from gastown.gates import of_rig
from gastown.models import Bead, MergeRequest, Rig

WORK_CHARACTERS = 20_000  # of what the work was to do
NOTES_CHARACTERS = 10_000  # of what an earlier review said

_TASK = """\
Review the work on {bead} before it is merged into {target}. Say whether it may be merged; change nothing yourself: what
you commit here is thrown away.

Your clone has the work checked out, at {sha}. If `git rev-parse HEAD` says anything else, stop with
an exit code that is not 0. To read it:

    git log --format=fuller {base}..HEAD      # its commits, and why they were made
    git diff --stat {base}...HEAD             # the files that it changes
    git diff {base}...HEAD                    # all that it changes, since it left {base}

Read the changed places in their files as well, not only the diff."""

_ANSWER = """\
## How to answer

Give one answer, with one of these commands, and then end with exit code 0. Without an answer this review has failed.

    gastown self review approve --comment "why it may be merged"
    gastown self review changes --comment "what has to change"
    gastown self review changes -F FILE                # the comment from a file, or - for standard input

Ask for changes only where something has to be mended before it is merged: it is wrong, unsafe, breaks what worked, or
lacks what was to be done. Taste is no reason. What you write goes to an agent that has the code and sees nothing else
of you: name file and line, say what is wrong and what would be right. {gates}"""


def body_of(source: Bead, request: MergeRequest, rig: Rig, branch: str) -> str:
    """Of the review of a request's head as it is now. `branch`: what it is compared with."""
    base = shlex.quote(f"origin/{branch}")
    parts = [_TASK.format(bead=source.id, target=request.target, base=base, sha=request.head_sha)]
    wanted = _cut(f"{source.title}\n\n{source.body}".strip(), WORK_CHARACTERS)
    parts.append(f"## What the work was to do\n\n{wanted}")
    if request.review_notes and request.reviewed_sha is None:
        notes = _cut(request.review_notes, NOTES_CHARACTERS)
        words = "An earlier review of it asked for changes. See whether this head has them:"
        parts.append(f"## What an earlier review said\n\n{words}\n\n{notes}")
    parts.append(_ANSWER.format(gates=_gates(rig)))
    return "\n\n".join(parts)


def _gates(rig: Rig) -> str:
    names = [gate.name for gate in of_rig(rig.gates)]
    if not names:
        return "Nothing but you checks this work: no gate runs before the merge."
    return f"Before the merge, gates run on the merged result by themselves: {', '.join(names)}."


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[:limit]}\n[... {len(text) - limit} characters left out ...]"
