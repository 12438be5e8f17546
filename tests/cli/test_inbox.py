"""gastown inbox: what waits for a person, with what to type next."""

import pytest
from sqlalchemy import text

from gastown.cli import townwide
from gastown.db import transaction
from gastown.states import BeadStatus
from gastown.store import beads, escalations
from tests.builders import a_bead, a_town
from tests.cli.conftest import Gastown


@pytest.fixture
def failed(gastown: Gastown) -> str:
    """A bead that failed, after something that has no bead."""
    with transaction() as session:
        escalations.raise_once(session, a_town(session).id, "breaker", "20 attempts failed")
        bead = a_bead(session, status=BeadStatus.IN_PROGRESS)
        beads.fail_bead(session, bead, "config", "no such command")
        return bead.id


def test_newest_first_with_what_to_type(gastown: Gastown, failed: str) -> None:
    said = gastown("inbox")
    assert said.code == 0
    lines = said.out.splitlines()
    assert f"{failed} failed: no such command" in lines[0]
    assert lines[1].strip() == f"next: gastown logs {failed}"
    assert "20 attempts failed" in lines[2]
    assert "2 in the inbox" in townwide.read().words()
    assert townwide.read().next_command == "gastown inbox"


def test_what_is_settled_is_shown_on_request(gastown: Gastown, failed: str) -> None:
    first, second = gastown("inbox", "--json").json
    assert (first["bead_id"], first["cause"], second["cause"]) == (failed, f"failed:{failed}", "breaker")
    said = gastown("inbox", "settle", str(second["id"]))
    assert (said.code, said.out) == (0, "settled: 20 attempts failed\n")
    assert gastown("inbox", "settle", str(second["id"])).code == 3
    assert gastown("bead", "retry", failed).code == 0
    assert gastown("inbox").out == "nothing waits for you\n"
    assert "settled" in gastown("inbox", "--all").out
    assert len(gastown("inbox", "--all", "--json").json) == 2


def test_more_than_are_shown(gastown: Gastown, failed: str) -> None:
    said = gastown("inbox", "-n", "1")
    assert "20 attempts failed" not in said.out
    assert "only the newest 1" in said.err


def test_what_waits_for_a_person_without_a_request(gastown: Gastown) -> None:
    with transaction() as session:
        bead = a_bead(session, held_at=text("now()"), held_reason="not now")
    assert gastown("inbox").out == "nothing asks for you here, but 1 bead needs you\nnext: gastown why --all\n"
    assert gastown("inbox", "--json").json == []
    with transaction() as session:
        escalations.raise_once(session, bead.town_id, "breaker", "20 attempts failed")
    assert "gastown why --all" in gastown("inbox").err
