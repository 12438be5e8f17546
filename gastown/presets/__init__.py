"""How agent programs are run, as data: one TOML file a program. The user's own are in GASTOWN_HOME/presets.

argv = ["my-agent", "--prompt", "{prompt}"]    # {prompt}, {prompt_file} or {script_file} are filled in
stdin = false                                  # true: the prompt comes on standard input
image = "acme/my-agent:3"                      # for nodes that run containers, unless the rig says another
[environment]
MY_AGENT_MODE = "headless"
[container]                                    # more about these, as in gastown.toml
memory_mb = 8192
"""

import difflib
import re
import shutil
import tomllib
from importlib.resources import files
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from gastown.containers import layered
from gastown.errors import NotFound, UsageError

NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")


class Preset(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    argv: list[str] = Field(min_length=1)
    stdin: bool = False
    environment: dict[str, str] = Field(default_factory=dict)
    image: str | None = None
    container: dict[str, Any] = Field(default_factory=dict)

    @field_validator("container")
    @classmethod
    def _sound_container(cls, value: dict[str, Any]) -> dict[str, Any]:
        try:
            layered(value)
        except UsageError as error:
            raise ValueError(str(error)) from error
        return value

    @property
    def layer(self) -> dict[str, Any]:
        """What it says of containers."""
        return self.container if self.image is None else {**self.container, "image": self.image}

    @property
    def runs_scripts(self) -> bool:
        """Whether it executes the bead's body instead of reading it."""
        return any("{script_file}" in argument for argument in self.argv)


_KEYS = list(Preset.model_fields)


def load_preset(name: str, home: Path) -> Preset:
    """The user's preset of that name, else the built-in one. Raises NotFound, or UsageError for a wrong file."""
    own = home / "presets" / f"{name}.toml"
    if not NAME.fullmatch(name):
        raise UsageError(f"{name!r} is not a preset's name", hint=_known(home))
    if own.is_file():
        return _parse(name, own.read_text(), str(own))
    built_in = files(__name__) / f"{name}.toml"
    if not built_in.is_file():
        raise NotFound("agent preset", name, hint=_known(home))
    return _parse(name, built_in.read_text(), built_in.name)


def reads(name: str | None, home: Path) -> bool:
    """Whether agents of this preset read what they are told. Not if they run it, nor if nobody knows the preset."""
    try:
        return name is not None and not load_preset(name, home).runs_scripts
    except (NotFound, UsageError):
        return False


def list_presets(home: Path) -> list[str]:
    built_in = {Path(each.name).stem for each in files(__name__).iterdir() if each.name.endswith(".toml")}
    return sorted(built_in | {each.stem for each in (home / "presets").glob("*.toml")})


def require_program(preset: Preset, environment: dict[str, str]) -> None:
    """Raises UsageError when the preset's program is not on the PATH that its agents will have."""
    program = preset.argv[0]
    if "{" not in program and shutil.which(program, path=environment.get("PATH")) is None:
        raise UsageError(
            f"the agent preset {preset.name} runs {program}, which is not on the PATH",
            hint=f"install {program}, or choose another agent with --agent",
        )


def _parse(name: str, text: str, source: str) -> Preset:
    try:
        data: dict[str, Any] = tomllib.loads(text)
        return Preset(**{"name": name, **data})
    except (tomllib.TOMLDecodeError, ValidationError, TypeError) as error:
        found = [_problem(each) for each in error.errors()] if isinstance(error, ValidationError) else [str(error)]
        reason = "; ".join(found)
        raise UsageError(f"the agent preset {source} is wrong: {reason}", hint=f"mend {source}") from error


def _problem(error: Any) -> str:
    """One finding of pydantic, as a person would say it."""
    key = ".".join(str(each) for each in error["loc"])
    if error["type"] == "extra_forbidden":
        near = difflib.get_close_matches(key, _KEYS, 1)
        return f"there is no key {key} " + (f"(did you mean {near[0]}?)" if near else f"(known: {', '.join(_KEYS)})")
    if error["type"] == "missing":
        return f"it has no {key}"
    message = str(error["msg"])
    return f"{key}: {message[:1].lower()}{message[1:]}"


def _known(home: Path) -> str:
    return f"known presets: {', '.join(list_presets(home))}; your own go to {home / 'presets'}/NAME.toml"
