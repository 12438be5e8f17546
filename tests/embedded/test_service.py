"""One child: restarts slow down, and what it said last is kept."""

import os
import signal
import socket
from pathlib import Path

import pytest
from stacks import wait_for

from gastown.embedded import service, services
from gastown.embedded.service import Service
from gastown.embedded.status import ChildState
from gastown.settings import Settings


def child(folder: Path, script: str) -> Service:
    return Service(name="c", argv=["/bin/sh", "-c", script], log=folder / "c.log", cwd=folder, env=dict(os.environ))


def test_one_that_keeps_dying_is_failing_and_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "QUICK_DEATH_S", 1e9)  # however late we are told of it
    dying = child(tmp_path, "echo first; echo broken; echo; exit 3")
    gaps = []
    for _ in range(service.FAILING_AFTER):
        dying.start()
        wait_for(lambda: dying.ended, "death")
        gaps.append(dying.next_start_at - dying.started_at)
    assert gaps == [1, 2, 4, 8, 16]
    told = dying.status()
    assert (told.state, told.restarts, told.reason) == (ChildState.FAILING, 4, "exited with 3: broken")


def test_one_that_was_well_is_started_again_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "QUICK_DEATH_S", 0.0)
    well = child(tmp_path, "exit 0")
    well.start()
    wait_for(lambda: well.ended, "death")
    assert (well.state, well.quick_deaths) == (ChildState.RESTARTING, 0)
    assert well.next_start_at == well.started_at + 1


def test_one_that_was_asked_to_stop_did_not_die(tmp_path: Path) -> None:
    asked = child(tmp_path, "exec sleep 60")
    asked.start()
    asked.ask_to_stop()
    wait_for(lambda: asked.ended, "end")
    assert (asked.state, asked.exit_code) == (ChildState.STOPPED, -signal.SIGTERM)


def test_one_that_does_not_listen_is_killed_with_its_group(tmp_path: Path) -> None:
    deaf = child(tmp_path, "trap '' TERM; sleep 60 & echo $!; wait; wait")
    deaf.start()
    wait_for(lambda: deaf.log.exists() and deaf.log.read_text().strip() != "", "its child")
    deaf.end(grace_s=0.2)
    assert deaf.exit_code == -signal.SIGKILL
    grandchild = int(deaf.log.read_text())
    wait_for(
        lambda: (
            not Path(f"/proc/{grandchild}/cmdline").exists() or not Path(f"/proc/{grandchild}/cmdline").read_bytes()
        ),
        "its end",
    )


def test_one_that_cannot_even_be_executed_is_failing(tmp_path: Path) -> None:
    broken = child(tmp_path, "exit 0")
    broken.log = tmp_path / "no" / "folder" / "c.log"
    broken.try_start()
    assert broken.state is ChildState.FAILING
    assert "cannot be started" in broken.reason


def test_a_child_that_waits_for_its_restart_is_not_started_during_a_stop(tmp_path: Path) -> None:
    waiting = child(tmp_path, "exit 3")
    waiting.start()
    wait_for(lambda: waiting.ended, "death")
    assert waiting.state is ChildState.RESTARTING
    waiting.ask_to_stop()
    assert waiting.state is ChildState.STOPPED


def test_a_child_that_dies_while_it_is_asked_to_stop_is_stopped(tmp_path: Path) -> None:
    dying = child(tmp_path, "exit 3")
    dying.start()
    assert dying.process is not None
    dying.process.wait()
    dying.ask_to_stop()
    assert dying.ended
    assert dying.state is ChildState.STOPPED


def test_each_worker_has_as_many_processes_as_its_setting_says(own_home: Path) -> None:
    """S64: the gates of one rig do not keep the others from merging."""
    settings = Settings(worker_processes=4, merge_processes=5)
    with socket.create_server(("127.0.0.1", 0)) as api:
        programs = {each.name: each.argv for each in services.programs(settings, 0, api, services.APP, {})}
    assert (programs["worker"][-1], programs["merge"][-1]) == ("4", "5")
