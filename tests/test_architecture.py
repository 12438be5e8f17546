"""Our own laws (STYLE) as lint. Each exception is named here, with its reason, and the lists may only shrink."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic import command
from sqlalchemy import create_engine

from gastown import errors, migrations, states
from gastown.beat_schedule import BEAT_SCHEDULE
from gastown.celery_app import app
from gastown.reconcile.rules import RULES
from gastown.reconcile.town import GATES
from gastown.states import MACHINES, FailureCode, StopCode, Verdict, is_legal

ROOT = Path(__file__).parent.parent
GASTOWN = ROOT / "gastown"
LONGEST_FILE, LONGEST_FUNCTION = 400, 60  # lines; 300 and 50 are usual
LONG_FILES = {
    "gastown/models.py": "the schema is one file",
    "gastown/migrations/versions/0001_first_schema.py": "generated, and never edited again",
}
# Who may look at the wall clock. Nothing that decides: that takes the time from the database (L11).
WALL_CLOCK = {
    "gastown/agent/heartbeat.py": "compares with the times of files",
    "gastown/agent/locks.py": "compares with the times of files",
    "gastown/agent/upkeep.py": "compares with the times of files",
    "gastown/tasks/housekeeping.py": "compares with the times of files",
    "gastown/embedded/health.py": "compares with the times of files",
    "gastown/runtimes/docker_gates.py": "compares with what it wrote on a container, whose worker may be gone",
    "gastown/embedded/prepare.py": "names a dump",
    "gastown/embedded/status.py": "a file that is there without a database",
    "gastown/cli/": "what a person is shown",
    "gastown/demo/": "what a person is shown",
}
CLOCKS = {("datetime", "now"), ("datetime", "utcnow"), ("datetime", "today"), ("date", "today"), ("time", "time")}


def sources() -> list[Path]:
    return sorted(path for path in GASTOWN.rglob("*.py") if "__pycache__" not in path.parts)


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def nodes(path: Path) -> Iterator[ast.AST]:
    return ast.walk(ast.parse(path.read_text(), str(path)))


def line(path: Path, node: ast.AST) -> str:
    return f"{name_of(path)}:{getattr(node, 'lineno', 0)}"


def test_imports_go_down() -> None:
    linter = Path(sys.executable).parent / "lint-imports"
    done = subprocess.run([linter, "--no-cache"], cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stdout


def test_only_move_writes_a_status() -> None:
    """L2: every change of a status is one compare-and-set, in one place."""
    found = []
    for path in sources():
        if name_of(path) == "gastown/store/moves.py" or "migrations" in path.parts:
            continue
        for node in nodes(path):
            called = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "values"
            if called and any(keyword.arg == "status" for keyword in node.keywords):  # type: ignore[attr-defined]
                found.append(line(path, node))
            targets = node.targets if isinstance(node, ast.Assign) else []
            if any(isinstance(each, ast.Attribute) and each.attr == "status" for each in targets):
                found.append(line(path, node))
            said = node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""
            if re.search(r"\bSET\s+(\w+ = .*, )?status\b", said):
                found.append(line(path, node))
    assert found == []


def test_one_clock() -> None:
    used = {}
    for path in sources():
        for node in nodes(path):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            owner = getattr(node.func.value, "attr", getattr(node.func.value, "id", ""))
            if (owner, node.func.attr) in CLOCKS:
                used[line(path, node)] = name_of(path)
    strangers = {where for where, name in used.items() if not name.startswith(tuple(WALL_CLOCK))}
    assert strangers == set()
    assert [each for each in WALL_CLOCK if not any(name.startswith(each) for name in used.values())] == []


def test_one_clock_in_sql() -> None:
    other = re.compile(
        r"clock_timestamp|statement_timestamp|transaction_timestamp|timeofday|current_timestamp|localtimestamp"
        r"|current_date|(?<![\w.])now\(\)|func\.now\b",
        re.IGNORECASE,
    )
    found = [
        f"{name_of(path)}:{number}"
        for path in sources()
        for number, text in enumerate(path.read_text().splitlines(), 1)
        if other.search(text) and "gastown.now" not in text  # the one clock itself, in its migration
    ]
    assert found == []


def test_celery_never_retries() -> None:
    """L9: one retry brain."""
    forbidden = {"countdown", "eta", "autoretry_for", "retry_backoff", "link_error"}
    found = []
    for path in sources():
        for node in nodes(path):
            if isinstance(node, ast.Call):
                found += [line(path, node) for keyword in node.keywords if keyword.arg in forbidden]
                attribute = node.func.attr if isinstance(node.func, ast.Attribute) else ""
                owner = getattr(getattr(node.func, "value", None), "id", "")
                found += [line(path, node)] if attribute == "retry" and owner in ("self", "task") else []
            if isinstance(node, ast.ImportFrom) and node.module == "celery":
                canvas = {"chain", "group", "chord", "signature", "chunks"}
                found += [line(path, node) for alias in node.names if alias.name in canvas]
    assert found == []
    assert app.conf.result_backend is None
    for task in [task for name, task in app.tasks.items() if name.startswith("gastown.")]:
        assert task.max_retries == 0, task.name


def test_what_beat_asks_for_is_there() -> None:
    app.loader.import_default_modules()
    ours = {name for name in app.tasks if name.startswith("gastown.")}
    asked = {entry["task"] for entry in BEAT_SCHEDULE.values()}
    assert asked <= ours
    for name, entry in BEAT_SCHEDULE.items():
        assert entry["options"]["expires"] == entry["schedule"], f"{name}: a backlog would ask the same again"
    assert ours >= {
        "gastown.reconcile",
        "gastown.resync",
        "gastown.dispatch",
        "gastown.start_container",
        "gastown.stop_container",
        "gastown.inspect_containers",
        "gastown.merge",
        "gastown.housekeeping",
    }  # people call them by these names


def test_the_drawn_tree_of_errors_is_the_classes() -> None:
    drawn: dict[str, str] = {}
    above: list[str] = []
    for text in (errors.__doc__ or "").splitlines():
        if found := re.match(r"^([│├└─ ]*)(\w+)", text.split("  ")[0] if text.startswith("G") else text):
            depth, name = len(found[1]) // 4, found[2]
            if hasattr(errors, name):
                above[depth:] = [name]
                drawn[name] = above[depth - 1] if depth else "Exception"
    classes = {
        name: each.__base__.__name__
        for name, each in vars(errors).items()
        if isinstance(each, type) and each.__module__ == errors.__name__ and each.__base__ is not None
    }
    assert drawn == classes


def test_every_state_is_reached_and_drawn_once() -> None:
    first = {
        "bead": states.BeadStatus.OPEN,
        "agent": states.AgentStatus.IDLE,
        "dispatch": states.DispatchStatus.QUEUED,
        "merge_request": states.MergeStatus.OPEN,
        "convoy": states.ConvoyStatus.STAGED,
    }
    assert first.keys() == MACHINES.keys()
    for machine, moves in MACHINES.items():
        reached = {first[machine]}
        while more := {move.target for move in moves if move.source in reached} - reached:
            reached |= more  # type: ignore[arg-type]
        assert reached == set(type(first[machine])), machine
        pairs = [(move.source, move.target) for move in moves]
        assert len(pairs) == len(set(pairs))
        assert all(move.meaning and move.source is not move.target for move in moves)


def test_terminal_states_are_left_by_nobody_but_people() -> None:
    """L12, and its one exception: an attempt that was given up may be adopted."""
    ended = {states.DispatchStatus.SUCCEEDED, states.DispatchStatus.FAILED, states.DispatchStatus.STOPPED}
    assert not [move for move in MACHINES["dispatch"] if move.source in ended]
    back = [move for move in MACHINES["dispatch"] if move.target in states.LIVE and move.source not in states.LIVE]
    assert {move.source for move in back} == set(states.ADOPTABLE)
    assert not is_legal(states.MergeStatus.PUSHING, states.MergeStatus.FAILED)  # it may have arrived


def test_a_move_of_one_machine_is_no_move_of_another() -> None:
    """Their states have the same names, and equal names are equal values."""
    assert is_legal(states.MergeStatus.IN_PROGRESS, states.MergeStatus.OPEN)
    assert not is_legal(states.BeadStatus.IN_PROGRESS, states.BeadStatus.OPEN)
    assert not is_legal(states.BeadStatus.IN_PROGRESS, states.MergeStatus.OPEN)


def test_every_verdict_is_said_by_a_rule_or_a_gate() -> None:
    def said_in(*paths: Path) -> set[str]:
        named = [node for path in paths for node in nodes(path) if isinstance(node, ast.Attribute)]
        return {each.attr for each in named if getattr(each.value, "id", "") == "Verdict"}

    by_rules = said_in(*(GASTOWN / "reconcile" / "rules").glob("*.py"))
    by_gates = said_in(GASTOWN / "reconcile" / "town.py")
    assert by_rules | by_gates == {verdict.name for verdict in Verdict}
    assert by_rules & by_gates == {"READY"}  # what a rule calls ready, the gates explain
    assert len(RULES) > 30
    assert len(GATES) > 8


def test_every_failure_has_a_class() -> None:
    """And each class has a failure that falls into it."""
    codes = [*FailureCode, *StopCode]
    assert {code.failure_class for code in codes} - {None} == set(states.FailureClass)
    assert all(code.failure_class for code in FailureCode)
    by_people = {StopCode.CANCELED, StopCode.DRAINED, StopCode.HELD}
    assert {code for code in StopCode if code.failure_class is None} == by_people  # these cost a bead nothing


def test_files_stay_short() -> None:
    long = {name_of(path) for path in sources() if len(path.read_text().splitlines()) > LONGEST_FILE}
    assert long - LONG_FILES.keys() == set()
    assert LONG_FILES.keys() - long == set(), "it is short now: take it off the list"


def test_functions_stay_short() -> None:
    long = [
        f"{line(path, node)} {node.name}"
        for path in sources()
        if "versions" not in path.parts
        for node in nodes(path)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (node.end_lineno or 0) - node.lineno + 1 > LONGEST_FUNCTION
    ]
    assert long == []


@pytest.mark.parametrize("word", ["Manager", "Handler", "Helper", "Util"])
def test_names_that_say_nothing(word: str) -> None:
    found = [
        line(path, node)
        for path in sources()
        for node in nodes(path)
        if isinstance(node, ast.ClassDef) and word in node.name
    ]
    assert found == []
    assert not [path for path in sources() if path.stem in {"utils", "helpers", "common", "core", "managers", "misc"}]


def test_the_models_are_what_the_migrations_make(database: str) -> None:
    """`alembic check`."""
    engine = create_engine(database)
    with engine.connect() as connection:
        config = migrations._config()
        config.attributes["connection"] = connection
        command.check(config)
    engine.dispose()
