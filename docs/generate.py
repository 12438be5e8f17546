"""Write the generated parts of the documentation: `make docs`. A test fails while they are not up to date.

A part stands between `<!-- generated: NAME -->` and `<!-- end of NAME -->`; everything else is written by hand.
"""

import ast
import inspect
import re
import sys
import textwrap
import tomllib
from collections.abc import Callable, Iterable
from dataclasses import fields
from enum import StrEnum
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from gastown.beat_schedule import BEAT_SCHEDULE
from gastown.reconcile.policy import ANY_WAIT, LIMITS, LONGEST_S, Policy
from gastown.reconcile.rules import RULES
from gastown.reconcile.town import GATES
from gastown.settings import Settings
from gastown.states import ADOPTABLE, LIVE, MACHINES, RELEASING, FailureClass, FailureCode, Move, StopCode

DOCS = Path(__file__).parent
ROOT = DOCS.parent
TEST = re.compile(r"tests/[\w/]+\.py::(?P<test>\w+)")
PART = re.compile(r"(<!-- generated: (?P<name>[\w-]+) -->\n).*?(<!-- end of (?P=name) -->)", re.DOTALL)


def table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [list(heads), *(list(row) for row in rows)]
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|").replace("<", "\\<") for cell in line) + " |" for line in lines
    )


def code(value: object) -> str:
    return f"`{value}`"


def diagram(moves: tuple[Move, ...]) -> str:
    """The states as boxes, the moves as arrows; a state that nothing leads to is where a machine begins."""
    arrows = [f"    {move.source} --> {move.target}" for move in moves]
    targets = {move.target for move in moves}
    first = next((move.source for move in moves if move.source not in targets), moves[0].source)
    left = {move.source for move in moves}
    last = [f"    {state} --> [*]" for state in type(first) if state not in left]
    return "\n".join(["```mermaid", "stateDiagram-v2", f"    [*] --> {first}", *arrows, *last, "```"])


def moves(name: str) -> str:
    """A machine's diagram, and the sentence that belongs to each of its moves."""
    rows = ((code(move.source), code(move.target), move.meaning) for move in MACHINES[name])
    return f"{diagram(MACHINES[name])}\n\n{table(('from', 'to', 'when'), rows)}"


def state_sets() -> str:
    def listed(states: Iterable[StrEnum]) -> str:
        return ", ".join(code(state) for state in states)

    return (
        f"- live, at most one attempt of a bead: {listed(LIVE)}\n"
        f"- given up but perhaps alive, so it may be adopted: {listed(ADOPTABLE)}\n"
        f"- resolutions that release the beads which wait: {listed(RELEASING)}"
    )


def failures() -> str:
    cost = {
        FailureClass.INFRA: "never counts against the bead",
        FailureClass.AGENT: f"counts; {Policy.max_agent_failures} and the bead fails",
        FailureClass.AUTH: "it is held, and a person is asked",
        FailureClass.RATE_LIMIT: "never counts; the preset rests for a while",
        FailureClass.CONFIG: "the bead fails at once",
        FailureClass.BUDGET: "it is held, and a person is asked",
    }
    rows = (
        (code(each), code(each.failure_class), cost[each.failure_class])
        for each in (*FailureCode, *StopCode)
        if each.failure_class
    )
    return table(("code", "class", "what it costs the bead"), rows)


def periods() -> str:
    rows = (
        (code(each["task"]), " ".join(map(code, each["args"])), f"{each['schedule']} s")
        for each in BEAT_SCHEDULE.values()
    )
    return table(("task", "argument", "every"), rows)


def settings() -> str:
    rows = [row for row in setting_rows(Settings, "", "GASTOWN_") if row[0] != "`policy`"]
    return table(("in gastown.toml", "variable", "default", "meaning"), rows)


def setting_rows(model: type[BaseModel], prefix: str, variable: str) -> Iterable[list[str]]:
    for name, field in model.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from setting_rows(inner, f"{prefix}{name}.", f"{variable}{name.upper()}__")
            continue
        given = field.get_default(call_default_factory=True)
        default = "" if given in (None, [], {}) else code(given)
        # the home is where the file is, so the file cannot say where it is
        in_file = "" if f"{prefix}{name}" == "home" else code(f"{prefix}{name}")
        yield [in_file, code(f"{variable}{name.upper()}"), default, field.description or ""]


def policy() -> str:
    comments = policy_comments()
    rows = []
    for each in fields(Policy):
        default: Any = each.default
        shown = ", ".join(f"{number:g}" for number in default) if isinstance(default, tuple) else f"{default:g}"
        least, most = LIMITS.get(each.name, ANY_WAIT)
        bounds = f"from {least:g}" if most == LONGEST_S else f"{least:g} to {most:g}"
        rows.append((code(each.name), shown, bounds, comments.get(each.name, "")))
    return table(("name", "default", "allowed", "why, or what"), rows)


def policy_comments() -> dict[str, str]:
    """What stands behind each number in the source."""
    line = re.compile(r"^    (\w+): [^#=\n]+ = [^#\n]+?  # (.+)$", re.MULTILINE)
    return dict(line.findall(inspect.getsource(Policy)))


def rules() -> str:
    rows = (
        (str(number), code(rule.__name__), subject(rule), verdicts(rule), meaning(rule))
        for number, rule in enumerate(RULES, 1)
    )
    return table(("", "rule", "module", "verdict", "what it is about"), rows)


def gates() -> str:
    rows = ((str(number), code(gate.__name__), verdicts(gate), meaning(gate)) for number, gate in enumerate(GATES, 1))
    return table(("", "gate", "verdict", "what it is about"), rows)


def meaning(function: Callable[..., Any]) -> str:
    return " ".join((function.__doc__ or "").split())


def subject(rule: Callable[..., Any]) -> str:
    return rule.__module__.rpartition(".")[2]


def verdicts(rule: Callable[..., Any]) -> str:
    """The verdicts that the function's source names, or that of the function of its module which it ends with."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(rule)))
    module = inspect.getmodule(rule)
    called = [node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]
    for name in called:
        inner = getattr(module, name, None)
        if inspect.isfunction(inner) and inner.__module__ == rule.__module__ and inner is not rule:
            tree.body += ast.parse(textwrap.dedent(inspect.getsource(inner))).body
    named = [
        (node.lineno, node.col_offset, node.attr.lower())
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "Verdict"
    ]
    return ", ".join(code(verdict) for verdict in dict.fromkeys(name for _, _, name in sorted(named)))


def layers() -> str:
    """The layers that import-linter holds, from the top, each room with the first paragraph of its docstring."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    order = next(each["layers"] for each in contracts if each["type"] == "layers")
    rows = [
        (str(number), code(name), what_it_says(name))
        for number, layer in enumerate(order, 1)
        for name in layer.split(" | ")
    ]
    return table(("", "room", "what is in it"), rows)


def what_it_says(name: str) -> str:
    place = ROOT / "gastown" / name
    source = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
    text = ast.get_docstring(ast.parse(source.read_text())) or ""
    return text.partition("\n\n")[0].replace("\n", " ")


PARTS: dict[str, Callable[[], str]] = {
    **{f"states-{name}": lambda name=name: moves(name) for name in MACHINES},  # type: ignore[misc]
    "state-sets": state_sets,
    "failures": failures,
    "periods": periods,
    "settings": settings,
    "policy": policy,
    "rules": rules,
    "gates": gates,
    "layers": layers,
}


def with_parts(text: str) -> str:
    """A page with its generated parts made anew. Raises KeyError for a part that nobody generates."""
    return PART.sub(lambda found: f"{found[1]}{PARTS[found['name']]()}\n{found[3]}", text)


def with_places(text: str) -> str:
    """A page whose named tests are said to be in the files in which they are now. One that is nowhere stays."""
    files: dict[str, list[str]] = {}
    for file in (ROOT / "tests").rglob("test_*.py"):
        for name in re.findall(r"^def (test_\w+)", file.read_text(), re.MULTILINE):
            files.setdefault(name, []).append(file.relative_to(ROOT).as_posix())

    def placed(found: re.Match[str]) -> str:
        there = files.get(found["test"], [])
        return f"{there[0]}::{found['test']}" if len(there) == 1 else found[0]

    return TEST.sub(placed, text)


def main() -> None:
    for page in sorted(DOCS.rglob("*.md")):
        text = page.read_text()
        anew = with_places(with_parts(text))
        if anew != text:
            page.write_text(anew)
            sys.stdout.write(f"{page.relative_to(ROOT)} is written anew\n")


if __name__ == "__main__":
    main()
