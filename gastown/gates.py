"""What a rig asks of its merges: the method, and gates, which are commands that must pass before anything is pushed."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

GATE_TIMEOUT_S = 1800.0  # DESIGN 3: gate 30 min
NAME_CHARS = 60


class MergeMethod(StrEnum):
    """What the target gets: a merge commit, one commit with all of the work, or the work's commits anew on its head."""

    MERGE = "merge"
    SQUASH = "squash"
    REBASE = "rebase"


@dataclass(frozen=True, kw_only=True)
class Gate:
    """One gate of a rig. They run in order, each in the merged tree."""

    name: str
    command: str
    timeout_s: float = GATE_TIMEOUT_S  # of one try
    retries: int = 0  # for one that is known to fail now and then: so often it is run again
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)  # laid over the rig's
    cwd: str = ""  # relative to the top of the repository

    @property
    def title(self) -> str:
        """For messages: its command, after its name if it was given one."""
        return f"`{self.command}`" if is_made(self) else f"{self.name} (`{self.command}`)"


def made_name(command: str) -> str:
    """The name of a gate that was given none: its command on one line."""
    line = " ".join(command.split())
    return line if len(line) <= NAME_CHARS else f"{line[: NAME_CHARS - 3]}..."


def is_made(gate: Gate) -> bool:
    return gate.name.partition(" #")[0] == made_name(gate.command).partition(" #")[0]


def in_order(given: Iterable[Gate | str]) -> list[Gate]:
    """Gates of which some are bare commands, which get names here."""
    gates: list[Gate] = []
    for each in given:
        gates += [each] if isinstance(each, Gate) else named([each], [gate.name for gate in gates])
    return gates


def named(commands: Iterable[str], taken: Iterable[str] = ()) -> list[Gate]:
    """A gate for each command, with nothing but a name; one whose name is taken gets a number as well."""
    made: list[Gate] = []
    names = set(taken)
    for command in commands:
        name, number = made_name(command), 1
        while name in names:
            number += 1
            name = f"{made_name(command)} #{number}"
        names.add(name)
        made.append(Gate(name=name, command=command))
    return made


def stored(gates: Iterable[Gate]) -> list[dict[str, Any]]:
    """As a rig's row keeps them."""
    return [asdict(gate) for gate in gates]


def shown(gate: Gate) -> dict[str, Any]:
    """For people, who have no business with the values of its variables."""
    return {**asdict(gate), "environment": sorted(gate.environment)}


def of_rig(row: Iterable[Any]) -> tuple[Gate, ...]:
    """The gates in a rig's row: each an object, or, as rigs had them before version 4 of the schema, a bare command.

    Keys that this version does not know are left out. Raises TypeError for what is no gate.
    """
    known = Gate.__dataclass_fields__.keys()

    def read(each: Any) -> Gate | str:
        return each if isinstance(each, str) else Gate(**{key: each[key] for key in known & each.keys()})

    return tuple(in_order(map(read, row)))
