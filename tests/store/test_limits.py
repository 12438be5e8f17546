"""Presets whose provider asked for a pause."""

from datetime import datetime

import pytest
from sqlalchemy import text

from gastown.store import limits
from tests.conftest import Clock
from tests.races import committed, race
from tests.views import after


def rest(town_id: int, until: datetime | None = None, preset: str = "claude") -> datetime:
    return committed(lambda session: limits.rest(session, town_id, preset, until, "429"))


def in_row(town_id: int) -> int:
    row = text("SELECT in_row FROM rate_limits WHERE town_id = :town AND preset = 'claude'")
    return committed(lambda session: session.scalar(row, {"town": town_id}))


def test_pauses_grow_as_the_policy_says(town_id: int, clock: Clock) -> None:
    for count, seconds in enumerate((60, 120, 300, 600, 1800, 1800), start=1):
        until = rest(town_id)
        assert (until - clock.now).total_seconds() == seconds
        assert in_row(town_id) == count
        clock.now = until


def test_attempts_that_ran_side_by_side_meet_one_limit(town_id: int, clock: Clock) -> None:
    """Eight of them are no eight limits in a row; and the pause only grows."""
    for _ in range(8):
        assert rest(town_id) == after(60)
    assert in_row(town_id) == 1
    assert rest(town_id, after(30)) == after(60)
    assert rest(town_id, after(3600)) == after(3600)
    assert rest(town_id) == after(3600)
    assert rest(town_id, preset="codex") == after(60)


def test_two_reports_at_once(town_id: int, clock: Clock) -> None:
    first = lambda session: limits.rest(session, town_id, "claude", None, "429")  # noqa: E731
    assert race(first, first) == after(60)
    assert in_row(town_id) == 1


@pytest.mark.parametrize(("said_s", "pause_s"), [(86_400, 86_400), (86_401, 86_400), (1, 1), (0, 60), (-5, 60)])
def test_a_provider_is_believed_for_a_day(town_id: int, clock: Clock, said_s: float, pause_s: float) -> None:
    assert rest(town_id, after(said_s)) == after(pause_s)


def test_the_towns_own_numbers_count(town_id: int, clock: Clock) -> None:
    own = text("UPDATE towns SET policy = '{\"rate_limit_backoff_s\": [5]}'")
    committed(lambda session: session.execute(own))
    assert rest(town_id) == after(5)
