"""gastown town, rig set --policy, config show: numbers that are set, and where each in force comes from."""

import pytest
from sqlalchemy import text

from gastown.db import gastown_now, transaction
from tests.builders import a_bead, a_node, a_rig, a_town, an_agent, an_attempt, the_api_is_there
from tests.cli.conftest import Gastown


@pytest.fixture(autouse=True)
def rig(gastown: Gastown) -> None:
    with transaction() as session:
        a_rig(session, name="web")


def sources(gastown: Gastown, key: str) -> list[tuple[object, str]]:
    rows = gastown("config", "show", "--json").json
    return [(row["value"], row["source"]) for row in rows if row["setting"] == f"policy.{key}"]


def test_a_number_of_the_town_and_of_a_rig(gastown: Gastown) -> None:
    said = gastown("town", "set", "--policy", "max_agent_failures=3", "--policy", "backoff_s=0,5")
    assert (said.code, said.out) == (0, "the town: backoff_s unset -> [0, 5], max_agent_failures unset -> 3\n")
    assert gastown("rig", "set", "web", "--policy", "max_agent_failures=2").out.startswith("rig web: max_agent_fail")
    assert sources(gastown, "max_agent_failures") == [(3, "town"), (2, "rig web")]
    assert sources(gastown, "max_running") == [(4, "default")]
    shown = gastown("town", "show").out
    assert "policy   max_agent_failures = 3" in shown
    assert "policy   rig web: max_agent_failures = 2" in shown
    assert "max_agent_failures = 2" in gastown("rig", "show", "web").out
    assert gastown("rig", "set", "web", "--unset", "max_agent_failures").code == 0
    assert gastown("town", "show", "--json").json["rigs"] == {}
    assert gastown("town", "set", "--policy", "max_agent_failures=3").out == "the town: nothing to change\n"


def test_nonsense_is_refused_with_both_values(gastown: Gastown) -> None:
    said = gastown("town", "set", "--policy", "heartbeat_lease_s=15")
    assert said.code == 2
    assert "15" in said.err
    assert "10" in said.err
    assert gastown("town", "set").code == 2
    assert "did you mean max_running?" in gastown("town", "set", "--policy", "max_runing=3").err
    said = gastown("rig", "set", "web", "--policy", "max_running=3")
    assert "gastown town set" in said.err
    assert gastown("rig", "set", "nowhere", "--policy", "heartbeat_s=3").code == 3


def test_what_was_stored_wrong_is_said_everywhere_and_stops_no_command(gastown: Gastown) -> None:
    with transaction() as session:
        session.execute(text("UPDATE rigs SET policy = '[1]', environment = '3'"))
    assert "WRONG" in gastown("town", "show").out
    assert "WRONG" in gastown("rig", "show", "web").out
    assert gastown("rig", "list").code == 0
    assert "policy of rig web" in gastown("config", "show").err
    with transaction() as session:
        a_town(session).policy = {"from_tomorrow": 1}
    assert "from_tomorrow = 1" in gastown("town", "show").out
    assert gastown("town", "set", "--unset", "from_tomorrow").code == 0
    assert gastown("rig", "set", "web", "--policy", "heartbeat_s=5").code == 0
    assert "WRONG    nothing is started: environment of rig web: a JSON number" in gastown("town", "show").out
    assert "environment of rig web" in gastown("rig", "show", "web").out
    with transaction() as session:
        a_rig(session, name="web").environment = {}
    assert "WRONG" not in gastown("town", "show").out


def test_a_town_that_is_paused_with_a_budget_and_an_open_breaker(gastown: Gastown) -> None:
    gastown("town", "set", "--policy", "budget_usd_per_day=10", "--policy", "attempt_cap_usd=2")
    with transaction() as session:
        session.execute(text("UPDATE towns SET breaker_opened_at = now(), breaker_reason = 'docker is away'"))
    gastown("pause")
    out = gastown("town", "show").out
    assert "paused since" in out
    assert "breaker  open since" in out
    assert "0.00 USD spent in 24 h" in out


def test_nodes_and_agents(gastown: Gastown) -> None:
    assert "gastown up" in gastown("node", "list").out
    assert "gastown sling" in gastown("agent", "list").out
    with transaction() as session:
        the_api_is_there(session)
        node = a_node(session)
        dispatch = an_attempt(session, rig=a_rig(session, name="web"))
        an_agent(session, a_rig(session, name="web"), name="ace", status="retired")
    rows = {row["name"]: row for row in gastown("node", "list", "--json").json}
    assert (rows[node.name]["state"], rows[node.name]["used"], rows[node.name]["capacity"]) == ("alive", 1, 8)
    assert "1 of 8" in gastown("node", "list").out
    with transaction() as session:
        session.execute(text("UPDATE nodes SET draining_at = now()"))
    assert "draining" in gastown("node", "list").out
    with transaction() as session:
        session.execute(text("UPDATE nodes SET heartbeat_at = now() - interval '1 h'"))
    assert "silent" in gastown("node", "list").out
    (row,) = gastown("agent", "list", "--json").json
    assert (row["status"], row["bead_id"]) == ("working", dispatch.bead_id)
    assert dispatch.bead_id in gastown("agent", "list").out
    assert {row["status"] for row in gastown("agent", "list", "--all", "--json").json} == {"working", "retired"}


def test_a_node_is_drained_and_takes_starts_again(gastown: Gastown) -> None:
    with transaction() as session:
        the_api_is_there(session)
        a_node(session, "far")
        an_attempt(session, rig=a_rig(session, name="web"), node=a_node(session, "far"))
        waiting = a_bead(session, a_rig(session, name="web"), ready_at=gastown_now(), wake_at=None, verdict="ready").id
    assert gastown("node", "drain", "nowhere").code == 3
    assert gastown("node", "drain", "far", "--undo", "--stop").code == 2
    assert "nobody drains it" in gastown("node", "drain", "far", "--undo").out
    said = gastown("node", "drain", "far").out
    assert "nothing more is started on far\n1 attempt there, each going on to its end" in said
    assert "gastown node drain far --undo" in gastown("node", "list").out
    assert gastown("node", "list", "--json").json[0]["state"] == "draining"
    assert "gastown node drain far --undo" in gastown("why", waiting).out
    assert "gastown node drain far --undo" in gastown("why").out
    assert "asked to save its work" in gastown("node", "drain", "far", "--stop").out
    assert gastown("node", "drain", "far", "--undo").out == "far takes starts again\n"
    assert gastown("node", "list", "--json").json[0]["closed_at"] is None
