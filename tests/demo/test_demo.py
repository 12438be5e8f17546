"""The demo is the product at work: played once from beginning to end, and interrupted, refused, played twice."""

import fcntl
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from gastown.demo import repository
from tests.demo.conftest import Person

FAULTS = {
    "a start raises": r"the start of gt-\w+ raised an error",
    "a start is refused": r"the start of gt-\w+ was refused",
    "an agent is killed": r"the agent of gt-\w+ was killed",
    "the worker is killed": r"the worker was killed",
}


@pytest.mark.flow
@pytest.mark.timeout(600)
def test_demo_from_beginning_to_end(person: Person) -> None:
    """DESIGN 9: five beads, four faults, each bead merged once, nothing left behind but the demo's own home."""
    before = os.listdir(person.home)
    done = person.play("--plain", "--stop", GASTOWN_DATABASE_URL="postgresql://nowhere/of-my-own")
    assert done.returncode == 0, done.stdout + done.stderr
    assert not re.search(r"[^\x20-\x7e\n]", done.stdout)

    beads = re.findall(r"(gt-\w+)  merged: ", done.stdout)
    assert len(beads) == len(set(beads)) == 5
    for bead in beads:
        assert len(repository.merge_commits(person.town / repository.RIG, bead)) == 1
    assert done.stdout.count(" Merge gt-") == 5
    for name, words in FAULTS.items():
        assert len(re.findall(words, done.stdout)) == 1
        assert re.search(rf"  {name} +\d+\.\d+ s\n", done.stdout)
    assert len(re.findall(r"   ->  .*attempt 2 after", done.stdout)) == 4
    assert "from the work that was left" in done.stdout
    assert "worker back after" in done.stdout

    assert person.left_running() == []
    assert sorted(os.listdir(person.home)) == sorted([*before, ".gastown"])
    assert sorted(os.listdir(person.town.parent)) == ["demo", "demo.lock"]
    assert [name for name in os.listdir(person.temporary) if not name.startswith("pymp-")] == []  # of the killed worker
    check_what_to_try(person, done.stdout)


def check_what_to_try(person: Person, said: str) -> None:
    """The commands that the demo proposes work as they are printed."""
    commands = re.findall(r"^  (GASTOWN_HOME=.*)$", said, re.MULTILINE)
    asked = [re.sub(r"^\S+ \S+ (-m gastown.cli )?", "", command).split()[0] for command in commands]
    assert asked == ["up", "why", "logs", "bead", "down"]
    for command in commands:
        done = subprocess.run(
            ["/bin/sh", "-c", command],
            env=person.environment,
            cwd=person.home,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"


@pytest.mark.flow
@pytest.mark.timeout(300)
def test_interrupted_demo_leaves_nothing(person: Person) -> None:
    """S79: Ctrl-C while the beads are at work. Meanwhile a second demo in the same home is refused."""
    with person.playing("--plain", "--keep") as demo:
        assert demo.stdout is not None
        for line in demo.stdout:
            if "running attempt" in line:
                break
        second = person.play("--plain")
        assert second.returncode == 1
        assert "another demo is under way" in second.stderr
        demo.send_signal(signal.SIGINT)
        said = demo.stdout.read()
        assert demo.wait(120) == 130, said
        assert "nothing of the demo runs any more" in said
    assert person.left_running() == []


@pytest.mark.flow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_demo_interrupted_while_it_starts(person: Person, number: int) -> None:
    with person.playing("--plain") as demo:
        assert demo.stdout is not None
        for line in demo.stdout:
            if "starting" in line:
                break
        demo.send_signal(number)
        demo.stdout.read()
        assert demo.wait(120) == 130
    assert person.left_running() == []


def test_folder_of_somebody_else_is_left_alone(person: Person) -> None:
    person.town.mkdir(parents=True)
    (person.town / "mine").write_text("precious")
    done = person.play()
    assert done.returncode == 2
    assert "was not made by a demo" in done.stderr
    assert (person.town / "mine").read_text() == "precious"


def test_folder_behind_a_link_is_left_alone(person: Person, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / ".demo").touch()
    person.town.parent.mkdir()
    person.town.symlink_to(tmp_path / "elsewhere")
    assert person.play().returncode == 2
    assert (tmp_path / "elsewhere" / ".demo").exists()


def test_home_that_is_a_file(person: Person) -> None:
    (person.home / ".gastown").write_text("")
    done = person.play()
    assert done.returncode == 2
    assert "cannot be written" in done.stderr
    assert "Traceback" not in done.stderr


def test_no_git(person: Person, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    done = person.play(PATH=str(tmp_path / "bin"))
    assert done.returncode == 2
    assert "git is not on the PATH" in done.stderr
    assert person.left_running() == []


def test_every_chore_passes_its_own_tests(tmp_path: Path) -> None:
    """The scripts, one after another in one checkout, without their pauses."""
    repository.make(tmp_path)
    person = {
        "GIT_AUTHOR_NAME": "A",
        "GIT_AUTHOR_EMAIL": "a@b",
        "GIT_COMMITTER_NAME": "A",
        "GIT_COMMITTER_EMAIL": "a@b",
    }
    for chore in repository.CHORES:
        script = re.sub(r"sleep [\d.]+", "true", chore.script)
        done = subprocess.run(
            ["/bin/sh", "-eu", "-c", script], cwd=tmp_path, env=os.environ | person, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
    assert len(repository.git("log", "--format=%H", "main", cwd=tmp_path).split()) == 1 + len(repository.CHORES)
    assert sys.executable in repository.GATE
    assert not repository.git("status", "--short", cwd=tmp_path)


def test_second_claim_of_a_home_is_refused(tmp_path: Path) -> None:
    from gastown.demo import place
    from gastown.errors import Refused

    with place.claimed(tmp_path), pytest.raises(Refused), place.claimed(tmp_path):
        pass
    descriptor = os.open(tmp_path / "demo.lock", os.O_RDWR)
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(descriptor)
