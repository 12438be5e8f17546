"""How an attempt can fail, in the words that people are shown."""

import signal
from dataclasses import replace

from gastown.agent.mirror import Mirror
from gastown.agent.protocol import Done
from gastown.agent.starting import branches

PLAIN_CHARACTERS = 2000


class Failed(Exception):
    """The attempt failed in a way that has a code of its own."""

    def __init__(self, code: str, message: str, exit_code: int | None = None) -> None:
        super().__init__(message)
        self.code, self.exit_code = code, exit_code


def printable(done: Done) -> Done:
    """With a message that JSON and the database take: git and file names may hold bytes that are no text."""
    text = done.message.encode("utf-8", "replace").decode().replace("\0", "?")
    return replace(done, message=text)


def plain(done: Done) -> Done:
    """No more than has to be said, in ASCII, for an API that refused the whole."""
    text = "".join(char if char == "\n" or " " <= char <= "~" else "?" for char in done.message)
    least = Done(outcome=done.outcome, code=done.code, message=text[:PLAIN_CHARACTERS], cost_usd=done.cost_usd)
    if done.outcome != "succeeded":
        return least
    return replace(least, base_sha=done.base_sha, head_sha=done.head_sha)


def no_target(mirror: Mirror, branch: str) -> Failed:
    if mirror.withholds(branch):
        words = "is a shallow clone, and merges need the history; there, run: git fetch --unshallow"
        return Failed("branch_missing", f"{mirror.repository} {words}")
    names = branches(mirror)
    if not names:
        return Failed("repository_empty", f"{mirror.repository} has no commits; push a first one to {branch}")
    some = ", ".join(names[:5])
    return Failed("branch_missing", f"{mirror.repository} has no branch {branch!r}; it has {some}")


def ending(who: str, exit_code: int) -> str:
    if exit_code >= 0:
        return f"{who} exited with {exit_code}"
    try:
        return f"{who} was ended by {signal.Signals(-exit_code).name}"
    except ValueError:
        return f"{who} was ended by signal {-exit_code}"
