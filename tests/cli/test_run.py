"""gastown run: what it refuses, what it writes, how it ends. Its flow through a real stack is in tests/flows."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import select

from gastown.cli import board
from gastown.db import gastown_now, transaction
from gastown.models import Bead, BeadDependency, MergeRequest, Rig
from gastown.states import BeadStatus, Purpose, Resolution
from tests.builders import a_bead, a_merge, a_node, a_rig, a_town, the_api_is_there
from tests.cli.conftest import Gastown, git

PLAN = """
[[bead]]
id = "second"
title = "Second"
body = "true"
after = ["first"]
labels = ["mine"]

[[bead]]
id = "first"
title = "First"
body = "true"
priority = "high"
"""


@pytest.fixture
def served(database: str) -> None:
    """Others work on this town, so that run starts nothing."""
    with transaction() as session:
        the_api_is_there(session)
        a_node(session)
        a_town(session)


def beads() -> list[Bead]:
    with transaction() as session:
        return list(session.scalars(select(Bead).order_by(Bead.created_at)))


def rigs() -> list[Rig]:
    with transaction() as session:
        return list(session.scalars(select(Rig)))


def end(bead: Bead, resolution: Resolution | None = Resolution.MERGED) -> None:
    """As the system would: closed, or failed without a resolution."""
    with transaction() as session:
        row = session.get_one(Bead, bead.id)
        row.status, row.closed_at = BeadStatus.CLOSED if resolution else BeadStatus.FAILED, gastown_now()
        row.resolution, row.failure_code, row.failure_message = resolution, "attempts_exhausted", "it\nbroke"


@pytest.fixture
def meanwhile(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], None]], None]:
    """Have something happen each time that run waits."""

    def happens(what: Callable[[], None]) -> None:
        monkeypatch.setattr(board.time, "sleep", lambda seconds: what())

    return happens


def all_end() -> None:
    for bead in beads():
        end(bead)


def test_tasks_from_nothing_to_merged(gastown: Gastown, served: None, repository: Path, meanwhile) -> None:
    meanwhile(all_end)
    said = gastown("run", "--repo", str(repository), "--agent", "shell", "--gate", "true", "echo one", "echo two\ntrue")
    assert said.code == 0, said.err
    assert "2 of 2 beads done in" in said.out
    (rig,) = rigs()
    assert (rig.repository, rig.gates[0]["command"], rig.agent) == (str(repository), "true", "shell")
    assert [(bead.title, bead.body, bead.agent) for bead in beads()] == [
        ("echo one", "echo one", "shell"),
        ("echo two true", "echo two\ntrue", "shell"),
    ]
    label = beads()[0].labels[0]
    assert label.startswith("run:")
    assert beads()[1].labels == [label]
    assert f"gastown run --resume {label.removeprefix('run:')} goes on" in said.err


def test_a_plan(gastown: Gastown, served: None, repository: Path, tmp_path: Path, meanwhile) -> None:
    (tmp_path / "plan.toml").write_text(PLAN)
    meanwhile(all_end)
    plan = str(tmp_path / "plan.toml")
    said = gastown("run", "--repo", str(repository), "--agent", "shell", "-f", plan, "--json")
    assert said.code == 0, said.err
    assert said.json["ok"] is True
    first, second = beads()
    assert [row["title"] for row in said.json["beads"]] == ["First", "Second"]
    assert (first.priority, second.labels[0]) == (1, "mine")
    with transaction() as session:
        edge = session.scalars(select(BeadDependency)).one()
    assert (edge.bead_id, edge.blocker_id) == (second.id, first.id)


def test_work_that_agents_file_belongs_to_the_run(gastown: Gastown, served: None, repository: Path, meanwhile) -> None:
    """It ends when that has ended too: the stack must not go down over it."""

    def look() -> None:
        first, *filed = beads()
        if first.status == BeadStatus.OPEN:
            with transaction() as session:
                a_bead(session, session.get_one(Rig, first.rig_id), title="filed", labels=first.labels)
            end(first)
        else:
            end(filed[0])

    meanwhile(look)
    said = gastown("run", "--repo", str(repository), "--agent", "shell", "echo one", "--json")
    assert said.code == 0, said.err
    assert [(row["title"], row["resolution"]) for row in said.json["beads"]] == [
        ("echo one", "merged"),
        ("filed", "merged"),
    ]


def test_some_need_a_person(gastown: Gastown, served: None, repository: Path, meanwhile) -> None:
    def one_fails() -> None:
        good, bad = beads()
        end(good)
        end(bad, None)

    meanwhile(one_fails)
    said = gastown("run", "--repo", str(repository), "--agent", "shell", "true", "false")
    assert said.code == 1
    bad = beads()[1]
    assert "attempts_exhausted: it / broke" in said.out
    assert f"{bad.id} failed: false" in said.out
    assert f"next: gastown bead retry {bad.id}" in said.out
    assert "1 of 2 beads done" in said.out
    assert "next: after that, gastown run --resume" in said.out


def test_a_paused_town_is_said_and_not_waited_for(gastown: Gastown, served: None, repository: Path, meanwhile) -> None:
    def look() -> None:
        with transaction() as session:
            for bead in session.scalars(select(Bead)):
                bead.verdict, bead.verdict_reason, bead.verdict_rule = "ready", "ready", "queue_ready"

    meanwhile(look)
    gastown("pause")
    said = gastown("run", "--repo", str(repository), "--agent", "shell", "true")
    assert said.code == 1
    assert "the town is paused since" in said.out
    assert "next: gastown resume" in said.out


def test_a_rig_is_used_again(gastown: Gastown, served: None, repository: Path, meanwhile) -> None:
    meanwhile(all_end)
    gastown("rig", "add", str(repository), "--gate", "true", "--agent", "shell", "--name", "mine")
    said = gastown("run", "--repo", str(repository / "docs"), "true")
    assert said.code == 0
    assert "changed" not in said.err
    said = gastown("run", "--repo", str(repository), "--gate", "./check.sh", "true")
    assert "rig mine: gates changed, from now on for every bead of it" in said.err
    (rig,) = rigs()
    assert (rig.name, rig.gates[0]["command"]) == ("mine", "./check.sh")


def test_a_red_base_starts_nothing(gastown: Gastown, served: None, repository: Path) -> None:
    said = gastown("run", "--repo", str(repository), "--agent", "shell", "--gate", "echo broken; false", "true")
    assert said.code == 1
    assert "  | broken" in said.err
    assert (rigs(), beads()) == ([], [])


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ([], 2, "run takes either tasks, or a plan, or a run to go on with"),
        (["x", "--resume", "abc"], 2, "run takes either"),
        (["x", "--format", "yaml"], 2, "--format is for a plan"),
        (["-f", "{tmp}/plan.toml", "--format", "xml"], 2, "format"),
        (["x", "-f", "{tmp}/plan.toml"], 2, "run takes either"),
        (["  "], 2, "a bead needs a title"),
        (["-f", "{tmp}/none.toml"], 3, "there is no file {tmp}/none.toml"),
        (["-f", "{tmp}"], 2, "cannot be read: Is a directory"),
        (["-f", "{tmp}/cycle.toml"], 2, "has a cycle: a waits for a"),
        (["-f", "{tmp}/rigs.toml", "--agent", "shell"], 3, "there is no rig none"),
        (["--repo", "{tmp}", "--agent", "shell", "x"], 2, "{tmp} is not a git repository"),
        (["--repo", "{repository}", "--branch", "none", "--agent", "shell", "x"], 3, "there is no branch none"),
        (["--repo", "{repository}", "--agent", "none", "x"], 3, "there is no agent preset none"),
        (["--repo", "{repository}", "x"], 2, "no coding agent is installed"),
        (["--repo", "{repository}", "-f", "{tmp}/empty.toml", "--agent", "shell"], 2, "and 'x' has none"),
        (["--repo", "{repository}", "--agent", "shell", "\udcff"], 2, "not valid UTF-8"),
        (["--resume", "none"], 3, "there is no run none"),
    ],
)
def test_bad_input_is_one_clear_line_and_makes_nothing(
    gastown: Gastown, served: None, repository: Path, tmp_path: Path, arguments: list[str], code: int, words: str
) -> None:
    (tmp_path / "plan.toml").write_text(PLAN)
    (tmp_path / "cycle.toml").write_text('[[bead]]\nid = "a"\ntitle = "x"\nafter = ["a"]\n')
    (tmp_path / "empty.toml").write_text('[[bead]]\nid = "a"\ntitle = "x"\n')
    (tmp_path / "rigs.toml").write_text('[[bead]]\nid = "a"\ntitle = "x"\nrig = "none"\n')
    said = gastown("run", *(each.format(tmp=tmp_path, repository=repository) for each in arguments))
    assert said.code == code, said.err
    assert words.format(tmp=tmp_path, repository=repository) in said.err.splitlines()[0]
    assert len(said.err.splitlines()) == 2
    assert (rigs(), beads()) == ([], [])


def test_resume_says_how_it_ended(gastown: Gastown, served: None) -> None:
    with transaction() as session:
        rig = a_rig(session)
        for _ in range(2):
            a_bead(session, rig, labels=["mine", "run:abcde"])
        a_bead(session, rig, labels=["run:other"])
    for bead in beads()[:2]:
        end(bead, Resolution.NO_CHANGES)
    said = gastown("run", "--resume", "abcde", "--json")
    assert said.code == 0
    assert (said.json["run"], said.json["ok"], len(said.json["beads"])) == ("abcde", True, 2)


def test_a_run_is_not_blamed_for_a_review_that_nobody_needed(gastown: Gastown, served: None) -> None:
    """A person approved the head meanwhile, which ended it."""
    with transaction() as session:
        source = session.get_one(Bead, a_merge(session).bead_id)
        source.labels = ["run:abcde"]
        [request_id] = session.scalars(select(MergeRequest.id))
        review = a_bead(session, labels=["run:abcde"], purpose=Purpose.REVIEW, mr_id=request_id)
    end(source, Resolution.NO_CHANGES)
    end(review, Resolution.CANCELED)
    said = gastown("run", "--resume", "abcde", "--json")
    assert (said.code, said.json["ok"]) == (0, True)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupt_detaches_and_says_how_to_go_on(
    served: None, repository: Path, tmp_path: Path, number: signal.Signals
) -> None:
    argv = [sys.executable, "-P", "-m", "gastown.cli", "run", "--repo", str(repository), "--agent", "shell", "true"]
    errors = tmp_path / "errors"
    with errors.open("w") as err, subprocess.Popen(argv, stderr=err, stdout=subprocess.DEVNULL, env=os.environ) as run:
        deadline = time.monotonic() + 60
        while " open" not in errors.read_text():
            assert run.poll() is None, errors.read_text()
            assert time.monotonic() < deadline, errors.read_text()
            time.sleep(0.05)
        run.send_signal(number)
        assert run.wait(120) == 130
    label = beads()[0].labels[0].removeprefix("run:")
    lines = errors.read_text().splitlines()
    assert lines[-2:] == [
        f"detached from run {label}: the beads go on without this terminal",
        f"next: gastown run --resume {label}",
    ]
    assert beads()[0].status == BeadStatus.OPEN


def test_the_repository_of_the_directory_is_meant(
    gastown: Gastown, served: None, repository: Path, monkeypatch: pytest.MonkeyPatch, meanwhile
) -> None:
    meanwhile(all_end)
    monkeypatch.chdir(repository / "docs")
    assert gastown("run", "--agent", "shell", "true").code == 0
    assert rigs()[0].repository == str(repository)
    assert git(repository, "status", "--porcelain") == ""
