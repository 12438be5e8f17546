"""gastown rig, pause, resume: what becomes a rig, and what does not."""

import os
import shutil
from pathlib import Path

import pytest
from sqlalchemy import func, select

from gastown.db import transaction
from gastown.gates import of_rig
from gastown.models import Event, Rig
from tests.cli.conftest import Gastown, git


def rigs() -> list[Rig]:
    with transaction() as session:
        return list(session.scalars(select(Rig)))


def commands(rig: Rig) -> list[str]:
    return [gate.command for gate in of_rig(rig.gates)]


def nothing_is_left(home: Path) -> bool:
    checks = home / "checks"
    return not rigs() and not (checks.is_dir() and list(checks.iterdir())) and not list(home.glob("mirrors/*"))


def test_a_checkout_becomes_a_rig(gastown: Gastown, repository: Path, own_home: Path) -> None:
    said = gastown(
        "rig", "add", str(repository / "docs"), "--gate", "./check.sh", "--setup", "true", "--agent", "shell"
    )
    assert said.code == 0, said.err
    assert f"rig project added: {repository} (main)" in said.out
    assert "./check.sh: passed" in said.out
    assert "next: gastown sling" in said.out
    assert "they can do what you can" in said.err
    (rig,) = rigs()
    assert (rig.repository, rig.branch, commands(rig), rig.agent) == (str(repository), "main", ["./check.sh"], "shell")
    assert (own_home / "mirrors" / f"{rig.id}.git").is_dir()
    assert list((own_home / "checks").iterdir()) == []
    assert git(repository, "status", "--porcelain") == ""


def test_the_environment_is_captured_without_secrets(
    gastown: Gastown, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROJECT_MODE", "strict")
    monkeypatch.setenv("SOME_API_KEY", "secret")
    monkeypatch.setenv("PACKAGE_INDEX", "https://secret@localhost/simple")
    monkeypatch.setenv("QUEUE", "redis://:secret@localhost/0")
    monkeypatch.setenv("MIRROR", "ssh://git@localhost/x")
    assert gastown("rig", "add", str(repository)).code == 0
    environment = rigs()[0].environment
    assert environment["PROJECT_MODE"] == "strict"
    assert not {"SOME_API_KEY", "PACKAGE_INDEX", "QUEUE"} & set(environment)
    assert environment["MIRROR"] == "ssh://git@localhost/x"
    assert "secret" not in gastown("rig", "show", "project", "--json").out


def test_no_gate_is_a_warning(gastown: Gastown, repository: Path) -> None:
    said = gastown("rig", "add", str(repository))
    assert said.code == 0
    assert "warning: no gate" in said.err


def test_changes_in_the_checkout_are_a_warning(gastown: Gastown, repository: Path) -> None:
    (repository / "docs" / "text").write_text("changed\n")
    assert "warning: changes in your checkout (docs/text)" in gastown("rig", "add", str(repository)).err


def test_a_red_base_is_refused_with_its_output(gastown: Gastown, repository: Path, own_home: Path) -> None:
    said = gastown("rig", "add", str(repository), "--gate", "echo it broke; exit 3")
    assert said.code == 1
    assert "  | it broke" in said.err
    assert "red before any work: gate `echo it broke; exit 3` failed with exit code 3" in said.err
    assert "--allow-red" in said.err
    assert nothing_is_left(own_home)


def test_a_red_base_may_be_allowed(gastown: Gastown, repository: Path) -> None:
    said = gastown("rig", "add", str(repository), "--gate", "false", "--allow-red")
    assert said.code == 0
    assert "RED, allowed" in said.out


def test_a_gate_program_that_is_missing_is_told_apart(gastown: Gastown, repository: Path, own_home: Path) -> None:
    said = gastown("rig", "add", str(repository), "--gate", "no-such-gate-program")
    assert said.code == 1
    assert "is not found or not executable" in said.err
    assert "install what it needs, or correct the command: --gate CMD" in said.err
    assert nothing_is_left(own_home)


def test_a_setup_that_fails_is_named(gastown: Gastown, repository: Path, own_home: Path) -> None:
    said = gastown("rig", "add", str(repository), "--setup", "exit 4", "--gate", "true")
    assert said.code == 1
    assert "setup `exit 4` failed with exit code 4" in said.err
    assert nothing_is_left(own_home)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["{tmp}/nowhere"], 2, "there is no directory {tmp}/nowhere"),
        (["{tmp}"], 2, "{tmp} is not a git repository"),
        (["{tmp}/empty"], 2, "{tmp}/empty is empty: it has no branch with a commit"),
        (["{repository}", "--branch", "none"], 3, "there is no branch none in {repository}"),
        (["{repository}", "--agent", "none"], 3, "there is no agent preset none"),
        (["{repository}", "--agent", "ghost"], 2, "runs no-such-agent, which is not on the PATH"),
        (["{repository}", "--name", "a b"], 2, "'a b' cannot be a rig's name"),
        (["{repository}", "--merge", "pr"], 2, "gastown opens no pull requests yet"),
        (["{repository}", "--merge", "push"], 2, "nothing is merged 'push'"),
        (["https://me:secret@localhost/x.git"], 2, "the URL holds a password"),
        (["http://secret@localhost/x.git"], 2, "the URL holds a password, a token or a user"),
        (["HTTPS://secret:@localhost/x.git"], 2, "the URL holds a password, a token or a user"),
        (["ssh://me:secret@localhost/x.git"], 2, "the URL holds a password"),
        (["ssh://git@127.0.0.1:1/x.git"], 4, "ssh://git@127.0.0.1:1/x.git gives no answer"),
    ],
)
def test_bad_input_is_one_clear_line_and_leaves_nothing(
    gastown: Gastown,
    repository: Path,
    own_home: Path,
    tmp_path: Path,
    arguments: list[str],
    code: int,
    words: str,
) -> None:
    (own_home / "presets").mkdir(parents=True)
    (own_home / "presets" / "ghost.toml").write_text('argv = ["no-such-agent", "{prompt}"]')
    (tmp_path / "empty").mkdir()
    git(tmp_path / "empty", "init", "--quiet")
    said = gastown("rig", "add", *(each.format(tmp=tmp_path, repository=repository) for each in arguments))
    assert said.code == code
    assert words.format(tmp=tmp_path, repository=repository) in said.err.splitlines()[0]
    assert "secret" not in said.err
    assert len(said.err.splitlines()) == 2
    assert nothing_is_left(own_home)


def test_the_same_repository_is_a_rig_once(gastown: Gastown, repository: Path) -> None:
    assert gastown("rig", "add", str(repository)).code == 0
    said = gastown("rig", "add", f"{repository}/docs/", "--name", "other")
    assert said.code == 1
    assert f"{repository} (main) is a rig already: project" in said.err
    git(repository, "branch", "release")
    assert gastown("rig", "add", str(repository), "--branch", "release", "--name", "other").code == 0


def test_a_name_is_taken_once(gastown: Gastown, repository: Path, tmp_path: Path) -> None:
    assert gastown("rig", "add", str(repository)).code == 0
    copy = tmp_path / "elsewhere" / "project"
    shutil.copytree(repository, copy)
    said = gastown("rig", "add", str(copy))
    assert said.code == 1
    assert "there is a rig project already" in said.err
    assert "--name OTHER" in said.err


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_home_that_cannot_be_written(gastown: Gastown, repository: Path, own_home: Path) -> None:
    own_home.mkdir(mode=0o500)
    said = gastown("rig", "add", str(repository))
    assert said.code == 2
    assert "cannot be written" in said.err
    assert rigs() == []


def test_a_home_that_is_a_file(gastown: Gastown, repository: Path, own_home: Path) -> None:
    own_home.write_text("")
    said = gastown("rig", "add", str(repository))
    assert said.code == 2
    assert "GASTOWN_HOME=" in said.err
    assert rigs() == []


def test_a_preset_of_ones_own_is_the_agent_when_it_is_the_only_one(
    gastown: Gastown, repository: Path, own_home: Path
) -> None:
    (own_home / "presets").mkdir(parents=True)
    (own_home / "presets" / "mine.toml").write_text('argv = ["sh", "-c", "true", "{prompt_file}"]')
    assert "agent  mine" in gastown("rig", "add", str(repository)).out


def test_list_and_show(gastown: Gastown, repository: Path) -> None:
    assert "no rigs yet" in gastown("rig", "list").out
    assert gastown("rig", "list", "--json").json == []
    gastown("rig", "add", str(repository), "--gate", "true")
    assert str(repository) in gastown("rig", "list").out
    (row,) = gastown("rig", "list", "--json").json
    assert {"name", "repository", "branch", "agent", "setup", "gates", "paused_at", "open_beads"} <= row.keys()
    assert row == gastown("rig", "show", "project", "--json").json
    assert "gate        true" in gastown("rig", "show", "project").out
    said = gastown("rig", "show", "other")
    assert said.code == 3
    assert "there is no rig other\nnext: known rigs: project" in said.err


def test_pause_and_resume(gastown: Gastown, repository: Path) -> None:
    gastown("rig", "add", str(repository))
    assert "next: gastown resume --rig project" in gastown("rig", "pause", "project").out
    assert rigs()[0].paused_at is not None
    assert "(paused)" in gastown("rig", "list").out
    assert gastown("resume", "--rig", "project").code == 0
    assert rigs()[0].paused_at is None
    assert "the town is paused" in gastown("pause").out
    assert "the town goes on" in gastown("resume").out
    assert gastown("pause", "--rig", "none").code == 3


def test_a_rig_is_changed_after_a_check(gastown: Gastown, repository: Path) -> None:
    gastown("rig", "add", str(repository), "--gate", "true")
    assert gastown("rig", "set", "project", "--gate", "false").code == 1
    assert commands(rigs()[0]) == ["true"]
    assert "gates changed" in gastown("rig", "set", "project", "--gate", "./check.sh", "--gate", "true").out
    assert commands(rigs()[0]) == ["./check.sh", "true"]
    assert "nothing to change" in gastown("rig", "set", "project", "--gate", "./check.sh", "--gate", "true").out
    assert gastown("rig", "set", "project", "--no-gates", "--agent", "shell").code == 0
    assert (commands(rigs()[0]), rigs()[0].agent) == ([], "shell")
    assert gastown("rig", "set", "project", "--no-gates", "--gate", "x").code == 2
    with transaction() as session:
        assert session.scalar(select(func.count()).where(Event.kind == "rig_changed")) == 2


GATES = """
[[gate]]
name = "unit"
command = "./check.sh"
timeout_s = 90
retries = 1
environment = { TOKEN_OF_CI = "hidden-value" }

[[gate]]
name = "docs"
command = "test -f text"
cwd = "docs"
"""


def test_gates_from_a_file(gastown: Gastown, repository: Path, tmp_path: Path) -> None:
    file = tmp_path / "gates.toml"
    file.write_text(GATES)
    said = gastown("rig", "add", str(repository), "--gates-file", str(file), "--gate", "true", "--json")
    assert [gate["name"] for gate in said.json["gates"]] == ["unit", "docs", "true"]
    shown = gastown("rig", "show", "project")
    assert "gate        unit: ./check.sh (with TOKEN_OF_CI, at most 1 min 30 s, up to 2 tries)" in shown.out
    assert "gate        docs: test -f text (in docs)" in shown.out
    row = gastown("rig", "show", "project", "--json")
    assert row.json["gates"][0]["environment"] == ["TOKEN_OF_CI"]
    assert "hidden-value" not in said.out + shown.out + row.out
    file.write_text(GATES.replace("-f text", "-f none"))
    said = gastown("rig", "set", "project", "--gates-file", str(file))
    assert said.code == 1
    assert "red before any work: gate docs (`test -f none`) failed with exit code 1" in said.err
    assert len(commands(rigs()[0])) == 3
    assert gastown("rig", "set", "project", "--no-gates", "--gates-file", str(file)).code == 2


@pytest.mark.parametrize(
    ("text", "code", "words"),
    [
        (GATES + GATES, 2, "gates.toml: two gates have the name unit"),
        ("[[gate]]\ncommand = ''", 2, "gates.toml: gate 1 has an empty command"),
        ("[[gate]]\ncommand = 'x'\ntimeout_s = 0", 2, "gates.toml: line 1: gate 1: timeout_s: input should be greater"),
        ("[[gate]]\ncommand = 'x'\ncwd = '../x'", 2, "cwd '../x' is not inside the repository"),
        ("[[gate]]\ncommand = 'x'\nretry = 1", 2, "there is no key retry (did you mean retries?)"),
        (None, 3, "there is no file"),
    ],
)
def test_bad_gates_are_refused_and_leave_nothing(
    gastown: Gastown, repository: Path, own_home: Path, tmp_path: Path, text: str | None, code: int, words: str
) -> None:
    if text is not None:
        (tmp_path / "gates.toml").write_text(text)
    said = gastown("rig", "add", str(repository), "--gates-file", str(tmp_path / "gates.toml"))
    assert said.code == code
    assert words in said.err.splitlines()[0]
    assert len(said.err.splitlines()) == 2
    assert nothing_is_left(own_home)
    assert gastown("rig", "add", str(repository), "--gate", "").code == 2


def test_how_a_rig_merges(gastown: Gastown, repository: Path) -> None:
    assert gastown("rig", "add", str(repository), "--merge-method", "rebase").code == 0
    assert "merges      rebase" in gastown("rig", "show", "project").out
    said = gastown("rig", "set", "project", "--merge-method", "squash", "--author", "Zoë L. <zoe@example.com>")
    assert "rig project: merge_method, author changed" in said.out
    assert (rigs()[0].merge_method, rigs()[0].author) == ("squash", "Zoë L. <zoe@example.com>")
    assert "merges      squash, with Zoë L. <zoe@example.com> as author" in gastown("rig", "show", "project").out
    assert "author changed" in gastown("rig", "set", "project", "--author", "").out
    assert (rigs()[0].merge_method, rigs()[0].author) == ("squash", None)
    said = gastown("rig", "add", str(repository), "--merge-method", "octopus", "--name", "other")
    assert (said.code, "octopus" in said.err, "rebase" in said.err) == (2, True, True)
    said = gastown("rig", "add", str(repository), "--merge-method", "merge", "--author", "A <a@b>")
    assert "next: gastown rig set project --merge-method merge --author 'A <a@b>'" in said.err


def test_a_rig_whose_merges_people_make(gastown: Gastown, repository: Path) -> None:
    """What is not committed in the checkout holds none of these merges, so nobody is warned."""
    (repository / "check.sh").write_text("changed")
    said = gastown("rig", "add", str(repository), "--merge", "branch")
    assert (said.code, "hold merges" in said.err) == (0, False)
    assert rigs()[0].strategy == "branch"
    assert "by hand: each result is pushed as branch gt/BEAD" in gastown("rig", "show", "project").out
    assert "strategy changed" in gastown("rig", "set", "project", "--merge", "direct").out
    assert rigs()[0].strategy == "direct"
    said = gastown("rig", "set", "project", "--merge", "pr")
    assert (said.code, "next: --merge branch" in said.err) == (2, True)


@pytest.mark.parametrize(
    "author",
    ["Ada", "ada@example.com", "<ada@example.com>", " <a@b>", "Ada <ada>", "A <a@b> <c@d>", "A\nB <a@b>", "... <a@b>",
     "Ada <@>", "\udcff <a@b>", "x" * 300 + " <a@b>", " Ada <a@b>", "Ada  <a b@c>", "\x1b[1mA <a@b>"],
)  # fmt: skip
def test_an_author_that_git_would_not_take(gastown: Gastown, repository: Path, own_home: Path, author: str) -> None:
    said = gastown("rig", "add", str(repository), "--author", author)
    assert said.code == 2
    assert "cannot be the author of a commit" in said.err
    assert "next: a name and a mail address" in said.err
    assert nothing_is_left(own_home)
    gastown("rig", "add", str(repository))
    assert gastown("rig", "set", "project", "--author", author).code == 2
    assert rigs()[0].author is None


def test_who_mends_what_holds_a_merge(gastown: Gastown, repository: Path, own_home: Path) -> None:
    """--rework-agent is checked like --agent, and has to read what it is told."""
    (own_home / "presets").mkdir(parents=True, exist_ok=True)
    (own_home / "presets" / "fixer.toml").write_text('argv = ["sh", "{prompt_file}"]\n')
    add = ("rig", "add", str(repository), "--agent", "shell", "--rework-agent")
    assert "there is no agent preset nobody" in gastown(*add, "nobody").err
    assert "runs what it is told as a script" in gastown(*add, "shell").err
    assert rigs() == []
    assert "rework fixer mends what holds a merge" in gastown(*add, "fixer").out
    assert rigs()[0].rework_agent == "fixer"
    assert "fixer mends what holds a merge" in gastown("rig", "show", "project").out
    assert gastown("rig", "set", "project", "--rework-agent", "none").code == 0
    assert rigs()[0].rework_agent is None
    assert "the agent that did the work, if it reads what it is told, mends" in gastown("rig", "show", "project").out
    assert gastown("rig", "set", "project", "--policy", "rework_rounds=0").code == 0
    assert "what holds a merge is for a person" in gastown("rig", "show", "project").out


def test_who_approves_results(gastown: Gastown, repository: Path, own_home: Path) -> None:
    """--review-agent is checked like --agent, and has to read what it is told."""
    (own_home / "presets").mkdir(parents=True, exist_ok=True)
    (own_home / "presets" / "reader.toml").write_text('argv = ["sh", "{prompt_file}"]\n')
    add = ("rig", "add", str(repository), "--agent", "shell", "--review-agent")
    assert "there is no agent preset nobody" in gastown(*add, "nobody").err
    assert "runs what it is told as a script" in gastown(*add, "shell").err
    assert rigs() == []
    assert "review reader has to approve each result" in gastown(*add, "reader").out
    assert rigs()[0].review_agent == gastown("rig", "show", "project", "--json").json["review_agent"] == "reader"
    assert "reader has to approve each result" in gastown("rig", "show", "project").out
    assert gastown("rig", "set", "project", "--review-agent", "shell").code == 2
    assert gastown("rig", "set", "project", "--review-agent", "none").out == "rig project: review_agent changed\n"
    assert rigs()[0].review_agent is None
    assert "--review-agent reader" in gastown(*add, "reader").err  # it is a rig already: how to change it


def test_an_environment_that_is_stored_wrong_is_mended_by_the_command_that_is_named(
    gastown: Gastown, repository: Path, own_home: Path
) -> None:
    assert gastown("rig", "add", str(repository), "--gate", "./check.sh", "--agent", "shell").code == 0
    with transaction() as session:
        session.scalars(select(Rig)).one().environment = 3  # type: ignore[assignment]
    for words in (["rig", "set", "project", "--gate", "true"], ["sling", "x", "--rig", "project"]):
        said = gastown(*words)
        assert said.code == 1
        assert "next: gastown rig set project --environment" in said.err
    assert gastown("rig", "set", "project", "--environment").code == 0
    assert rigs()[0].environment["PATH"] == os.environ["PATH"]


def test_a_rig_says_how_its_containers_are_made(gastown: Gastown, repository: Path) -> None:
    given = ("--image", "acme/agent:3", "--memory", "8g", "--mount", "/data:/data", "--env", "KEY=hidden=1")
    said = gastown("rig", "add", str(repository), "--gate", "true", *given)
    assert said.code == 0, said.err
    environment = {"KEY": "hidden=1"}
    stored = {"image": "acme/agent:3", "memory_mb": 8192, "mounts": ["/data:/data"], "environment": environment}
    assert rigs()[0].container == stored
    shown = gastown("rig", "show", "project").out
    assert "image acme/agent:3, memory 8192 MB, mount /data:/data, with KEY" in shown
    assert "hidden" not in shown + gastown("rig", "show", "project", "--json").out
    changed = ("--network", "none", "--cpus", "1.5", "--pids", "64", "--disk", "20g", "--mount", "", "--env", "")
    assert "network, cpus, pids, disk_mb" in gastown("rig", "set", "project", *changed).out
    stored = {"image": "acme/agent:3", "memory_mb": 8192, "network": "none", "cpus": 1.5, "pids": 64, "disk_mb": 20480}
    assert rigs()[0].container == stored
    assert "are made like that" in gastown("rig", "set", "project", "--pids", "64").out


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--memory", "lots", "is no size"),
        ("--memory", "1m", "memory_mb: Input should be greater than or equal to 64"),
        ("--cpus", "many", "is no number"),
        ("--cpus", "0", "cpus: Input should be greater than 0"),
        ("--pids", "-1", "is no number"),
        ("--disk", "8x", "is no size"),
        ("--network", "a b", "cannot be a network's name"),
        ("--mount", "data", "is not SOURCE:TARGET"),
        ("--env", "1X=2", "is not NAME=VALUE"),
    ],
)
def test_a_container_that_makes_no_sense_is_refused(
    gastown: Gastown, repository: Path, option: str, value: str, words: str
) -> None:
    added = gastown("rig", "add", str(repository), "--gate", "true", option, value)
    assert added.code == 2
    assert words in added.err
    assert not rigs()
