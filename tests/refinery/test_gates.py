"""Gates run in the merged tree, in order, bounded, and leave nothing behind; a red one names itself."""

import os
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from gastown.agent.git import git
from gastown.errors import NotFound, RepositoryUnavailable
from gastown.refinery.gates import GateResult, check_base
from gastown.refinery.merging import Held, MergeJob, Prepared, Pushed, Stopped, prepare, push
from gastown.states import HoldCode
from tests.refinery.rig import Rig, head


def held(rig: Rig, job: MergeJob, *gates: str, **changes: object) -> Held:
    outcome = rig.prepare(job, gates=gates, **changes)
    assert isinstance(outcome, Held), outcome
    assert outcome.code is HoldCode.GATE_FAILED
    assert rig.leftovers() == []
    return outcome


@pytest.fixture
def job(bare: Rig) -> MergeJob:
    return bare.work("gt-1", {"new": "new\n"})


def wait_until_dead(pid: int) -> None:
    deadline = time.monotonic() + 10
    while Path(f"/proc/{pid}/cmdline").exists() and Path(f"/proc/{pid}/cmdline").read_bytes():
        assert time.monotonic() < deadline, "it lives on"
        time.sleep(0.02)


def test_setup_and_gates_in_the_merged_tree(bare: Rig, job: MergeJob) -> None:
    outcome = bare.prepare(
        job,
        setup="echo ready > built; echo $TMPDIR >> ../seen",
        gates=("test -f new && test -f README && grep -q ready built", 'test "$(git log -1 --format=%an)" = Gastown'),
    )
    assert isinstance(outcome, Prepared)
    assert bare.steps[:3] == ["fetch", "merge", "setup"]
    assert bare.steps[3].startswith("gate: test -f new")
    assert push(job, outcome) == Pushed()
    assert "built" not in git("ls-tree", "--name-only", "main", cwd=bare.remote).split()
    (bare.home / "merges" / "1" / "seen").unlink()


def test_environment_is_the_rigs(bare: Rig, job: MergeJob, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_OF_THE_WORKER", "1")
    environment = {"PATH": os.environ["PATH"], "COLOR": "blue"}
    outcome = held(bare, job, "env; exit 1", environment=environment)
    shown = outcome.output.splitlines()
    cache = bare.home / "cache" / "1"
    assert {f"HOME={cache}/home", f"GASTOWN_CACHE={cache}", "COLOR=blue"} <= set(shown)
    assert "SECRET_OF_THE_WORKER" not in outcome.output
    assert any(line.startswith(f"TMPDIR={bare.home}/merges/1/gt-1-1") for line in shown)


def test_what_set_up_keeps_is_there_at_the_next_merge(bare: Rig, job: MergeJob) -> None:
    """Tools write to HOME, and a set-up puts its virtual environment into GASTOWN_CACHE, for agents and gates alike."""
    setup = "test -d $GASTOWN_CACHE/venv || mkdir $GASTOWN_CACHE/venv; echo x >> $GASTOWN_CACHE/venv/runs; touch ~/.rc"
    for epoch, runs in ((1, 1), (2, 2)):
        gate = f"test -f ~/.rc && test $(wc -l < $GASTOWN_CACHE/venv/runs) = {runs}"
        assert isinstance(bare.prepare(job, merge_epoch=epoch, setup=setup, gates=(gate,)), Prepared)


def test_red(bare: Rig, job: MergeJob) -> None:
    before = head(bare.remote, "main")
    outcome = held(bare, job, "true", "echo this is why; exit 3", "touch never")
    assert outcome.reason == "gate `echo this is why; exit 3` failed with exit code 3"
    assert outcome.output == "this is why\n"
    assert bare.steps[-1].startswith("gate: echo")
    assert head(bare.remote, "main") == before


def test_setup_fails(bare: Rig, job: MergeJob) -> None:
    assert held(bare, job, "true", setup="exit 2").reason == "setup `exit 2` failed with exit code 2"


def test_program_not_found(bare: Rig, job: MergeJob) -> None:
    outcome = held(bare, job, "no-such-program --quiet")
    assert "is not found" in outcome.reason
    assert "127" in outcome.reason


def test_hangs(bare: Rig, job: MergeJob, tmp_path: Path) -> None:
    begun = time.monotonic()
    outcome = held(bare, job, f"sleep 300 & echo $! > {tmp_path}/pid; echo begun; wait", gate_timeout_s=1.0)
    assert time.monotonic() - begun < 30
    assert "ran out of time after 1 s" in outcome.reason
    assert "begun" in outcome.output
    wait_until_dead(int((tmp_path / "pid").read_text()))


def test_prints_100_mb(bare: Rig, job: MergeJob) -> None:
    outcome = held(bare, job, "head -c 100000000 /dev/zero; echo; printf '\\377the end'; exit 1")
    assert outcome.output.endswith("the end")
    assert len(outcome.output) < 50_000
    assert "\0" not in outcome.output


def test_leaves_a_daemon(bare: Rig, job: MergeJob, tmp_path: Path) -> None:
    daemon = f"setsid sh -c 'echo $$ > {tmp_path}/pid; exec sleep 300' >/dev/null 2>&1 &"
    outcome = bare.prepare(job, gates=(f"{daemon} while ! test -s {tmp_path}/pid; do :; done",))
    assert isinstance(outcome, Prepared)
    wait_until_dead(int((tmp_path / "pid").read_text()))


def test_asks_for_input(bare: Rig, job: MergeJob) -> None:
    assert "exit code 1" in held(bare, job, "read answer").reason


def test_wrecks_its_worktree(bare: Rig, job: MergeJob) -> None:
    """What is pushed is the merge commit, whatever a gate does to the clone that it runs in."""
    gates = ("git checkout -q --orphan x && git commit -qm x; rm -rf .git new; mkdir ro && touch ro/x && chmod 500 ro",)
    outcome = bare.prepare(job, gates=gates)
    assert isinstance(outcome, Prepared)
    assert push(job, outcome) == Pushed()
    assert git("show", "main:new", cwd=bare.remote) == "new\n"
    assert bare.leftovers() == []


def test_stops_when_the_lease_is_lost(bare: Rig, job: MergeJob, tmp_path: Path) -> None:
    pid_file, lost = tmp_path / "pid", threading.Event()

    def lose() -> None:
        deadline = time.monotonic() + 30
        while not (pid_file.exists() and pid_file.read_text()) and time.monotonic() < deadline:
            time.sleep(0.02)
        lost.set()

    thread = threading.Thread(target=lose)
    thread.start()
    gates = (f"echo $$ > {pid_file}; sleep 300",)
    outcome = prepare(replace(job, gates=gates), bare.runtime, bare.steps.append, lost.is_set)
    thread.join(30)
    assert outcome == Stopped()
    wait_until_dead(int(pid_file.read_text()))
    assert bare.leftovers() == []


def base(rig: Rig, *gates: str, setup: str = "", branch: str = "main") -> list[GateResult]:
    return check_base(
        home=rig.home,
        rig_id=1,
        repository=str(rig.remote),
        branch=branch,
        setup=setup,
        gates=gates,
        environment={"PATH": os.environ["PATH"]},
        runtime=rig.runtime,
        on_step=rig.steps.append,
    )


def test_base_shows_every_gate(rig: Rig) -> None:
    results = base(rig, "false", "test -f README", "no-such-program", setup="echo built")
    assert [(result.step, result.passed, result.not_found) for result in results] == [
        ("setup", True, False),
        ("gate", False, False),
        ("gate", True, False),
        ("gate", False, True),
    ]
    assert results[0].output == "built\n"
    assert rig.steps == ["fetch", "setup", "gate: false", "gate: test -f README", "gate: no-such-program"]
    assert rig.leftovers() == []


def test_base_ends_with_a_failed_setup(bare: Rig) -> None:
    assert [result.step for result in base(bare, "true", setup="exit 1")] == ["setup"]


def test_base_has_what_merges_have(bare: Rig) -> None:
    """Each of its commands finds HOME and GASTOWN_CACHE, or `rig add` would be red where merges are green."""
    [setup, gate] = base(
        bare, 'test -f ~/.rc && test -f "$GASTOWN_CACHE/venv"', setup='touch ~/.rc "$GASTOWN_CACHE/venv"'
    )
    assert setup.passed
    assert gate.passed, gate.output


def test_base_errors(bare: Rig, tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        base(bare, "true", branch="nope")
    bare.remote.rename(tmp_path / "away")
    with pytest.raises(RepositoryUnavailable):
        base(bare, "true")
