"""gastown why without a bead: what holds the town back, first the town's gates, each with what opens it."""

import pytest
from sqlalchemy import text

from gastown.db import transaction
from gastown.models import Bead
from gastown.states import BeadStatus, HoldCode, Verdict
from tests.builders import a_bead, a_merge, a_node, a_rig, a_town, an_attempt, the_api_is_there
from tests.cli.conftest import Gastown
from tests.ticks import tick


@pytest.fixture
def waiting(gastown: Gastown) -> list[str]:
    """In a town that is full: one at work, two ready, three held, one failed."""
    with transaction() as session:
        the_api_is_there(session)
        a_node(session)
        a_rig(session, name="rig")
        a_town(session).policy = {"max_running": 1}
        an_attempt(session)
        held = [a_bead(session, held_at=text("now()"), held_reason=f"reason {n}").id for n in range(3)]
        for _ in range(2):
            a_bead(session)
        a_bead(session, status=BeadStatus.FAILED, failure_message="no such command")
    tick()
    return held


def test_the_towns_gates_come_first(gastown: Gastown, waiting: list[str]) -> None:
    found = gastown("why", "--json").json
    assert (found["down"], found["unclosed"]) == (False, 7)
    assert [(each["verdict"], each["beads"], each["of_town"]) for each in found["holdups"]] == [
        ("at_capacity", 2, True),
        ("held", 3, False),
        ("failed", 1, False),
        ("awaiting_agent", 1, False),
    ]
    full, held, failed, _ = found["holdups"]
    assert full["reason"] == "the town runs 1 of at most 1 attempts (policy max_running)"
    assert full["rig"] == "rig"
    assert held["example"] in waiting
    assert held["command"] == f"gastown bead release {held['example']}"
    assert failed["reason"] == "no such command"
    assert held["needs_you"]
    assert failed["needs_you"]
    assert not full["needs_you"]


def test_in_words(gastown: Gastown, waiting: list[str]) -> None:
    said = gastown("why")
    lines = said.out.splitlines()
    assert lines[:2] == [
        "at capacity: 2 beads on rig",
        "  reason  the town runs 1 of at most 1 attempts (policy max_running)",
    ]
    assert "held: 3 beads" in lines
    assert "gastown why --all" in said.err
    assert not any(bead in line and line.startswith("gt-") for bead in waiting for line in lines)


def test_all_lists_the_beads_up_to_a_limit(gastown: Gastown, waiting: list[str]) -> None:
    said = gastown("why", "--all", "-n", "2")
    assert said.out.startswith("at capacity: 2 beads on rig")
    assert "and 5 beads more; --limit shows them" in said.out
    everything = gastown("why", "--all", "--json").json
    assert (len(everything["beads"]), everything["left_out"]) == (7, 0)
    some = gastown("why", "--all", "--json", "-n", "3").json
    assert (len(some["beads"]), some["left_out"]) == (3, 4)
    assert gastown("why", "--rig", "none").code == 3
    assert gastown("why", "--rig", "rig", "--json").json["unclosed"] == 7


def test_a_gate_with_a_time_and_a_rig_of_its_own(gastown: Gastown, waiting: list[str]) -> None:
    gastown("pause", "--rig", "rig")
    (first, *_) = gastown("why", "--json").json["holdups"]
    assert (first["verdict"], first["command"]) == ("paused", "gastown resume --rig rig")
    gastown("resume", "--rig", "rig")
    gastown("town", "set", "--policy", "max_running=9")
    with transaction() as session:
        session.execute(text("UPDATE towns SET breaker_opened_at = gastown_now(), breaker_reason = 'docker is away'"))
    (first, *_) = gastown("why", "--json").json["holdups"]
    assert first["verdict"] == Verdict.BREAKER_OPEN
    assert first["opens_at"] is not None
    assert "docker is away" in gastown("why").out


POISON = {
    "a class of tomorrow": "UPDATE beads SET failure_class = 'tomorrow', failure_code = 'x' WHERE id = :id",
    "a verdict of tomorrow": "UPDATE beads SET verdict = 'tomorrow' WHERE id = :id",
    "a policy that is a list": "UPDATE rigs SET policy = '[3]'",
    "an environment that is none": "UPDATE rigs SET environment = '3'",
}


@pytest.mark.parametrize("poison", POISON)
def test_what_another_version_wrote_stops_no_command(gastown: Gastown, waiting: list[str], poison: str) -> None:
    with transaction() as session:
        session.execute(text(POISON[poison]), {"id": waiting[0]} if ":id" in POISON[poison] else {})
        session.execute(text("UPDATE beads SET wake_at = gastown_now() WHERE status = 'open'"))
        other = a_bead(session).id
    tick_without_checks()
    assert gastown("why", waiting[0], "--json").json["id"] == waiting[0]
    assert waiting[0] in {row["id"] for row in gastown("why", "--all", "--json").json["beads"]}
    for command in (
        ("why",),
        ("why", "--all"),
        ("why", waiting[0]),
        ("bead", "list"),
        ("bead", "show", waiting[0]),
        ("bead", "show", other),
        ("rig", "list"),
        ("rig", "show", "rig"),
        ("town", "show"),
        ("node", "list"),
        ("inbox",),
        ("events",),
        ("config", "show"),
    ):
        assert gastown(*command).code == 0, command
    with transaction() as session:
        assert session.get_one(Bead, other).verdict == "ready"


def tick_without_checks() -> None:
    """What is poisoned has no decision that could be made again."""
    from gastown.tasks.reconcile import reconcile_town

    with transaction() as session:
        town_id = a_town(session).id
    reconcile_town(town_id)


def test_merges_that_are_held_for_different_reasons_have_different_advice(gastown: Gastown) -> None:
    with transaction() as session:
        a_rig(session, name="rig")
        for code in (HoldCode.CONFLICT, HoldCode.GATE_FAILED, HoldCode.GATE_FAILED):
            merge = a_merge(session, held_code=code, held_reason=f"held by {code}")
            session.get_one(Bead, merge.bead_id).verdict = Verdict.MERGE_HELD
    found = gastown("why", "--json").json["holdups"]
    assert sorted((each["verdict"], each["beads"]) for each in found) == [("merge_held", 1), ("merge_held", 2)]
    assert len({each["opens"] for each in found}) == 2
