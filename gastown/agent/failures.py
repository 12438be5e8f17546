"""How an attempt can fail, in the words that people are shown."""

import signal

from gastown.agent.mirror import Mirror
from gastown.agent.workspace import branches


class Failed(Exception):
    """The attempt failed in a way that has a code of its own."""

    def __init__(self, code: str, message: str, exit_code: int | None = None) -> None:
        super().__init__(message)
        self.code, self.exit_code = code, exit_code


def no_target(mirror: Mirror, branch: str) -> Failed:
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
