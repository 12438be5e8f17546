"""What repositories, their people and their gates can do to a merge: a typed outcome, a clear message, nothing lost,
and the next merge goes ahead."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gastown.agent import processes
from gastown.agent.git import git
from gastown.errors import NotFound, UsageError
from gastown.gates import Gate, MergeMethod, stored
from gastown.models import MergeRequest
from gastown.refinery.merging import Prepared, Pushed, PushRefused, push
from gastown.refinery.repository import probe
from gastown.states import HoldCode, MergeStatus
from tests.builders import now
from tests.refinery.rig import Rig, add_hook, head
from tests.refinery.town import Town
from tests.store.merging import bead

WORKER = "merge@here"
BAD, GOOD = {"bad": "bad\n"}, {"good": "good\n"}
ODD_NAMES = [os.fsdecode(b"caf\xe9"), "with\nnewline", "tab\tand \x1b[31mred", "-dash", 'quo"te', " lead", "a\\b", "é"]
ODD_BRANCHES = [
    *(
        "@",
        "-x",
        "--force",
        "HEAD",
        "FETCH_HEAD",
        "refs/heads/x",
        "origin/main",
        "tagged",
        "a" * 40,
        "x" * 200,
        "a.b/c.d",
    ),
    *("+plus", "!bang", "a=b,c;d", "%s%n", "(x)<y>|z&", "{}", "sp\N{NO-BREAK SPACE}ace", "日本", "main\u202e"),
]
every_method = pytest.mark.parametrize("method", list(MergeMethod))


def gates_of(command: str, **more: float) -> list[dict[str, Any]]:
    """A gate that does this to the work that has the file `bad`, and passes for any other."""
    return stored([Gate(name="tests", command=f"test ! -e bad || {{ {command}; }}", **more)])  # type: ignore[arg-type]


def held(town: Town) -> MergeRequest:
    """The first, after the queue was worked on: held and whole, while the second is merged."""
    town.go_on(WORKER)
    bad, good = town.requests
    assert now(good).status == MergeStatus.CLOSED
    assert town.merge_commits(good) == [head(town.rig.remote, "main")]
    found = now(bad)
    assert (found.status, bead(bad).status, bead(bad).verdict) == (MergeStatus.OPEN, "in_review", "merge_held")
    assert head(town.rig.remote, f"refs/gastown/head/{bad.bead_id}/1") == bad.head_sha
    assert town.rig.leftovers() == []
    return found


# --- gates


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("no-such-program --all", "cannot run: a program in it is not found"),
        ("./bad", "cannot run: a program in it is not found or not executable"),
        ("echo name?; read answer", "failed with exit code 1"),
        ("echo name? > /dev/tty", "failed with exit code"),
        ("printf '\\\\000\\\\377\\\\033[31mred\\\\n'; kill -SEGV $$", "failed with exit code"),
    ],
    ids=["not there", "not executable", "asks", "asks the terminal", "binary"],
)
def test_a_gate_that_cannot_pass(town: Town, command: str, words: str) -> None:
    town.fill([BAD, GOOD], gates=gates_of(command))
    found = held(town)
    assert (found.held_code, words in (found.held_reason or "")) == (HoldCode.GATE_FAILED, True), found.held_reason
    assert (found.held_reason or "").startswith("gate tests ")


def test_a_gate_that_prints_300_mb(town: Town) -> None:
    """Neither kept in memory nor on disk, and shown with its end."""
    town.fill([BAD, GOOD], gates=gates_of("head -c 300000000 /dev/zero; printf '\\377the end'; exit 1"))
    found = held(town)
    assert found.held_code == HoldCode.GATE_FAILED
    assert (found.held_output or "").endswith("the end")
    assert len(found.held_output or "") < 25_000
    assert town.workers.peak_mb < 300


def test_a_gate_that_hangs_and_leaves_daemons(town: Town) -> None:
    """S56. Also one that has a session of its own, ignores signals and keeps the output open."""
    pids = town.folder / "pids"
    daemon = f"setsid sh -c 'trap \"\" HUP TERM INT; echo $$ >> {pids}; while :; do sleep 1; done' &"
    wait = f"while test $(wc -l < {pids}) != 2; do :; done"
    town.fill([BAD, GOOD], gates=gates_of(f"{daemon} {daemon} touch {pids}; {wait}; sleep 300", timeout_s=4.0))
    found = held(town)
    assert found.held_code == HoldCode.GATE_FAILED
    assert (found.held_reason or "").endswith("ran out of time after 4 s")
    for pid in pids.read_text().split():
        left = processes.look(int(pid))
        assert left is None or left.zombie


def test_a_gate_that_leaves_daemons_and_passes(town: Town) -> None:
    pid = town.folder / "pid"
    town.fill([GOOD], gates=[f"setsid sleep 300 & echo $! > {pid}"])
    town.go_on(WORKER)
    left = processes.look(int(pid.read_text()))
    assert left is None or left.zombie
    town.check()


# --- hooks


REFUSE = "git ls-tree --name-only $new | grep -qx bad && { echo 'no bad files: ask Ada' >&2; exit 1; }"
HOOKS = {
    "pre-receive": f"#!/bin/sh\nwhile read old new ref; do case $ref in refs/heads/*) {REFUSE};; esac; done; exit 0\n",
    "update": f"#!/bin/sh\nnew=$3; case $1 in refs/heads/*) {REFUSE};; esac; exit 0\n",
    "reference-transaction": "#!/bin/sh\ntest $1 = prepared || exit 0\n"
    f"while read old new ref; do case $ref in refs/heads/*) {REFUSE};; esac; done; exit 0\n",
}


@pytest.mark.parametrize("name", HOOKS)
def test_a_hook_of_the_remote_refuses(town: Town, name: str) -> None:
    """S36: held with the words of the hook. Whoever asked Ada tries again, and it is merged."""
    town.fill([BAD, GOOD])
    add_hook(town.rig.remote, name, HOOKS[name])
    found = held(town)
    assert found.held_code == HoldCode.PUSH_REFUSED
    assert "no bad files: ask Ada" in (found.held_reason or "")


@pytest.mark.parametrize("name", ["post-receive", "post-update"])
def test_a_hook_of_the_remote_that_fails_too_late(town: Town, name: str) -> None:
    """The target has it by then."""
    town.fill([GOOD])
    add_hook(town.rig.remote, name, "#!/bin/sh\necho it is broken >&2\nexit 1\n")
    town.go_on(WORKER)
    town.check()


def test_a_hook_that_prints_without_end_is_refused_in_few_words(bare: Rig) -> None:
    job = bare.work("gt-1", GOOD)
    outcome = bare.prepare(job)
    assert isinstance(outcome, Prepared)
    add_hook(bare.remote, "pre-receive", "#!/bin/sh\nhead -c 20000000 /dev/urandom >&2\necho >&2 the end\nexit 1\n")
    refused = push(job, outcome)
    assert isinstance(refused, PushRefused)
    assert refused.reason.endswith("the end (pre-receive hook declined)")
    assert len(refused.reason) < 2100
    assert "\0" not in refused.reason
    refused.reason.encode()


def test_a_checkout_whose_own_hook_refuses_the_files(checkout: Rig) -> None:
    """`push-to-checkout` takes the place of git's own update of the files."""
    before = head(checkout.remote)
    job = checkout.work("gt-1", GOOD)
    outcome = checkout.prepare(job)
    assert isinstance(outcome, Prepared)
    add_hook(checkout.remote, "push-to-checkout", "#!/bin/sh\necho not in here >&2\nexit 1\n")
    refused = push(job, outcome)
    assert isinstance(refused, PushRefused), refused
    assert refused.reason in ("(push-to-checkout hook declined)", "not in here (push-to-checkout hook declined)")
    assert head(checkout.remote) == before
    assert git("status", "--porcelain", cwd=checkout.remote) == ""


CLIENT_HOOKS = [
    *("applypatch-msg", "pre-applypatch", "post-applypatch", "pre-commit", "pre-merge-commit", "prepare-commit-msg"),
    *("commit-msg", "post-commit", "pre-rebase", "post-checkout", "post-merge", "pre-push", "pre-auto-gc"),
    # not post-index-change: git's server side runs it in a checkout that it updates
    *("post-rewrite", "fsmonitor-watchman"),
]


@pytest.mark.parametrize(
    ("where", "method"), [("init.templateDir", MergeMethod.MERGE), *(("core.hooksPath", each) for each in MergeMethod)]
)
def test_hooks_of_a_person_do_not_run(rig: Rig, tmp_path: Path, where: str, method: MergeMethod) -> None:
    """They would hang here, or refuse: they were written for a person at a terminal."""
    folder = tmp_path / "theirs" / "hooks"
    for name in CLIENT_HOOKS:
        add_hook(folder.parent, name, f"#!/bin/sh\necho {name} >> {tmp_path}/ran\nsleep 300\nexit 1\n")
    path = folder if where == "core.hooksPath" else folder.parent
    git("config", "--global", where, str(path))
    job = replace(rig.work("gt-1", GOOD), method=method)
    outcome = rig.prepare(job)
    assert isinstance(outcome, Prepared), outcome
    assert push(job, outcome) == Pushed()
    assert not (tmp_path / "ran").exists(), (tmp_path / "ran").read_text()


# --- names


@pytest.mark.parametrize("branch", ODD_BRANCHES)
def test_a_target_of_any_name(bare: Rig, branch: str) -> None:
    git("update-ref", f"refs/heads/{branch}", "refs/heads/main", cwd=bare.remote)
    git("tag", "tagged", "refs/heads/main", cwd=bare.remote)
    job = bare.work("gt-1", GOOD, target=branch)
    main = head(bare.remote, "refs/heads/main")
    outcome = bare.prepare(job, gates=["test -e good"])
    assert isinstance(outcome, Prepared), outcome
    assert push(job, outcome) == Pushed()
    assert head(bare.remote, f"refs/heads/{branch}") == outcome.merge_sha
    assert (head(bare.remote, "refs/heads/main"), head(bare.remote, "refs/tags/tagged")) == (main, main)
    assert len(git("for-each-ref", "refs/heads", "refs/tags", cwd=bare.remote).splitlines()) == 3


def test_branches_of_any_name_beside_the_target(bare: Rig) -> None:
    """Fetched, lent to each clone, and in nobody's way. Bytes that are no text cannot be a target: rows are text."""
    latin = os.fsdecode(b"caf\xe9")
    for branch in (*ODD_BRANCHES, latin):
        git("update-ref", f"refs/heads/{branch}", "refs/heads/main", cwd=bare.remote)
    job = bare.work("gt-1", GOOD)
    outcome = bare.prepare(job)
    assert isinstance(outcome, Prepared), outcome
    assert push(job, outcome) == Pushed()
    with pytest.raises(UsageError, match=r"the branch caf.* is not UTF-8"):
        probe(str(bare.remote), latin)
    with pytest.raises(NotFound) as caught:
        probe(str(bare.remote), os.fsdecode(b"\xff"))
    f"{caught.value} {caught.value.hint}".encode()


def test_a_repository_whose_path_is_no_text(tmp_path: Path) -> None:
    place = tmp_path / os.fsdecode(b"caf\xe9")
    git("init", "--quiet", "--initial-branch=main", str(place))
    with pytest.raises(UsageError, match="is not UTF-8"):
        probe(str(place))


@every_method
def test_files_of_any_name(rig: Rig, method: MergeMethod) -> None:
    job = replace(rig.work("gt-1", dict.fromkeys(ODD_NAMES, "x")), method=method)
    outcome = rig.prepare(job, gates=["test $(ls | wc -l) -gt 8"])
    assert isinstance(outcome, Prepared), outcome
    assert push(job, outcome) == Pushed()
    assert set(ODD_NAMES) <= set(git("ls-tree", "-z", "--name-only", "main", cwd=rig.remote).split("\0"))


def test_files_of_any_name_conflict(town: Town) -> None:
    """Their names are stored, and shown on one line."""
    town.fill([dict.fromkeys(ODD_NAMES, "first"), dict.fromkeys(ODD_NAMES, "second"), GOOD])
    town.go_on(WORKER)
    first, second, third = (now(request) for request in town.requests)
    assert (first.status, third.status) == (MergeStatus.CLOSED, MergeStatus.CLOSED)
    assert (second.status, second.held_code) == (MergeStatus.OPEN, HoldCode.CONFLICT)
    assert (second.held_reason or "").startswith(
        "conflicts with main in  lead, -dash, a\\b, caf\N{REPLACEMENT CHARACTER}"
    )
    assert (second.held_reason or "").isprintable()
    assert bead(second).verdict_reason == second.held_reason
