"""`gastown self` of a container, where there is nothing of Gastown but its supervisor, says what it says elsewhere."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command

from gastown.agent import speaking
from gastown.cli.own import own
from tests.agent.containers import COMMAND, ENVIRONMENT, Foreground
from tests.agent.town import Town

ROOT = Path(__file__).parents[2]
SCRIPT = """
gastown self status reading the code
gastown self cost 1.5 && gastown self tool begin 'a tool' && gastown self tool end 'a tool'
gastown self escalate stuck
echo the body > body; gastown self bead 'A title' -F body --after self --priority high --key k --json
printf approved | gastown self review changes --file -
gastown self show; gastown self limit later --for 60
gastown self status; echo "$?"; gastown self limit x --until noon 2>&1; echo "$?"
env -u GASTOWN_DISPATCH gastown self show 2>&1; echo "$?"
exit 1
"""


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """What an image has of Gastown."""
    package = tmp_path / "image" / "gastown"
    shutil.copytree(ROOT / "gastown" / "agent", package / "agent", ignore=shutil.ignore_patterns("__pycache__"))
    (package / "__init__.py").touch()
    return package.parent


def test_an_agent_speaks_from_a_container(town: Town, image: Path) -> None:
    attempt = town.sling(SCRIPT)
    attempt.answers["beads"] = (200, {"id": "gt-9", "created": True})
    attempt.answers["reviews"] = (200, {"counted": True, "message": "thank you"})
    bare = f"import sys; sys.path[:] = [p for p in sys.path if 'packages' not in p and p != {str(ROOT)!r}]; "
    run = f"sys.path.insert(0, {str(image)!r}); sys.argv.append('--foreground'); import runpy; "
    command = (COMMAND[0], "-I", "-S", "-c", bare + run + "runpy.run_module('gastown.agent', run_name='__main__')")
    with Foreground(town, attempt, command=command) as supervisor:
        code, said = supervisor.wait()
    assert code == 0, said
    output = attempt.output.decode()
    assert str(image) in (supervisor.home / "bin" / "gastown").read_text()
    assert attempt.of("status") == [{"text": "reading the code"}], output
    assert attempt.of("escalate") == [{"text": "stuck"}]
    (filed,) = attempt.of("beads")
    assert (filed["title"], filed["body"], filed["after"], filed["key"]) == ("A title", "the body\n", ["gt-1"], "k")
    assert attempt.of("reviews") == [{"verdict": "changes", "comment": "approved"}]
    assert '{"id": "gt-9", "created": true}\nthank you\ngt-1, attempt 1, agent toast\n' in output
    assert output.count("\n2\n") == 3
    assert attempt.done is not None
    assert (attempt.done["code"], attempt.done["cost_usd"]) == ("rate_limited", 1.5)


def test_it_has_the_calls_and_options_of_the_command_line() -> None:
    usual = {
        name: {option for each in command.params for option in (*each.opts, *each.secondary_opts) if option[0] == "-"}
        for name, command in get_command(own).commands.items()  # type: ignore[attr-defined]
    }
    parser = speaking._parser()
    (top,) = parser._subparsers._group_actions  # type: ignore[union-attr]
    (calls,) = top.choices["self"]._subparsers._group_actions  # type: ignore[index, union-attr]
    here = {
        name: {option for each in call._actions for option in each.option_strings} - {"-h", "--help"}
        for name, call in calls.choices.items()  # type: ignore[union-attr]
    }
    assert here == {name: options - {"--help"} for name, options in usual.items()}


def test_outside_of_an_attempt_it_says_so() -> None:
    run = [sys.executable, "-c", "from gastown.agent.speaking import main; main()", "self", "show", "--json"]
    done = subprocess.run(run, env=ENVIRONMENT, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "this is no attempt" in done.stderr
    marks = {"GASTOWN_BEAD": "gt-1", "GASTOWN_EPOCH": "2", "GASTOWN_AGENT": "toast", "GASTOWN_DISPATCH": "x"}
    done = subprocess.run(run, env={**ENVIRONMENT, **marks}, capture_output=True, text=True, timeout=120, check=False)
    assert json.loads(done.stdout) == {"bead": "gt-1", "epoch": 2, "agent": "toast", "dispatch": "x"}
    run[-2:] = ["status", "x"]
    done = subprocess.run(run, env={**ENVIRONMENT, **marks}, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, "takes no calls" in done.stderr) == (4, True)
