"""Everything that the agent's processes are kept from, as the launch of their attempt has it."""

from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path

from gastown.agent import journal
from gastown.agent.apart import separation
from gastown.agent.failures import Failed
from gastown.agent.offline import CannotConfine, confinement
from gastown.agent.protocol import Launch


def confinement_of(launch: Launch, own: Collection[Path]) -> Callable[[], None] | None:
    """What a child has to call between fork and exec; None: nothing. Raises Failed.

    `own`: folders that the agent may write to in the home of a container, made if missing.
    """
    steps: list[Callable[[], None]] = []
    if launch.shared_home is not None:
        for folder in own:
            folder.mkdir(parents=True, exist_ok=True)
        if apart := separation(Path(launch.home), own):
            steps.append(apart)
        else:
            journal.note("this kernel has no Landlock: the agent is not kept from the supervisor's files and git")
    if launch.network == "none":
        try:
            steps.append(confinement())
        except CannotConfine as error:
            raise Failed("workspace_failed", f"{error}; give the rig another network") from error
    return partial(_each, tuple(steps)) if steps else None


def _each(steps: tuple[Callable[[], None], ...]) -> None:
    for step in steps:
        step()
