"""G4: merged once or not at all, whatever is in the way, and whoever dies when."""

import os
import signal

import psutil
import pytest

from gastown.commands import towns, work
from gastown.db import in_transaction
from gastown.tasks.base import poke, publish
from tests.flows.town import Town, git, until


def held(town: Town, bead: str, code: str) -> bool:
    return town.bead(bead).status == "in_review" and town.request(bead).held_code == code


def retry(town: Town, bead: str, *, again: bool = False) -> None:
    in_transaction(lambda session: work.retry(session, towns.ensure_town(session, "default"), bead, again=again))
    poke()


def test_conflict_is_held_and_worked_on_again(town: Town) -> None:
    """S54: two beads change one line. The second is held; its agent, asked again, resolves it."""
    meet = town.folder / f"{town.rig}-meet"
    meet.mkdir()
    # each waits until the other has its clone, so that both start from the same commit
    both = f"touch {meet}/$GASTOWN_BEAD; until [ $(ls {meet} | wc -l) = 2 ]; do sleep 0.1; done"
    again = "git fetch -q origin main; git merge -q -X ours FETCH_HEAD -m resolved"
    first, second = (
        town.sling(
            f"if [ $GASTOWN_EPOCH -gt 1 ]; then {again}; else {both}; echo {word} > README; git commit -qam {word}; fi"
        )
        for word in ("first", "second")
    )
    until("one of them is held", lambda: held(town, first, "conflict") or held(town, second, "conflict"))
    winner, loser = (second, first) if held(town, first, "conflict") else (first, second)
    town.merged(winner)
    assert "README" in town.request(loser).held_reason
    retry(town, loser, again=True)
    town.merged(loser)
    assert len(town.attempts(loser)) == 2


def test_red_gate_is_held_with_its_output(town: Town) -> None:
    """S55: nothing is merged; the next attempt starts from the same commits and is told what the gate said."""
    town.new_rig("echo looking for good.txt; test -f good.txt")
    bead = town.sling("if test -f bad.txt; then echo good > good.txt; else echo bad > bad.txt; fi")
    until("it is held", lambda: held(town, bead, "gate_failed"))
    assert "looking for good.txt" in town.request(bead).held_output
    assert town.merge_commits(bead) == 0
    retry(town, bead, again=True)
    town.merged(bead)
    assert town.read("bad.txt") == "bad"


def test_dirty_checkout_waits_and_lands_by_itself(town: Town) -> None:
    """S62: the rig is the user's own checkout, with changes of theirs in it."""
    readme = town.repository / "README"
    readme.write_text("my own words\n")
    first = town.sling("echo one > one.txt")
    until("it waits", lambda: held(town, first, "dirty_checkout"))
    assert "README" in town.request(first).held_reason
    second = town.sling("echo two > two.txt")
    until("the second stacks on it", lambda: held(town, second, "dirty_checkout"))
    assert readme.read_text() == "my own words\n"
    assert not (town.repository / "one.txt").exists()
    git("checkout", "-q", "README", cwd=town.repository)
    town.merged(first, second)
    assert (town.repository / "one.txt").read_text() == "one\n"
    assert git("status", "--porcelain", cwd=town.repository) == ""


def test_canceled_between_gates_and_push(town: Town) -> None:
    """S67: the gate still runs when the bead is canceled: not merged."""
    go = town.folder / "cancel-go"
    town.new_rig(f"until test -e {go}; do sleep 0.1; done")
    bead = town.sling("echo done > result.txt")
    until("its gate runs", lambda: town.bead(bead).status == "in_review" and "gate" in (town.request(bead).step or ""))
    for effect in in_transaction(lambda session: work.cancel(session, towns.ensure_town(session, "default"), bead)):
        publish(effect)
    go.touch()
    after = town.sling("echo after > after.txt")
    town.merged(after)
    assert town.merge_commits(bead) == 0


def test_target_moves_while_gates_run(town: Town) -> None:
    """S53: it starts over on the new head, and that is no failure."""
    go = town.folder / "move-go"
    town.new_rig(f"until test -e {go}; do sleep 0.1; done", bare=True)
    bead = town.sling("echo done > result.txt")
    until("its gate runs", lambda: town.bead(bead).status == "in_review" and "gate" in (town.request(bead).step or ""))
    clone = town.folder / f"{town.rig}-somebody"
    git("clone", "-q", str(town.repository), str(clone), cwd=town.folder)
    (clone / "theirs.txt").write_text("theirs\n")
    git("add", ".", cwd=clone)
    git("commit", "-q", "-m", "Theirs", cwd=clone)
    git("push", "-q", "origin", "HEAD:main", cwd=clone)
    go.touch()
    town.merged(bead)
    assert town.read("theirs.txt") == "theirs"
    assert town.request(bead).merge_epoch == 2


def test_no_changes_is_not_merged(town: Town) -> None:
    """S57."""
    bead = town.sling("true")
    until("it is over", lambda: town.bead(bead).status == "closed")
    assert town.bead(bead).resolution == "no_changes"
    assert town.merge_commits(bead) == 0


def test_refused_push_is_held(town: Town) -> None:
    """S36: a protected target. The work is kept, and `retry` goes on when the protection is gone."""
    town.new_rig(bare=True)
    hook = town.repository / "hooks" / "update"
    hook.write_text('#!/bin/sh\ncase "$1" in refs/heads/*) echo no pushes today; exit 1;; esac\n')
    hook.chmod(0o755)
    bead = town.sling("echo done > result.txt")
    until("it is held", lambda: held(town, bead, "push_refused"))
    assert "no pushes today" in town.request(bead).held_reason
    hook.unlink()
    retry(town, bead)
    town.merged(bead)


@pytest.mark.parametrize("moment", ["gate", "push"])
def test_merge_worker_is_killed(own_town: Town, moment: str) -> None:
    """S52: its lease runs out; a merge that was being pushed is settled by a look at the target."""
    own_town.new_rig("sleep 1", bare=True)
    if moment == "push":  # the target takes it, and its answer takes long: the worker dies in between
        hook = own_town.repository / "hooks" / "post-receive"
        hook.write_text("#!/bin/sh\ngrep -q refs/heads/ || exit 0\ntouch pushed; sleep 4\n")
        hook.chmod(0o755)
    first = own_town.sling("echo one > one.txt")
    second = own_town.sling("cat one.txt; echo two > two.txt", after=[first])
    if moment == "push":
        until("it is pushed", lambda: (own_town.repository / "pushed").exists())
    else:
        in_gate = lambda: own_town.bead(first).status == "in_review" and "gate" in (own_town.request(first).step or "")  # noqa: E731
        until("its gate runs", in_gate)
    worker = own_town.child("merge")
    for each in [*psutil.Process(worker).children(recursive=True), psutil.Process(worker)]:
        os.kill(each.pid, signal.SIGKILL)
    own_town.merged(first, second, timeout_s=240)
