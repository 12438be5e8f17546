"""The supervisor as the first process of a container: what is different from one that detaches itself."""

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from gastown.agent import launch, processes
from gastown.agent.apart import keeps_signals
from gastown.agent.salvage import at_work
from tests.agent.containers import COMMAND, ENVIRONMENT, Foreground, home_of, launch_of, run_here
from tests.agent.town import Town, eventually, git

AS_FIRST = ("unshare", "--user", "--map-root-user", "--pid", "--fork", "--kill-child", "--mount-proc")


def test_the_exit_code_is_the_supervisors_and_the_log_is_in_both_places(town: Town) -> None:
    attempt = town.sling("echo precious > work.txt; echo up; sleep 300")
    with Foreground(town, attempt) as supervisor:
        town.wait_output(attempt, b"up")
        attempt.fenced = True
        code, said = supervisor.wait()
    assert code == 75
    assert supervisor.files.exit_code() == 75
    assert "superseded" in said
    assert supervisor.files.log.read_text() == said
    mirror = supervisor.home / "mirrors" / "7.git"
    assert git("show", "refs/gastown/wip/gt-1/1:work.txt", cwd=mirror) == "precious"


def test_a_stop_is_heard(town: Town) -> None:
    attempt = town.sling("echo precious > work.txt; echo up; sleep 300")
    with Foreground(town, attempt) as supervisor:
        town.wait_output(attempt, b"up")
        supervisor.process.send_signal(signal.SIGTERM)
        assert supervisor.wait()[0] == 0
    assert attempt.done is not None
    outside = "stopped_outside" if keeps_signals() else "drained"  # where the agent cannot have sent it
    assert (attempt.done["outcome"], attempt.done["code"]) == ("stopped", outside)
    assert attempt.done["wip_sha"]


@pytest.mark.parametrize("launched", [b"", b"{", b'{"dispatch_id": "x"}'])
def test_without_a_launch_it_refuses(launched: bytes) -> None:
    done = subprocess.run(COMMAND, env=ENVIRONMENT, input=launched, capture_output=True, timeout=60, check=False)
    assert done.returncode == launch.REFUSED
    assert b"no launch came" in done.stderr


def test_a_name_is_started_once(town: Town) -> None:
    attempt, code = run_here(town, "echo said")
    assert code == 0
    with Foreground(town, attempt) as again:
        code, said = again.wait()
    assert code == launch.REFUSED
    assert "was started before" in said
    assert attempt.output == b"said\n"


def test_a_stop_before_the_launch_ends_it(tmp_path: Path) -> None:
    waiting = subprocess.Popen(COMMAND, env=ENVIRONMENT, stdin=subprocess.PIPE)
    try:
        status = Path(f"/proc/{waiting.pid}/status")
        caught = 1 << (signal.SIGTERM - 1)
        eventually(lambda: int(status.read_text().split("SigCgt:")[1].split()[0], 16) & caught, what="a handler")
        waiting.send_signal(signal.SIGTERM)
        assert waiting.wait(60) == 128 + signal.SIGTERM
    finally:
        waiting.kill()
        waiting.communicate(timeout=60)


def test_as_process_1_it_reaps_what_is_left_to_it(town: Town) -> None:
    """Orphans of the agent count against the container's processes until somebody waits for them."""
    if subprocess.run([*AS_FIRST, "true"], capture_output=True, timeout=60, check=False).returncode != 0:
        pytest.skip("this machine lets nobody make a user namespace")
    script = "for n in 1 2 3 4 5; do (sh -c 'true' &) ; done; echo $PPID; echo up; sleep 300"
    attempt = town.sling(script)
    with Foreground(town, attempt, before=AS_FIRST) as supervisor:
        town.wait_output(attempt, b"up")
        assert attempt.output.split()[0] == b"1"
        below = supervisor.process.pid
        (first,) = (each.pid for each in processes.processes() if each.parent == below)
        eventually(lambda: not [each for each in processes.processes() if each.parent == first and each.zombie])
        processes.send(first, signal.SIGTERM)
        assert supervisor.wait()[0] == 0
    assert attempt.done is not None
    assert attempt.done["outcome"] == "stopped"


def test_an_agent_of_the_same_user_cannot_look_into_it(town: Town, tmp_path: Path) -> None:
    """S75. The token is in the supervisor's memory; its environment never had it, and is closed as well."""
    user = ("setpriv", "--reuid=1000", "--regid=1000", "--clear-groups", "--inh-caps=-all", "--no-new-privs")
    as_root = os.geteuid() == 0
    attempt = town.sling(
        'for f in environ mem maps fd/0; do cat /proc/$PPID/$f > /dev/null 2>&1 && echo "read $f"; done;'
        "ls /proc/$PPID/fd > /dev/null 2>&1 && echo listed; cat /proc/$$/environ > /dev/null && echo own; echo over"
    )
    home = home_of(town, attempt)
    if as_root:
        _let_others_through(tmp_path)
        for path in (home, town.repository, *town.repository.rglob("*")):
            os.chown(path, 1000, 1000)
    with Foreground(town, attempt, before=user if as_root else ()) as supervisor:
        code, said = supervisor.wait()
    assert (code, attempt.output) == (0, b"own\nover\n"), said


def _let_others_through(folder: Path) -> None:
    for each in (folder, *folder.parents):
        if each != Path("/") and not each.stat().st_mode & 0o001:
            each.chmod(each.stat().st_mode | 0o011)


def test_it_waits_for_an_earlier_attempt_that_still_has_the_home(town: Town) -> None:
    first = town.sling("echo one > work.txt; echo up; sleep 300")
    second = town.sling("cat work.txt", epoch=2)
    with Foreground(town, first) as earlier:
        town.wait_output(first, b"up")
        with Foreground(town, second) as later:
            town.wait_phase(second, "workspace")
            assert at_work(home_of(town, first), second.name) == first.name
            assert not second.done
            assert earlier.process.poll() is None
            first.fenced = True
            assert earlier.wait()[0] == 75
            assert later.wait()[0] == 0
    assert second.output == b"one\n"
    assert at_work(home_of(town, first), "") is None


def test_its_launch_is_no_secret_to_whom_it_is_shown(town: Town) -> None:
    attempt = town.sling("")
    shown = repr(launch_of(town, attempt, git_token="of-git"))
    assert "of-git" not in shown
    assert attempt.token not in shown
    assert json.loads(json.dumps(launch_of(town, attempt).to_json()))["shared_home"] == str(town.home)
