"""Attempts that are asked to stop, and presets that rest: rules, API, supervisor and agent together."""

from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import select, text
from sqlalchemy.orm import Session

from gastown.db import gastown_now, in_transaction, transaction
from gastown.models import RateLimit
from gastown.store.moves import set_bead
from gastown.tasks.base import poke
from tests.flows.town import Town, run_town, until

IMPATIENT = {"heartbeat_s": 1, "attempt_cap_usd": 1, "backoff_s": [0]}


@pytest.fixture(scope="module")
def shared_town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    with run_town(tmp_path_factory.mktemp("stop"), policy=IMPATIENT) as town:
        yield town


def five_hours_later(bead: str) -> None:
    """For the attempt at work, and for what else its runtime counts from."""

    def write(session: Session) -> None:
        set_bead(session, bead, wake_at=gastown_now())
        earlier = "started_at = started_at - interval '5 h'"
        session.execute(text(f"UPDATE dispatches SET {earlier} WHERE bead_id = :bead"), {"bead": bead})
        session.execute(text("UPDATE services SET back_at = back_at - interval '5 h'"))

    in_transaction(write)
    poke()


def test_one_that_runs_for_too_long_saves_its_work_and_the_next_goes_on_from_it(town: Town) -> None:
    script = "if test -f half.txt; then echo rest >> half.txt; else echo half > half.txt; exec sleep 120; fi"
    bead = town.sling(script)
    until("its agent works", lambda: (town.settings.home / "work" / bead / "1" / "half.txt").exists())
    five_hours_later(bead)
    town.merged(bead)
    stopped, worked = town.attempts(bead)
    assert (stopped.status, stopped.code, stopped.failure_class) == ("stopped", "max_runtime", "agent")
    assert stopped.wip_sha is not None
    assert stopped.message == stopped.stop_reason  # its own report, not the rule's
    assert worked.status == "succeeded"
    assert town.read("half.txt") == "half\nrest"


def test_above_its_cap_it_is_stopped_and_its_bead_held(town: Town) -> None:
    bead = town.sling("echo work > work.txt; gastown self cost 1.5; exec sleep 120")
    until("its bead is held", lambda: town.bead(bead).held_reason)
    [attempt] = town.attempts(bead)
    assert (attempt.status, attempt.code, attempt.cost_usd, attempt.cap_usd) == ("stopped", "over_cap", 1.5, 1)
    assert attempt.wip_sha is not None
    assert town.bead(bead).failure_class == "budget"


def test_a_limit_makes_the_preset_rest_and_counts_for_nothing(town: Town) -> None:
    go = town.folder / "seen"
    limited_first = "if test $GASTOWN_EPOCH = 1; then gastown self limit --for 3 slow down; exit 1; fi"
    bead = town.sling(f"{limited_first}; until test -e {go}; do sleep 0.1; done; echo done > limit.txt")

    def rests_until() -> Any:
        with transaction() as session:
            return session.scalar(select(RateLimit.until).where(RateLimit.town_id == town.rig_row().town_id))

    until_then = until("its preset rests", rests_until)
    go.touch()
    town.merged(bead)
    limited, worked = town.attempts(bead)
    assert (limited.code, limited.failure_class, worked.status) == ("rate_limited", "rate_limit", "succeeded")
    assert worked.queued_at >= until_then
