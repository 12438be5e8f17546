"""What a new bead needs to know: its rig, its agent, its text."""

import os
from collections.abc import Mapping
from pathlib import Path

from sqlalchemy.orm import Session

from gastown.cli import agents
from gastown.cli.words import one_line
from gastown.commands import towns
from gastown.errors import GastownError, UsageError
from gastown.models import Rig
from gastown.presets import Preset
from gastown.presets.environment import capture
from gastown.refinery.repository import local_path
from gastown.settings import get_settings
from gastown.store import rigs
from gastown.store.policies import environment_of


def pick_rig(session: Session, town_id: int, name: str | None) -> Rig:
    """The rig of this name; else the one whose repository holds the current directory; else the only one.

    Raises NotFound or UsageError, with a list.
    """
    if name is not None:
        return towns.get_rig(session, town_id, name)
    known = rigs.list_rigs(session, town_id)
    if not known:
        raise UsageError("there is no rig yet", hint="gastown rig add PATH --gate CMD")
    here = [row for row in known if _holds(row.repository, Path.cwd())]
    longest = max((len(row.repository) for row in here), default=0)
    candidates = [row for row in here if len(row.repository) == longest] or known
    if len(candidates) > 1:
        names = ", ".join(row.name for row in candidates)
        where = "this directory belongs to several rigs" if here else "this directory is in none of the rigs"
        raise UsageError(f"{where}: {names}", hint=f"--rig {candidates[0].name}")
    return towns.get_rig(session, town_id, candidates[0].name)


def _holds(repository: str, directory: Path) -> bool:
    path = local_path(repository)
    return path is not None and (directory == path or path in directory.parents)


def pick_agent(rig: Rig, name: str | None) -> Preset:
    """The preset for a bead of this rig, as `choose_agent` has it. Points out what came after `rig add`."""
    wanted = name or rig.agent
    try:
        return choose_agent(wanted, environment_of(rig))
    except UsageError as error:
        try:
            choose_agent(wanted, capture(os.environ))
        except GastownError:
            raise error from None
        hint = f"gastown rig set {rig.name} --environment, which gives it the PATH of this shell"
        raise UsageError(f"{error} of rig {rig.name}", hint=hint) from error


def choose_agent(name: str | None, environment: Mapping[str, str]) -> Preset:
    """The preset of this name, else the only one installed. Its program is there: raises NotFound or UsageError."""
    home = get_settings().home
    return agents.require_agent(name or agents.only_agent(environment, home), environment, home)


def require_script(preset: Preset, title: str, body: str) -> None:
    """Raises UsageError when the agent runs the body of a bead, and there is none."""
    if preset.runs_scripts and not body.strip():
        what = f"the agent {preset.name} runs a bead's body as a script, and {one_line(title, 60)!r} has none"
        raise UsageError(what, hint="--body 'commands', or -F script.sh")
