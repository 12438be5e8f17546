"""Conflict and red gate, mended by agents that know nothing but their prompt and their clone, without a person."""

import pytest
from sqlalchemy import select

from gastown.commands import towns, work
from gastown.db import in_transaction, transaction
from gastown.models import Bead, MergeRequest
from gastown.store.escalations import list_inbox
from gastown.tasks.base import poke, publish
from tests.flows.town import Town, until

# It keeps the lines of both sides of a conflict, and does what a red gate asks for.
FIXER = r"""
set -eu
if grep -q "^# Resolve conflicts of" "$1"; then
    git fetch -q origin
    git merge -q origin/main && exit 1
    for file in $(git diff --name-only --diff-filter=U); do sed -i '/^<<<<<<<\|^=======\|^>>>>>>>/d' $file; done
    git commit -qam "Keep both"
elif grep -q "looking for good.txt" "$1"; then
    echo good > good.txt
elif grep -q "wait here" "$1"; then
    sleep 300
fi
"""


@pytest.fixture
def fixer(town: Town) -> str:
    """A preset whose agents read their prompt."""
    script = town.folder / "fixer.sh"
    script.write_text(FIXER)
    presets = town.settings.home / "presets"
    presets.mkdir(exist_ok=True)
    (presets / "fixer.toml").write_text(f'argv = ["sh", "{script}", "{{prompt_file}}"]\n')
    return "fixer"


def made_for(town: Town, bead: str) -> list[Bead]:
    """What mends, or has mended, its merge."""
    with transaction() as session:
        query = select(Bead).join(MergeRequest, MergeRequest.id == Bead.mr_id).where(MergeRequest.bead_id == bead)
        return list(session.scalars(query.order_by(Bead.created_at)))


def test_a_conflict_and_then_a_red_gate_are_mended_without_anybody(town: Town, fixer: str) -> None:
    both_in = "grep -q first README && grep -q second README"
    town.new_rig(f"if {both_in}; then echo looking for good.txt; test -f good.txt; fi", bare=True, rework_agent=fixer)
    meet = town.folder / f"{town.rig}-meet"
    meet.mkdir()
    both = f"touch {meet}/$GASTOWN_BEAD; until [ $(ls {meet} | wc -l) = 2 ]; do sleep 0.1; done"
    beads = [town.sling(f"{both}; echo {word} > README; git commit -qam 'Say {word}'") for word in ("first", "second")]
    town.merged(*beads)
    [loser] = [each for each in beads if made_for(town, each)]
    [winner] = [each for each in beads if each != loser]
    conflict, gate = made_for(town, loser)
    assert [(each.purpose, each.resolution, each.agent) for each in (conflict, gate)] == [
        ("conflict", "done", fixer),
        ("rework", "done", fixer),
    ]
    for told in ("README: both sides changed the same lines", "Say first", "Say second", f"Gastown-Bead: {winner}"):
        assert told in conflict.body
    assert conflict.id in gate.body
    assert sorted(town.read("README").split()) == ["first", "second"]
    assert town.read("good.txt") == "good"
    assert (town.request(loser).rounds, len(town.attempts(loser))) == (2, 1)
    with transaction() as session:
        assert list_inbox(session, town.bead(loser).town_id) == []


def test_cancel_in_the_middle_ends_the_agent_that_mends(town: Town, fixer: str) -> None:
    town.new_rig("echo wait here; false", rework_agent=fixer)
    bead = town.sling("echo one > one.txt")
    until("an agent mends it", lambda: made_for(town, bead))
    [mender] = made_for(town, bead)
    until("it works", lambda: any(each.phase == "agent" for each in town.attempts(mender.id)))
    default = lambda session: towns.ensure_town(session, "default")  # noqa: E731
    for effect in in_transaction(lambda session: work.cancel(session, default(session), bead)):
        publish(effect)
    poke()
    [attempt] = town.attempts(mender.id)
    assert (town.bead(bead).resolution, town.bead(mender.id).resolution) == ("canceled", "canceled")
    assert (attempt.status, attempt.code) == ("stopped", "canceled")
    assert town.request(bead).status == "closed"
