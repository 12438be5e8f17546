"""Which agent preset a bead gets when nobody names one."""

from collections.abc import Mapping
from pathlib import Path

from gastown.errors import GastownError, UsageError
from gastown.presets import Preset, list_presets, load_preset, require_program


def require_agent(name: str, environment: Mapping[str, str], home: Path) -> Preset:
    """The preset of this name, whose program is there. Raises NotFound or UsageError."""
    preset = load_preset(name, home)
    require_program(preset, dict(environment))
    return preset


def installed_agents(environment: Mapping[str, str], home: Path) -> list[str]:
    """Presets whose program is there, without those that only run scripts: nobody gets one of these unasked."""
    found = []
    for name in list_presets(home):
        try:
            preset = require_agent(name, environment, home)
        except GastownError:
            continue
        if not preset.runs_scripts:
            found.append(name)
    return found


def _own_problems(environment: Mapping[str, str], home: Path) -> list[GastownError]:
    """What keeps each of the person's own presets from working: they were written to be used."""
    found = []
    for name in list_presets(home):
        try:
            if (home / "presets" / f"{name}.toml").is_file():
                require_agent(name, environment, home)
        except GastownError as error:
            found.append(error)
    return found


def only_agent(environment: Mapping[str, str], home: Path) -> str:
    """The one that is installed. Raises UsageError, with a list, when there are none or several."""
    found = installed_agents(environment, home)
    if len(found) == 1:
        return found[0]
    if found:
        raise UsageError(f"several agents are installed: {', '.join(found)}", hint=f"--agent {found[0]}")
    broken = _own_problems(environment, home)
    if broken:
        what = f"no coding agent can work: {'; '.join(str(each) for each in broken)}"
        raise UsageError(what, hint=broken[0].hint)
    raise UsageError(
        "no coding agent is installed, so say which one is to work",
        hint=f"--agent shell runs the bead's text as a script; your own presets go to {home / 'presets'}/NAME.toml",
    )
