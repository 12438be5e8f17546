"""A disk without room loses lines of the log; it ends nothing."""

import subprocess
import sys

import pytest

CODE = """
import threading
from gastown.agent.supervise import Supervision

thread = threading.Thread(target=lambda: (Supervision.log("one"), Supervision.log("two \\udce9"), print("goes on")))
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
