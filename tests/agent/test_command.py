"""A shell command does not outlive whoever waits for it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from gastown.agent import processes
from tests.agent.town import eventually

CODE = """
import os, sys
from pathlib import Path
from gastown.agent.command import run_command

run_command("echo $$ > pid.new; mv pid.new pid; exec sleep 300", cwd=Path(sys.argv[1]), environment=os.environ,
            timeout_s=300, max_output_bytes=1000)
"""


@pytest.mark.skipif(not processes.LINUX, reason="PR_SET_PDEATHSIG")
def test_a_command_dies_with_the_process_that_waits_for_it(tmp_path: Path) -> None:
    waiting = subprocess.Popen([sys.executable, "-c", CODE, str(tmp_path)])
    pid = None
    try:
        eventually((tmp_path / "pid").exists)
        pid = int((tmp_path / "pid").read_text())
        born = processes.birth(pid)
        assert born
        waiting.send_signal(signal.SIGKILL)
        waiting.wait()
        eventually(lambda: not processes.alive(pid, born))
    finally:
        waiting.kill()
        waiting.wait()
        if pid is not None and processes.look(pid):
            os.kill(pid, signal.SIGKILL)
