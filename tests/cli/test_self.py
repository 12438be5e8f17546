"""gastown self from a shell. What reaches the town is tested with a real supervisor in tests/agent."""

import json
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path

import pytest

from gastown import cli, settings
from gastown.agent.line import LINE_BYTES
from gastown.cli import own
from tests.cli.conftest import Said

CALLS = [
    ["status", "reading"],
    ["escalate", "help"],
    ["bead", "More", "--body", "true"],
    ["cost", "0.25"],
    ["tool", "begin", "tests"],
    ["limit", "429", "--for", "60"],
    ["limit", "429", "--until", "2030-01-31T12:00"],
    ["locked-out", "401"],
    ["review", "approve"],
    ["review", "changes", "--comment", "app.py:3: off by one"],
]
SLOW = ("sqlalchemy", "celery", "psycopg", "alembic", "fastapi", "httpx", "rich.console", "gastown.settings")


@pytest.fixture
def attempt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The environment of an attempt whose supervisor is gone; the path of its socket."""
    marks = {"DISPATCH": "0b1e", "BEAD": "gt-1", "EPOCH": "3", "AGENT": "toast", "SELF": str(tmp_path / "self")}
    for name, value in marks.items():
        monkeypatch.setenv(f"GASTOWN_{name}", value)
    return tmp_path / "self"


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> Said:
    capsys.readouterr()
    code = cli.run(["self", *arguments])
    out = capsys.readouterr()
    assert "Traceback" not in out.err + out.out
    return Said(code, out.out, out.err)


@pytest.mark.parametrize("call", [*CALLS, ["show"]])
def test_outside_an_attempt_it_says_so(capsys: pytest.CaptureFixture[str], call: list[str]) -> None:
    answer = said(capsys, *call)
    assert (answer.code, answer.out) == (2, "")
    assert answer.err == (
        "gastown: this is no attempt: `gastown self` is for agents that Gastown has started\n"
        'next: gastown sling "..." is for people\n'
    )


def test_show(capsys: pytest.CaptureFixture[str], attempt: Path) -> None:
    assert said(capsys, "show").out == "gt-1, attempt 3, agent toast\n"
    assert said(capsys, "show", "--json").json == {"bead": "gt-1", "epoch": 3, "agent": "toast", "dispatch": "0b1e"}


@pytest.mark.parametrize("call", CALLS)
def test_without_its_supervisor_nothing_is_said(
    capsys: pytest.CaptureFixture[str], attempt: Path, monkeypatch: pytest.MonkeyPatch, call: list[str]
) -> None:
    gone = said(capsys, *call)
    assert (gone.code, gone.out) == (4, "")
    assert "this attempt's supervisor does not answer" in gone.err
    assert "next: " in gone.err
    monkeypatch.delenv("GASTOWN_SELF")
    assert said(capsys, *call).code == 4


@pytest.mark.parametrize(
    ("call", "code", "words"),
    [
        (["bead", "x", "--body", "b", "-F", "f"], 2, "two bodies"),
        (["bead", "x", "-F", "nothing"], 3, "no file nothing"),
        (["bead", "x", "--body", "x" * (LINE_BYTES + 1)], 2, "too long"),
        (["bead"], 2, "missing argument"),
        (["status"], 2, "missing argument"),
        (["shout"], 2, "no such command"),
        (["cost"], 2, "missing argument"),
        (["cost", "much"], 2, "valid number"),
        (["tool", "pause", "x"], 2, "is not one of"),
        (["tool", "begin"], 2, "missing argument"),
        (["review"], 2, "missing argument"),
        (["review", "perhaps"], 2, "is not one of"),
        (["review", "changes", "--comment", "c", "-F", "f"], 2, "two comments"),
        (["limit"], 2, "missing argument"),
        (["limit", "x", "--until", "soon"], 2, "'soon' is no time"),
        (["limit", "x", "--until", "9" * 30], 2, "is no time"),
        (["limit", "x", "--for", "-1"], 2, "greater than or equal to 0"),
        (["limit", "x", "--until", "2030-01-31", "--for", "1"], 2, "two ends of one pause"),
    ],
)
def test_what_makes_no_sense(
    capsys: pytest.CaptureFixture[str], attempt: Path, call: list[str], code: int, words: str
) -> None:
    answer = said(capsys, *call)
    assert (answer.code, answer.out) == (code, "")
    assert words in answer.err


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("2030-01-31T12:00+02:00", "2030-01-31T10:00:00+00:00"),
        ("2030-01-31T12:00:00Z", "2030-01-31T12:00:00+00:00"),
        ("1893456000", "2030-01-01T00:00:00+00:00"),
        ("2030-01-31T12:00", "2030-01-31T15:00:00+00:00"),
    ],
)
def test_times_have_a_zone_or_that_of_the_machine(monkeypatch: pytest.MonkeyPatch, given: str, meant: str) -> None:
    monkeypatch.setenv("TZ", "UTC+3")  # POSIX counts westwards
    time.tzset()
    try:
        assert datetime.fromisoformat(own._time(given)) == datetime.fromisoformat(meant)
    finally:
        monkeypatch.delenv("TZ")
        time.tzset()


def test_the_marks_of_an_attempt_are_no_settings(attempt: Path) -> None:
    assert settings.load().town == "default"


def test_it_imports_nothing_that_is_slow(attempt: Path) -> None:
    """Agents call it often: 0.2 s, most of it Python and Typer."""
    script = f"import sys\nfrom gastown import cli\ncodes = [cli.run(['self', *call]) for call in {CALLS}]\n"
    script += "cli.run(['self', 'show'])\nimport json\njson.dump([codes, sorted(sys.modules)], sys.stderr)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=True)
    codes, modules = json.loads(done.stderr.splitlines()[-1])
    assert codes == [4] * len(CALLS)
    assert [each for each in SLOW if each in modules] == []
