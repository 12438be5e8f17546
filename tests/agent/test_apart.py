"""An agent is kept from its supervisor's files, its git and its processes, although it runs as the same user."""

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gastown.agent import apart, processes
from tests.agent.containers import Foreground, home_of, run_here
from tests.agent.town import Town, git

LANDLOCK = ctypes.CDLL(None).syscall(444, None, 0, 1) if sys.platform == "linux" else 0
pytestmark = pytest.mark.skipif(LANDLOCK < 2, reason="this kernel has no Landlock")

WRITE = """
H="$(dirname "$(dirname "$GASTOWN_SELF")")/.."
for place in "$H/mirrors/7.git/config" "$H/bin/gastown" "$GASTOWN_SELF.log" "$H/work/x" "$H/runs/x"; do
    (echo x >> "$place") 2> /dev/null && echo "wrote $place"
done
rm -rf "$H/mirrors" 2> /dev/null; ls "$H/mirrors" | grep -c git$
echo x > "$HOME/a" && mkdir "$TMPDIR/b" && mv "$HOME/a" "$TMPDIR/b/a" && mv "$TMPDIR/b/a" . && cat a
kill -0 $PPID 2> /dev/null && echo signalled
sleep 300 & kill $! && echo own
cd "$(dirname "$GASTOWN_SELF")"
"$PYTHON" -c 'import socket; socket.socket(socket.AF_UNIX).connect("self")' && echo heard
cd - > /dev/null
git add -A && git commit -qm mine && git gc -q && echo "committed > /dev/null" > /dev/null && echo over
"""


def test_it_writes_to_its_own_places_alone(town: Town) -> None:
    environment = {"PATH": os.environ["PATH"], "PYTHON": sys.executable}
    attempt, code = run_here(town, WRITE, environment=environment)
    assert code == 0
    reached = [] if LANDLOCK >= 6 else ["signalled"]
    assert attempt.output.decode().splitlines() == ["1", "x", *reached, "own", "heard", "over"]
    assert attempt.done is not None
    mirror = home_of(town, attempt) / "mirrors" / "7.git"
    assert git("show", f"{attempt.done['head_sha']}:a", cwd=mirror) == "x"


def test_set_up_may_fill_the_cache(town: Town) -> None:
    attempt, code = run_here(town, 'cat "$HOME/../../cache/7/made"', setup='echo kept > "$GASTOWN_CACHE/made"')
    assert (code, attempt.output) == (0, b"kept\n")


def test_it_cannot_look_into_a_process_beside_it(tmp_path: Path) -> None:
    """Such as the supervisor's git, whose memory may hold a token."""
    beside = subprocess.Popen(["sleep", "300"])
    try:
        look = f"head -c 0 /proc/{beside.pid}/mem"
        assert subprocess.run(["sh", "-c", look], capture_output=True, timeout=120, check=False).returncode == 0
        confine = apart.separation(tmp_path, [])
        done = subprocess.run(["sh", "-c", look], capture_output=True, preexec_fn=confine, timeout=120, check=False)
        assert done.returncode != 0
        assert b"Permission denied" in done.stderr
    finally:
        beside.kill()
        beside.wait()


def test_the_supervisor_can_still_end_it(town: Town) -> None:
    attempt = town.sling("(setsid sleep 300 &); trap '' TERM; echo up; sleep 300")
    with Foreground(town, attempt) as supervisor:
        town.wait_output(attempt, b"up")
        attempt.fenced = True
        assert supervisor.wait()[0] == 75
    assert not processes.marked("GASTOWN_DISPATCH", attempt.name)


def test_a_place_that_is_not_there_is_left_out(tmp_path: Path) -> None:
    confine = apart.separation(tmp_path / "home", [tmp_path / "nothing"])
    script = f"echo 1 > {tmp_path}/x; echo 2"
    (tmp_path / "home").mkdir()
    done = subprocess.run(["sh", "-c", script], capture_output=True, preexec_fn=confine, timeout=120, check=False)
    assert done.stdout == b"2\n"
    assert not (tmp_path / "x").exists()
