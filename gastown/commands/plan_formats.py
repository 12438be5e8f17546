"""How plans are written. The command line reads this module at once, so it imports nothing slow."""

from enum import StrEnum
from pathlib import PurePath


class PlanFormat(StrEnum):
    TOML = "toml"
    YAML = "yaml"
    JSONL = "jsonl"  # an issue a line, as `bd export` of Beads writes them


_SUFFIXES = {
    ".yaml": PlanFormat.YAML,
    ".yml": PlanFormat.YAML,
    ".jsonl": PlanFormat.JSONL,
    ".ndjson": PlanFormat.JSONL,
}


def format_of(source: str) -> PlanFormat:
    """As the suffix of its name says; TOML, if that says nothing."""
    return _SUFFIXES.get(PurePath(source).suffix.lower(), PlanFormat.TOML)
