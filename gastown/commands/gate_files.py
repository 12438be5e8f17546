"""Files that say what a rig's gates are, checked as a whole before anything of them is stored.

[[gate]]
name = "unit"             # shown wherever the gate is spoken of; made from the command if there is none
command = "make test"     # also: timeout_s, retries, environment = { CI = "1" }, cwd = "server"
"""

import difflib
import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from gastown.errors import UsageError
from gastown.gates import GATE_TIMEOUT_S, NAME_CHARS, Gate, in_order, made_name

GATES = 50  # of one rig
LONGEST_S = 86_400.0  # one day
_HEADER = re.compile(r"^\s*\[\[\s*gate\s*\]\]", re.MULTILINE)
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class _Gate(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    command: str
    name: str | None = None
    timeout_s: float = Field(default=GATE_TIMEOUT_S, gt=0, le=LONGEST_S)
    retries: int = Field(default=0, ge=0, le=10)
    environment: dict[str, str] = Field(default_factory=dict)
    cwd: str = ""


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    gate: list[_Gate] = Field(min_length=1, max_length=GATES)


def read_gates(text: str, source: str) -> list[Gate]:
    """The gates of a file. Raises UsageError, naming the gate and the key, for all that is wrong with it."""
    try:
        file = _File(**tomllib.loads(text.removeprefix("\N{BYTE ORDER MARK}")))
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{source} is not TOML: {error}", hint=f"mend {source}") from error
    except ValidationError as error:
        problems = [_problem(each, text) for each in error.errors(include_url=False)]
        raise UsageError(f"{source}: {'; '.join(problems[:5])}", hint=f"mend {source}") from error
    try:
        return check_gates([_read(each, number) for number, each in enumerate(file.gate, 1)])
    except UsageError as error:
        raise UsageError(f"{source}: {error}", hint=error.hint) from error


def _read(table: _Gate, number: int) -> Gate:
    """Raises UsageError."""
    require_command(table.command, f"gate {number}")
    name = made_name(table.command) if table.name is None else table.name
    cwd = "" if os.path.normpath(table.cwd or ".") == "." else os.path.normpath(table.cwd)
    return Gate(name=name, cwd=cwd, **table.model_dump(exclude={"name", "cwd"}))


def gates_of(file: str | None, text: str, commands: Sequence[str]) -> list[Gate]:
    """Gates as given on a command line: those of a file, then bare commands. Raises UsageError."""
    for number, command in enumerate(commands, 1):
        require_command(command, f"--gate {number}" if len(commands) > 1 else "--gate")
    return check_gates(in_order([*(read_gates(text, file) if file else []), *commands]))


def check_gates(gates: list[Gate]) -> list[Gate]:
    """The same gates. Raises UsageError for a set of gates that a rig cannot have."""
    if len(gates) > GATES:
        raise UsageError(f"{len(gates)} gates are more than a rig can have ({GATES})", hint="join some with &&")
    commands: dict[tuple[object, ...], str] = {}
    names: set[str] = set()
    for number, gate in enumerate(gates, 1):
        _check(gate, f"gate {number}" + (f" ({gate.name})" if gate.name.isprintable() and gate.name else ""))
        if gate.name in names:
            raise UsageError(f"two gates have the name {gate.name}", hint="give each a name of its own")
        names.add(gate.name)
        same = (gate.command, gate.cwd, *sorted(gate.environment.items()))
        if same in commands:
            raise UsageError(
                f"gates {commands[same]} and {gate.name} run the same command", hint="leave one out, or give it retries"
            )
        commands[same] = gate.name
    return gates


def require_command(command: str, where: str) -> None:
    """Raises UsageError for what no shell can be given."""
    if not command.strip():
        raise UsageError(f"{where} has an empty command", hint="give the command that must pass, such as make test")
    if "\0" in command or not _is_text(command):
        raise UsageError(f"{where}: its command is not text", hint="give valid UTF-8 without NUL")


def _check(gate: Gate, where: str) -> None:
    require_command(gate.command, where)
    if not gate.name.strip() or not gate.name.isprintable() or len(gate.name) > NAME_CHARS + len(" #50"):
        what = f"{where}: its name has to be one line of 1 to {NAME_CHARS} characters"
        raise UsageError(what, hint='such as name = "unit"')
    cwd = gate.cwd
    if os.path.isabs(cwd) or cwd == ".." or cwd.startswith("../") or "\0" in cwd:
        raise UsageError(
            f"{where}: cwd {cwd[:100]!r} is not inside the repository",
            hint="a path relative to its top, such as server",
        )
    for name, value in gate.environment.items():
        if not _VARIABLE.fullmatch(name) or name.startswith("GASTOWN_"):
            hint = "letters, digits and underscores; GASTOWN_ is for Gastown's own"
            raise UsageError(f"{where}: {name[:100]!r} cannot be the name of a variable", hint=hint)
        if "\0" in value:
            raise UsageError(f"{where}: the value of {name} has a NUL", hint="leave it out")


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _problem(error: Mapping[str, Any], text: str) -> str:
    """One finding of pydantic, as a person would say it."""
    place = list(error["loc"])
    if place[:1] != ["gate"]:
        return _said(error, str(place[0]) if place else "", ["gate"])
    if len(place) < 2:
        missing = error["type"] in ("missing", "too_short")
        return "it has no [[gate]]" if missing else f"gate: {error['msg'].lower()}"
    key = ".".join(map(str, place[2:]))
    headers = [found.start() for found in _HEADER.finditer(text)]
    number = int(place[1])
    line = f"line {text.count(chr(10), 0, headers[number]) + 1}: " if number < len(headers) else ""
    return f"{line}gate {number + 1}: {_said(error, key, list(_Gate.model_fields))}"


def _said(error: Mapping[str, Any], key: str, known: Sequence[str]) -> str:
    if error["type"] == "extra_forbidden":
        near = difflib.get_close_matches(key, known, 1)
        others = f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"
        return f"there is no key {key} ({others})"
    if error["type"] == "missing":
        return f"it has no {key}"
    message = str(error["msg"])
    return f"{key}: {message[:1].lower()}{message[1:]}" if key else message
