"""gastown sling: new work, and what is no work."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import func, select

from gastown.db import transaction
from gastown.models import Bead, BeadDependency
from tests.builders import a_bead, a_rig, a_town
from tests.cli.conftest import Gastown


@pytest.fixture
def rig(gastown: Gastown, repository: Path) -> str:
    with transaction() as session:
        return a_rig(session, repository=str(repository)).name


def bead_count() -> int:
    with transaction() as session:
        return session.scalar(select(func.count()).select_from(Bead)) or 0


def test_work_gets_an_id_and_the_next_commands(gastown: Gastown, rig: str) -> None:
    said = gastown("sling", "Add a flag", "--body", "true", "--priority", "high", "--label", "cli")
    assert said.code == 0
    bead_id = said.out.split()[0]
    assert f"next: gastown logs -f {bead_id} or gastown why {bead_id}" in said.out
    (row,) = gastown("bead", "list", "--json").json
    assert (row["id"], row["title"], row["priority"], row["labels"]) == (bead_id, "Add a flag", "high", ["cli"])


def test_json(gastown: Gastown, rig: str) -> None:
    said = gastown("sling", "Add a flag", "--body", "true", "--json")
    assert said.json == {"id": said.json["id"], "rig": "rig", "agent": "shell", "title": "Add a flag"}


def test_a_body_from_a_file_and_from_a_pipe(
    gastown: Gastown, rig: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "script.sh").write_text("echo é\n")
    first = gastown("sling", "one", "-F", str(tmp_path / "script.sh"), "--json").json["id"]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"echo piped\n")))
    second = gastown("sling", "two", "-F", "-", "--json").json["id"]
    assert gastown("bead", "show", first, "--json").json["body"] == "echo é\n"
    assert gastown("bead", "show", second, "--json").json["body"] == "echo piped\n"


def test_it_may_wait_for_others(gastown: Gastown, rig: str) -> None:
    first = gastown("sling", "one", "--body", "true", "--json").json["id"]
    second = gastown("sling", "two", "--body", "true", "--after", first, "--json").json["id"]
    with transaction() as session:
        edge = session.scalars(select(BeadDependency)).one()
    assert (edge.bead_id, edge.blocker_id) == (second, first)
    assert first in gastown("bead", "show", second).out
    assert second in gastown("bead", "show", first).out


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["x", "--body", "true", "--rig", "none"], 3, "there is no rig none"),
        (["x", "--body", "true", "--after", "gt-none"], 3, "there is no bead gt-none"),
        (["x", "--body", "true", "--agent", "none"], 3, "there is no agent preset none"),
        (["x", "--body", "true", "--agent", "../x"], 2, "'../x' is not a preset's name"),
        (["x", "--body", "true", "--priority", "urgent"], 2, "there is no priority urgent"),
        (["x"], 2, "runs a bead's body as a script, and 'x' has none"),
        (["  ", "--body", "true"], 2, "a bead needs a title"),
        (["x" * 501, "--body", "true"], 2, "the title has 501 characters"),
        (["x", "--body", "a", "-F", "b"], 2, "two bodies"),
        (["x", "-F", "{tmp}/none"], 3, "there is no file {tmp}/none"),
        (["x", "-F", "{tmp}"], 2, "cannot be read: Is a directory"),
        (["x", "-F", "{tmp}/binary"], 2, "is not text: byte 0 is not UTF-8"),
        (["x", "-F", "{tmp}/nul"], 2, "it has a NUL at 1"),
        (["x", "-F", "/dev/zero"], 2, "larger than"),
        (["x", "--body", "\udcff"], 2, "not valid UTF-8"),
        (["\udcff", "--body", "true"], 2, "not valid UTF-8"),
        ([], 2, "missing argument"),
    ],
)
def test_bad_input_is_one_clear_line_and_makes_nothing(
    gastown: Gastown, rig: str, tmp_path: Path, arguments: list[str], code: int, words: str
) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "nul").write_bytes(b"a\x00b")
    said = gastown("sling", *(each.format(tmp=tmp_path) for each in arguments))
    assert said.code == code, said.err
    assert words.format(tmp=tmp_path) in said.err.splitlines()[0]
    assert len(said.err.splitlines()) == 2
    assert bead_count() == 0


def test_the_rig_is_that_of_the_directory(
    gastown: Gastown, repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with transaction() as session:
        a_rig(session, name="here", repository=str(repository))
        a_rig(session, name="far", repository="https://localhost/far.git")
    monkeypatch.chdir(repository / "docs")
    assert gastown("sling", "x", "--body", "true", "--json").json["rig"] == "here"
    monkeypatch.chdir(tmp_path)
    said = gastown("sling", "x", "--body", "true")
    assert said.code == 2
    assert "this directory is in none of the rigs: far, here\nnext: --rig far" in said.err


def test_without_a_rig(gastown: Gastown) -> None:
    said = gastown("sling", "x", "--body", "true")
    assert said.code == 2
    assert "there is no rig yet\nnext: gastown rig add PATH --gate CMD" in said.err


def test_shell_is_never_the_agent_by_itself(gastown: Gastown, own_home: Path) -> None:
    with transaction() as session:
        a_rig(session, agent=None)
    said = gastown("sling", "x", "--body", "true")
    assert said.code == 2
    assert "no coding agent is installed" in said.err
    (own_home / "presets").mkdir(parents=True)
    for name in ("one", "two"):
        (own_home / "presets" / f"{name}.toml").write_text('argv = ["sh", "{prompt_file}"]')
    said = gastown("sling", "x")
    assert "several agents are installed: one, two\nnext: --agent one" in said.err
    (own_home / "presets" / "two.toml").unlink()
    assert gastown("sling", "x", "--json").json["agent"] == "one"


@pytest.mark.parametrize(
    "title",
    [
        "'; DROP TABLE beads; --",
        "<script>alert(1)</script>",
        "[bold]x[/bold] [/]",
        "two\nlines",
        "\x1b[2Jx\x07",
        "é" * 500,
    ],
)
def test_titles_are_shown_as_text(gastown: Gastown, rig: str, title: str) -> None:
    said = gastown("sling", title, "--body", "true")
    bead_id = said.out.split()[0]
    for command in (("bead", "list"), ("bead", "show", bead_id), ("why", bead_id), ("why", "--all"), ("events",)):
        shown = gastown(*command)
        assert shown.code == 0
        assert "\x1b" not in shown.out
    assert gastown("bead", "show", bead_id, "--json").json["bead"]["title"] == title


def test_a_broker_that_is_away_costs_nothing_but_a_note(rig: str) -> None:
    argv = [sys.executable, "-P", "-m", "gastown.cli", "sling", "x", "--body", "true", "--json"]
    environment = os.environ | {"GASTOWN_BROKER_URL": "redis://127.0.0.1:1/0"}
    said = subprocess.run(argv, capture_output=True, text=True, env=environment, timeout=120)
    assert said.returncode == 0
    assert json.loads(said.stdout)["rig"] == "rig"
    assert said.stderr == "note: the broker is away, so the next tick picks this up (gastown status)\n"
    assert bead_count() == 1


def test_a_database_that_is_away(gastown: Gastown, own_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from gastown import db, settings

    monkeypatch.setenv("GASTOWN_DATABASE_URL", "postgresql://nobody@127.0.0.1:1/none")
    settings.get_settings.cache_clear()
    db._engine_of.cache_clear()
    for command in (["sling", "x"], ["bead", "list"], ["why", "gt-x"], ["logs", "gt-x"], ["events"], ["rig", "list"]):
        said = gastown(*command)
        assert said.code == 4
        assert said.err.startswith("gastown: Postgres cannot be reached")
        assert len(said.err.splitlines()) == 2
    monkeypatch.delenv("GASTOWN_DATABASE_URL")
    settings.get_settings.cache_clear()
    db._engine_of.cache_clear()
    said = gastown("bead", "list")
    assert (said.code, said.err) == (4, f"gastown: the stack of {own_home} is not up\nnext: gastown up\n")


def test_a_database_without_the_schema(gastown: Gastown, postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from gastown import db, settings

    monkeypatch.setenv("GASTOWN_DATABASE_URL", postgres_url)
    settings.get_settings.cache_clear()
    db._engine_of.cache_clear()
    said = gastown("bead", "list")
    db.engine().dispose()
    assert said.code == 4
    assert "next: gastown db upgrade" in said.err


def test_a_bead_of_another_town_is_not_there(gastown: Gastown, rig: str) -> None:
    with transaction() as session:
        other = a_town(session, name="other")
        bead_id = a_bead(session, a_rig(session, name="theirs", town_id=other.id)).id
    assert gastown("bead", "show", bead_id).code == 3
    assert gastown("bead", "cancel", bead_id).code == 3
    assert gastown("bead", "dispatch", bead_id).code == 3
