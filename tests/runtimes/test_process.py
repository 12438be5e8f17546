"""What is particular to attempts that are processes."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gastown.agent import processes, runs
from gastown.agent.command import MARK
from gastown.errors import RuntimeUnavailable, StartRefused
from gastown.runtimes import CommandSpec, RunSpec
from gastown.runtimes import process as process_module
from gastown.runtimes.process import ProcessRuntime
from tests.agent.town import Town, eventually

START = "import json,sys;from pathlib import Path;from gastown.runtimes import RunSpec;"
START += "from gastown.runtimes.process import ProcessRuntime;"
START += "home,spec=json.load(sys.stdin);print(ProcessRuntime(Path(home)).start(RunSpec(**spec)).pid,flush=True);"


def spec(name: str = "one") -> RunSpec:
    return RunSpec(name=name, bead_id="gt-1", epoch=1, api_url="http://127.0.0.1:9", token="secret-token")


def as_json(town: Town, run: RunSpec) -> bytes:
    fields = {name: getattr(run, name) for name in ("name", "bead_id", "epoch", "api_url", "token")}
    return json.dumps([str(town.home), fields]).encode()


def test_two_processes_that_start_the_same_attempt_start_one(town: Town) -> None:
    attempt = town.sling("sleep 300")
    message = as_json(town, town.spec(attempt))
    workers = [
        subprocess.Popen([sys.executable, "-c", START], stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(3)
    ]
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write(message)
        worker.stdin.close()
        worker.stdin = None
    pids = {worker.communicate(timeout=120)[0] for worker in workers}
    assert len(pids) == 1
    town.wait_phase(attempt)
    assert len(attempt.of("assignment")) == 1


@pytest.mark.skipif(not processes.LINUX, reason="PR_SET_PDEATHSIG")
def test_it_outlives_a_worker_that_dies_and_is_no_child_of_it(town: Town) -> None:
    attempt = town.sling("echo up; sleep 300")
    die = "import ctypes,os,signal;ctypes.CDLL(None).prctl(1,9);"
    worker = subprocess.Popen(
        [sys.executable, "-c", die + START + "import time;time.sleep(300)"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert worker.stdin is not None
    assert worker.stdout is not None
    worker.stdin.write(as_json(town, town.spec(attempt)))
    worker.stdin.close()
    pid = int(worker.stdout.readline())
    town.wait_output(attempt, b"up")
    assert pid not in processes.descendants(worker.pid)
    os.killpg(worker.pid, signal.SIGKILL)
    worker.wait()
    worker.stdout.close()
    before = len(attempt.of("heartbeat"))
    eventually(lambda: len(attempt.of("heartbeat")) > before + 1)
    assert town.runtime.inspect(attempt.name).present


def test_a_launch_that_is_cut_off_starts_nothing(town: Town) -> None:
    """The worker dies between spawning and writing."""
    for said in (b"", b'{"dispatch_id": "one", "bead'):
        done = subprocess.run([sys.executable, "-m", "gastown.agent"], input=said, capture_output=True, check=False)
        assert done.returncode == 73
        assert b"standard input" in done.stderr
    assert not (town.home / "runs").exists()


def test_a_home_that_cannot_be_written_is_a_refusal_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(StartRefused, match="there is no directory"):
        ProcessRuntime(tmp_path / "nowhere").start(spec())
    home = tmp_path / "blocked"
    home.mkdir()
    (home / "runs").write_text("a file where a folder should be")
    with pytest.raises(StartRefused, match="runs"):
        ProcessRuntime(home).start(spec())


def test_a_full_disk_is_a_refusal_and_the_start_can_be_repeated(town: Town) -> None:
    attempt = town.sling("echo hi")
    full = ("/bin/sh", "-c", f"ulimit -f 0; exec {sys.executable} -m gastown.agent")
    with pytest.raises(StartRefused, match="File too large"):
        ProcessRuntime(town.home, full).start(town.spec(attempt))
    assert not town.runtime.inspect(attempt.name).present
    town.start(attempt)
    town.wait_gone(attempt)
    assert attempt.done is not None


def test_a_supervisor_that_is_not_installed_is_a_refusal(tmp_path: Path) -> None:
    with pytest.raises(StartRefused, match="not-there"):
        ProcessRuntime(tmp_path, ("/not-there/python",)).start(spec())
    with pytest.raises(StartRefused, match="No module named"):
        ProcessRuntime(tmp_path, (sys.executable, "-m", "gastown_not_there")).start(spec())


def test_no_answer_in_time_means_that_it_is_not_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_module, "START_TIMEOUT_S", 0.3)
    with pytest.raises(RuntimeUnavailable):
        ProcessRuntime(tmp_path, ("/bin/sleep", "300")).start(spec())
    assert not ProcessRuntime(tmp_path).inspect("one").present


def test_what_a_killed_supervisor_left_is_ended_before_it_is_called_absent(town: Town) -> None:
    attempt = town.sling("(setsid sleep 300 &) ; echo spread; sleep 300")
    pid = town.start(attempt)
    town.wait_output(attempt, b"spread")
    eventually(lambda: len(processes.descendants(pid)) >= 3)
    tree = processes.descendants(pid)
    os.kill(pid, signal.SIGKILL)
    found = eventually(lambda: (status := town.runtime.inspect(attempt.name)).present or status)
    found = eventually(lambda: not town.runtime.inspect(attempt.name).present)
    assert found
    assert town.runtime.inspect(attempt.name).exit_code is None
    assert not [pid for pid in tree if (left := processes.look(pid)) and not left.zombie]


def test_a_reused_pid_is_not_taken_for_the_supervisor(town: Town) -> None:
    attempt = town.run("true")
    files = town.files(attempt)
    files.pid.write_text(json.dumps({"pid": os.getpid(), "born": "another-boot:1"}))
    assert not town.runtime.inspect(attempt.name).present
    town.runtime.stop(attempt.name, grace_s=5)


def test_an_attempt_without_its_record_is_found_by_its_environment(town: Town) -> None:
    attempt = town.sling("echo up; sleep 300")
    town.start(attempt)
    town.wait_output(attempt, b"up")
    town.files(attempt).pid.unlink()
    assert town.runtime.inspect(attempt.name).present
    town.runtime.stop(attempt.name, grace_s=0)
    assert not town.runtime.inspect(attempt.name).present


def test_commands_of_a_worker_that_died_are_ended_by_the_next_command(town: Town, tmp_path: Path) -> None:
    gate = (
        "import sys;from pathlib import Path;from gastown.runtimes import CommandSpec;"
        "from gastown.runtimes.process import ProcessRuntime;"
        "ProcessRuntime(Path(sys.argv[1])).run(CommandSpec(command='sleep 301',cwd=Path('/'),environment={}))"
    )
    worker = subprocess.Popen([sys.executable, "-c", gate, str(town.home)])
    owner = str(worker.pid)

    def of_worker() -> list[int]:
        return [p for p, e in processes.marked(MARK).items() if e[MARK.encode()].split(b".")[1] == owner.encode()]

    eventually(of_worker)
    mine = CommandSpec(command="true", cwd=tmp_path, environment={"PATH": "/usr/bin:/bin"})
    town.runtime.run(mine)
    assert of_worker()
    worker.kill()
    worker.wait()
    town.runtime.run(mine)
    assert not of_worker()


@pytest.mark.skipif(not processes.LINUX, reason="/proc")
def test_inspection_is_quick(town: Town) -> None:
    attempt = town.sling("echo up; sleep 300")
    town.start(attempt)
    town.wait_output(attempt, b"up")

    def fastest(name: str) -> float:
        times = []
        for _ in range(50):
            before = time.perf_counter()
            town.runtime.inspect(name)
            times.append(time.perf_counter() - before)
        return min(times)

    assert fastest(attempt.name) < 0.02  # usual is 1 ms
    assert fastest("never-was") < 0.0005 * len(list(processes.processes())) + 0.05


def test_a_process_without_a_name_or_with_none_of_ours_is_not_listed(town: Town) -> None:
    """An agent may start what it likes; one such process must not break the sweep, the drain, and `down`."""
    attempt = town.sling("echo up; sleep 300")
    town.start(attempt)
    mark = {runs.NODE: runs.node_mark(town.home)}
    odd: list[dict[str, str]] = [{}, {runs.DISPATCH: ""}, {runs.DISPATCH: "../../etc"}, {runs.DISPATCH: "\udcff"}]
    others = [subprocess.Popen(["/bin/sleep", "300"], env={**mark, **each}) for each in odd]
    try:
        eventually(lambda: len(processes.marked(runs.NODE, mark[runs.NODE])) >= len(others) + 1)
        assert town.runtime.list_names() == [attempt.name]
    finally:
        for other in others:
            other.kill()
            other.wait()
