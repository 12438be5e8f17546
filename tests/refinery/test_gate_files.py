"""What may be said about gates, and what is refused, in one clear line."""

import pytest

from gastown.commands.gate_files import check_gates, gates_of, read_gates
from gastown.errors import UsageError
from gastown.gates import NAME_CHARS, Gate, in_order, of_rig, shown, stored

FILE = """
[[gate]]
command = "ruff check ."

[[gate]]
name = "unit"
command = "make test"
timeout_s = 600
retries = 2
environment = { CI = "1" }
cwd = "./server/"
"""


def test_a_file_of_gates() -> None:
    lint, unit = read_gates(FILE, "gates.toml")
    assert lint == Gate(name="ruff check .", command="ruff check .")
    assert unit == Gate(
        name="unit", command="make test", timeout_s=600, retries=2, environment={"CI": "1"}, cwd="server"
    )
    assert of_rig(stored([lint, unit])) == (lint, unit)
    assert (lint.title, unit.title) == ("`ruff check .`", "unit (`make test`)")
    assert shown(unit)["environment"] == ["CI"]


def test_commands_come_after_the_file() -> None:
    assert [gate.name for gate in gates_of("gates.toml", FILE, ["true"])] == ["ruff check .", "unit", "true"]


def test_rows_of_before_and_of_later() -> None:
    assert of_rig(["make", {"name": "x", "command": "y", "colour": "red"}]) == (
        Gate(name="make", command="make"),
        Gate(name="x", command="y"),
    )


def test_long_commands_have_short_names_of_their_own() -> None:
    first, second = in_order(["x" * 100 + "1", "x" * 100 + "2"])
    assert (len(first.name), second.name) == (NAME_CHARS, f"{first.name} #2")
    assert second.title == "`" + second.command + "`"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "g.toml: it has no [[gate]]"),
        ("gate = 1", "g.toml: gate: input should be a valid list"),
        ("x = [", "g.toml is not TOML"),
        ("[[gates]]\ncommand = 'x'", "there is no key gates (did you mean gate?)"),
        ("[[gate]]\nname = 'x'", "line 1: gate 1: it has no command"),
        (
            "[[gate]]\ncommand = 'x'\n[[gate]]\ncommand = 'x'\ntimeout = 1",
            "line 3: gate 2: there is no key timeout (did",
        ),
        ("[[gate]]\ncommand = ''", "gate 1 has an empty command"),
        ("[[gate]]\ncommand = '  '\nname = 'x'", "gate 1 has an empty command"),
        ("[[gate]]\ncommand = 'x'\ntimeout_s = 0", "timeout_s: input should be greater than 0"),
        ("[[gate]]\ncommand = 'x'\ntimeout_s = -1", "timeout_s: input should be greater than 0"),
        ("[[gate]]\ncommand = 'x'\ntimeout_s = nan", "timeout_s: input should be"),
        ("[[gate]]\ncommand = 'x'\ntimeout_s = inf", "timeout_s: input should be"),
        ("[[gate]]\ncommand = 'x'\ntimeout_s = '5'", "timeout_s: input should be a valid number"),
        ("[[gate]]\ncommand = 'x'\nretries = 11", "retries: input should be less than or equal to 10"),
        ("[[gate]]\ncommand = 'x'\nretries = -1", "retries: input should be greater than or equal to 0"),
        ("[[gate]]\ncommand = 'x'\nretries = 1.5", "retries: input should be a valid integer"),
        ("[[gate]]\ncommand = 'x'\ncwd = '..'", "cwd '..' is not inside the repository"),
        ("[[gate]]\ncommand = 'x'\ncwd = 'a/../../b'", "cwd '../b' is not inside the repository"),
        ("[[gate]]\ncommand = 'x'\ncwd = '/etc'", "cwd '/etc' is not inside the repository"),
        ("[[gate]]\ncommand = 'x'\nname = ''", "gate 1: its name has to be one line"),
        (
            "[[gate]]\ncommand = 'x'\nname = \"a\\nb\"",
            "its name has to be one line",
        ),
        ("[[gate]]\ncommand = 'x'\nname = 'n'\n[[gate]]\ncommand = 'y'\nname = 'n'", "two gates have the name n"),
        ("[[gate]]\ncommand = 'x'\nname = 'n'\n[[gate]]\ncommand = 'x'\nname = 'm'", "gates n and m run the same"),
        ("[[gate]]\ncommand = 'x'\nenvironment = { 'A B' = '1' }", "'A B' cannot be the name of a variable"),
        ("[[gate]]\ncommand = 'x'\nenvironment = { GASTOWN_CACHE = '1' }", "cannot be the name of a variable"),
        ("[[gate]]\ncommand = 'x'\nenvironment = { A = 1 }", "environment.A: input should be a valid string"),
        ("[[gate]]\ncommand = 'x'\n" * 51, "gate: list should have at most 50 items"),
    ],
)
def test_refused(text: str, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        read_gates(text, "g.toml")
    assert words in str(caught.value)
    assert str(caught.value).startswith("g.toml")
    assert len(str(caught.value).splitlines()) == 1
    assert caught.value.hint


@pytest.mark.parametrize(
    ("commands", "words"),
    [
        (["true", " "], "--gate 2 has an empty command"),
        (["true", "true"], "gates true and true #2 run the same command"),
        (["\udcff"], "--gate: its command is not text"),
        ([f"echo {n}" for n in range(51)], "51 gates are more than a rig can have"),
    ],
)
def test_commands_refused(commands: list[str], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        gates_of(None, "", commands)


def test_check_gates_gives_them_back() -> None:
    assert check_gates(in_order(["true"])) == in_order(["true"])
