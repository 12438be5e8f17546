"""gastown attempts: what is kept of each, and how a person gets it back."""

from pathlib import Path

import pytest

from gastown.agent import archive
from gastown.agent.git import git as our_git
from gastown.agent.mirror import Mirror
from gastown.agent.snapshot import Person
from gastown.agent.workspace import Workspace
from gastown.db import transaction
from gastown.models import Bead
from gastown.settings import get_settings
from gastown.states import DispatchStatus
from tests.builders import a_rig, an_attempt
from tests.cli.conftest import Gastown, git

PERSON = Person("toast", "toast@localhost")


class Worked:
    """A bead whose first attempt committed one file and left another, and whose second one did nothing."""

    def __init__(self, repository: str) -> None:
        with transaction() as session:
            rig = a_rig(session, repository=repository)
            first = an_attempt(session, DispatchStatus.FAILED, rig=rig)
            self.bead, rig_id = first.bead_id, rig.id
            an_attempt(session, DispatchStatus.RUNNING, bead=session.get_one(Bead, first.bead_id))
        self.mirror = Mirror.open(get_settings().home, rig_id, repository)
        self.mirror.fetch()
        target = self.mirror.target("main") or ""
        work = Workspace(get_settings().home, self.mirror, self.bead, 1, PERSON, lambda _: None)
        work.make("main", target, target)
        (work.path / "made").write_text("one\ntwo\n")
        git(work.path, "add", "made")
        git(work.path, "commit", "--quiet", "--message=made")
        (work.path / "docs" / "text").write_text("other\n")
        work.save()
        assert work.remove()
        self.sha = work.wip_sha or ""


@pytest.fixture
def worked(database: str, repository: Path) -> Worked:
    return Worked(str(repository))


def test_shows_what_each_left(gastown: Gastown, worked: Worked) -> None:
    first, second = gastown("attempts", worked.bead, "--json").json
    assert first["work"] == {
        "sha": worked.sha,
        "ref": f"refs/gastown/wip/{worked.bead}/1",
        "commits": 1,
        "uncommitted": True,
        "files": 2,
        "added": 3,
        "removed": 1,
        "kept_until": None,
    }
    assert second["work"] is None
    shown = gastown("attempts", worked.bead).out
    assert "1 and uncommitted" in shown
    assert "+3 -1" in shown
    assert "--restore 1" in shown


def test_says_until_when_once_the_bead_is_over(gastown: Gastown, worked: Worked) -> None:
    gastown("bead", "cancel", worked.bead)
    archive.archive(worked.mirror, archive.find(worked.mirror), lambda _: True)
    work = gastown("attempts", worked.bead, "--json").json[0]["work"]
    assert work["ref"] == f"refs/gastown/archive/{worked.bead}/1"
    assert work["kept_until"].endswith("+00:00")
    assert work["kept_until"][:10] in gastown("attempts", worked.bead, "--json").out


def test_restores_into_the_repository_and_overwrites_nothing(
    gastown: Gastown, worked: Worked, repository: Path
) -> None:
    said = gastown("attempts", worked.bead, "--restore", "1")
    assert said.code == 0
    assert git(repository, "rev-parse", f"{worked.bead}-1").strip() == worked.sha
    assert git(repository, "show", f"{worked.bead}-1:docs/text") == "other\n"
    assert git(repository, "status", "--porcelain") == ""
    assert "git reset HEAD^" in said.out
    git(repository, "branch", "--force", f"{worked.bead}-1", "main")
    again = gastown("attempts", worked.bead, "--restore", "1")
    assert (again.code, "already" in again.err) == (1, True)
    assert git(repository, "rev-parse", f"{worked.bead}-1") == git(repository, "rev-parse", "main")
    named = gastown("attempts", worked.bead, "--restore", "1", "--branch", "größe/#1", "--json").json
    assert git(repository, "rev-parse", "größe/#1").strip() == named["sha"] == worked.sha
    folder = gastown("attempts", worked.bead, "--restore", "1", "--branch", "main/x")
    assert (folder.code, "leaves no room" in folder.err) == (1, True)


@pytest.mark.parametrize("pushed", [True, False])
def test_for_a_remote_it_prints_a_command_that_works(
    gastown: Gastown, worked: Worked, repository: Path, tmp_path: Path, pushed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`git` reaches the address through its own configuration, as through a network."""
    (tmp_path / "gitconfig").write_text(f'[url "{repository}"]\n\tinsteadOf = https://example.invalid/r\n')
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "gitconfig"))
    with transaction() as session:
        a_rig(session).repository = "https://example.invalid/r"
    name = f"refs/gastown/wip/{worked.bead}/1"
    if pushed:
        worked.mirror.push(f"{name}:{name}")
    answer = gastown("attempts", worked.bead, "--restore", "1", "--json").json
    assert ("https://example.invalid/r" in answer["fetch"]) is pushed
    assert answer["fetch"] in gastown("attempts", worked.bead, "--restore", "1").out
    clone = tmp_path / "clone"
    our_git("clone", "--quiet", str(repository), str(clone))
    _, *command = answer["fetch"].split(" ")
    our_git(*command, cwd=clone)
    assert our_git("rev-parse", f"{worked.bead}-1", cwd=clone).strip() == worked.sha


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--restore", "7"), 3, "there is no attempt 7"),
        (("--restore", "2"), 3, "there is no work of attempt 2"),
        (("--restore", "1", "--branch", "a..b"), 2, "is no name for a branch"),
        (("--restore", "1", "--branch", "-x"), 2, "is no name for a branch"),
        (("--branch", "x"), 2, "--branch names what --restore makes"),
    ],
)
def test_bad_input(gastown: Gastown, worked: Worked, arguments: tuple[str, ...], code: int, words: str) -> None:
    said = gastown("attempts", worked.bead, *arguments)
    assert said.code == code
    assert words in said.err.splitlines()[0]
    assert said.err.splitlines()[1].startswith("next: ")
