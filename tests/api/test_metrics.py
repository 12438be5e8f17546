"""/metrics: numbers of all processes, read from rows."""

from httpx import Client
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import text

from gastown.db import transaction
from gastown.store import counters, escalations, resync
from tests.builders import a_bead, a_node, a_town, an_attempt, the_api_is_there


def scrape(client: Client) -> dict[str, float]:
    answer = client.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain")
    families = list(text_string_to_metric_families(answer.text))
    assert all(family.documentation for family in families)
    return {
        sample.name + "".join(f"/{value}" for value in sample.labels.values()): sample.value
        for family in families
        for sample in family.samples
    }


def test_an_empty_installation(client: Client) -> None:
    found = scrape(client)
    ought_to_be_0 = [f"gastown_resync_corrected_total/{reason}" for reason in resync.REASONS]
    ought_to_be_0 += [f"gastown_{name}_total" for name in ("invariants_broken", "rule_errors", "rows_unreadable")]
    assert {name: found[name] for name in ought_to_be_0} == dict.fromkeys(ought_to_be_0, 0)
    assert found["gastown_due_lag_seconds"] == 0


def test_what_there_is(client: Client) -> None:
    with transaction() as session:
        the_api_is_there(session)
        a_node(session)
        an_attempt(session)
        a_bead(session, ready_at=text("now()"), wake_at=None)
        a_bead(session, wake_at=text("gastown_now() - interval '100 s'"))
        escalations.raise_once(session, a_town(session).id, "breaker", "20 attempts failed")
        counters.count(session, "resync_held_no_more", 3)
        counters.count(session, counters.RULE_ERRORS)
        counters.count(session, counters.RULE_ERRORS, 2)
        session.execute(text("UPDATE towns SET breaker_opened_at = now(), paused_at = now()"))
    found = scrape(client)
    assert found["gastown_resync_corrected_total/held_no_more"] == 3
    assert found["gastown_rule_errors_total"] == 3
    assert found["gastown_live_attempts/running"] == 1
    assert found["gastown_live_attempts/queued"] == 0
    for name in ("ready_beads", "open_escalations", "breakers_open", "towns_paused", "nodes_alive"):
        assert found[f"gastown_{name}"] == 1, name
    assert 100 <= found["gastown_due_lag_seconds"] < 160
    assert found["gastown_api_alive_age_seconds"] < 60
