"""Gates run in the merged tree, in order, bounded, and leave nothing behind; a red one names itself."""

import os
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from gastown.agent.git import git
from gastown.errors import NotFound, RepositoryUnavailable
from gastown.gates import Gate, in_order
from gastown.refinery.gates import GateResult, check_base
from gastown.refinery.merging import Held, MergeJob, Prepared, Pushed, Stopped, prepare, push
from gastown.states import HoldCode
from tests.refinery.rig import Rig, commit, head


def held(rig: Rig, job: MergeJob, *gates: Gate | str, **changes: object) -> Held:
    outcome = rig.prepare(job, gates=gates, **changes)
    assert isinstance(outcome, Held), outcome
    assert outcome.code is HoldCode.GATE_FAILED
    assert rig.leftovers() == []
    return outcome


@pytest.fixture
def job(bare: Rig) -> MergeJob:
    return bare.work("gt-1", {"new": "new\n"})


def wait_until_dead(pid: int) -> None:
    deadline = time.monotonic() + 60
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
    command = f"sleep 300 & echo $! > {tmp_path}/pid; echo begun; wait"
    outcome = held(bare, job, Gate(name="slow", command=command, timeout_s=3.0))
    assert time.monotonic() - begun < 200
    assert "ran out of time after 3 s" in outcome.reason
    assert "begun" in outcome.output
    wait_until_dead(int((tmp_path / "pid").read_text()))


def test_prints_1_gb_of_binary(bare: Rig, job: MergeJob) -> None:
    outcome = held(bare, job, "head -c 1000000000 /dev/zero; echo; printf '\\377the end'; exit 1")
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
    assert "failed with exit code" in held(bare, job, "read answer < /dev/tty", merge_epoch=2).reason


def test_ignores_sigterm(bare: Rig, job: MergeJob, tmp_path: Path) -> None:
    command = f"trap '' TERM HUP INT; echo $$ > {tmp_path}/pid; while :; do sleep 0.1; done"
    outcome = held(bare, job, Gate(name="stubborn", command=command, timeout_s=2.0))
    assert "ran out of time" in outcome.reason
    wait_until_dead(int((tmp_path / "pid").read_text()))


# --- what a gate is beyond its command


def test_a_named_gate_has_its_own_environment_and_directory(bare: Rig) -> None:
    job = bare.work("gt-2", {"server/app.py": "x\n"})
    gate = Gate(
        name="unit",
        command='test -f app.py && test "$COLOR" = red && test "$SIZE" = big && test "$HOME" = /nowhere',
        environment={"COLOR": "red", "HOME": "/nowhere"},
        cwd="server",
    )
    environment = {"PATH": os.environ["PATH"], "COLOR": "blue", "SIZE": "big"}
    outcome = bare.prepare(job, gates=(gate,), environment=environment)
    assert isinstance(outcome, Prepared), outcome
    assert bare.steps[-1] == "gate: unit"
    assert [(run.name, run.tries, run.allowed) for run in outcome.gate_runs] == [("unit", 1, 1)]
    red = held(bare, job, replace(gate, command="false"), merge_epoch=2)
    assert red.reason == "gate unit (`false`) failed with exit code 1"


@pytest.mark.parametrize("kind", ["missing", "file", "link"])
def test_a_directory_that_is_not_in_the_work(bare: Rig, tmp_path: Path, kind: str) -> None:
    """The work may lead a gate's directory out of its clone; nothing is run there."""
    job = bare.work("gt-2", {"file": "x\n"})
    if kind == "link":
        clone = bare.scratch / "gt-2"
        (clone / "link").symlink_to(tmp_path)
        sha = commit(clone)
        bare.mirror.keep(clone, f"{sha}:refs/gastown/head/gt-2/2")
        job = replace(job, head_sha=sha)
    outcome = held(bare, job, Gate(name="there", command=f"touch {tmp_path}/ran", cwd=kind, retries=3))
    assert outcome.reason == (
        f"gate there (`touch {tmp_path}/ran`) cannot run: there is no directory {kind} in the repository"
    )
    assert not (tmp_path / "ran").exists()


def flaky(path: Path, passes_at: int) -> str:
    return f"echo x >> {path}; n=$(wc -l < {path}); echo this is try $n; test $n -ge {passes_at}"


def test_a_flaky_gate_passes_at_its_second_try(bare: Rig, job: MergeJob, tmp_path: Path) -> None:
    gate = Gate(name="flaky", command=flaky(tmp_path / "tries", 2), retries=2)
    outcome = bare.prepare(job, gates=("true", gate))
    assert isinstance(outcome, Prepared)
    first, second = outcome.gate_runs
    assert (first.name, first.tries, first.output) == ("true", 1, "")
    assert (second.name, second.tries, second.allowed) == ("flaky", 2, 3)
    assert second.output == (
        "--- try 1 of 3: failed with exit code 1\nthis is try 1\n--- try 2 of 3: passed\nthis is try 2\n"
    )
    assert bare.steps[-2:] == ["gate: flaky", "gate: flaky (try 2 of 3)"]


def test_a_flaky_gate_that_stays_red_shows_every_try(bare: Rig, job: MergeJob, tmp_path: Path) -> None:
    gate = Gate(name="flaky", command=flaky(tmp_path / "tries", 9), retries=2)
    outcome = held(bare, job, gate, "touch never")
    assert outcome.reason.endswith("failed with exit code 1, at the last of 3 tries")
    assert [f"this is try {n}" in outcome.output for n in (1, 2, 3, 4)] == [True, True, True, False]


def test_the_output_of_many_tries_is_bounded(bare: Rig, job: MergeJob) -> None:
    gate = Gate(name="loud", command="head -c 200000 /dev/zero | tr '\\0' x; false", retries=5)
    outcome = held(bare, job, gate)
    assert len(outcome.output) < 20_000
    assert outcome.output.count("--- try") == 6


def test_what_cannot_run_is_not_tried_again(bare: Rig, job: MergeJob) -> None:
    held(bare, job, Gate(name="none", command="no-such-program", retries=5))
    assert bare.steps.count("gate: none") == len([step for step in bare.steps if step.startswith("gate")]) == 1


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
        deadline = time.monotonic() + 60
        while not (pid_file.exists() and pid_file.read_text()) and time.monotonic() < deadline:
            time.sleep(0.02)
        lost.set()

    thread = threading.Thread(target=lose)
    thread.start()
    gates = (f"echo $$ > {pid_file}; sleep 300",)
    outcome = prepare(replace(job, gates=tuple(in_order(gates))), bare.runtime, bare.steps.append, lost.is_set)
    thread.join(60)
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
        gates=in_order(gates),
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
