"""A disk without room loses lines of the log, and ends nothing; an attempt that takes more than its share is ended."""

import subprocess
import sys
from pathlib import Path

import pytest

from gastown.agent import disk
from gastown.states import FailureCode
from tests.agent.containers import Foreground
from tests.agent.town import Town, git

CODE = """
import threading
from gastown.agent import journal

thread = threading.Thread(target=lambda: (journal.note("one"), journal.note("two \\udce9"), print("goes on")))
thread.start()
thread.join()
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/dev/full")
def test_a_log_that_cannot_be_written_ends_no_thread() -> None:
    with open("/dev/full", "w") as full:
        ended = subprocess.run(
            [sys.executable, "-c", CODE], stdout=subprocess.PIPE, stderr=full, text=True, check=False
        )
    assert (ended.returncode, ended.stdout) == (0, "goes on\n")


def test_an_attempt_above_its_limit_is_ended_and_its_work_saved(town: Town) -> None:
    script = "echo mine > work.txt; mkdir -p $HOME/.cache; head -c 20000000 /dev/urandom > $HOME/.cache/big; sleep 300"
    attempt = town.sling(script)
    code = (
        "import gastown.agent.disk as disk; disk.LOOK_EVERY_S = 0.2; import runpy, sys; sys.argv.append('--foreground')"
    )
    command = (sys.executable, "-P", "-c", f"{code}; runpy.run_module('gastown.agent', run_name='__main__')")
    with Foreground(town, attempt, command=command, disk_mb=16) as supervisor:
        assert supervisor.wait()[0] == 0
    assert attempt.done is not None
    assert (attempt.done["outcome"], attempt.done["code"]) == ("failed", "disk_full")
    assert "may hold 16 MB" in attempt.done["message"]
    assert "Most of it: homes/gt-1 " in attempt.done["message"]
    assert git("show", f"{attempt.done['wip_sha']}:work.txt", cwd=supervisor.home / "mirrors" / "7.git") == "mine"
    assert attempt.done["code"] == FailureCode.DISK_FULL


def test_what_a_home_holds(tmp_path: Path) -> None:
    """It follows no link, and counts once what has two names."""
    (tmp_path / "work" / "gt-1" / "deep").mkdir(parents=True)
    (tmp_path / "work" / "gt-1" / "deep" / "file").write_bytes(b"x" * disk.MB)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "twice").hardlink_to(tmp_path / "work" / "gt-1" / "deep" / "file")
    (tmp_path / "runs" / "loop").symlink_to(tmp_path)
    (tmp_path / "odd\udcff").write_bytes(b"")
    sizes = disk.measure(tmp_path)
    assert disk.MB <= sizes.total() < 1.1 * disk.MB
    assert disk.measure(tmp_path / "nothing").total() == 0
