"""Presets whose provider asked for a pause. Nothing is started with one before its time; no bead pays for it."""

from datetime import datetime, timedelta

from sqlalchemy import select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from gastown.db import gastown_now
from gastown.models import RateLimit
from gastown.store.policies import town_policy

LONGEST = timedelta(hours=24)  # a provider's word is believed for so long: then one attempt asks again
REASON_CHARACTERS = 500


def rest(session: Session, town_id: int, preset: str, until: datetime | None, reason: str) -> datetime:
    """The preset rests; when that ends. `until`: the provider's word; None: as often as it happened in a row says.

    Attempts that ran side by side meet the same limit: what comes while the preset rests does not count once more,
    and never makes the pause shorter.
    """
    now = session.scalars(select(gastown_now())).one()
    new = insert(RateLimit).values(town_id=town_id, preset=preset, until=now, in_row=0, reason="")
    kept = {"in_row": RateLimit.in_row}  # a write that changes nothing, so that the row is locked and cannot go
    session.execute(new.on_conflict_do_update(index_elements=["town_id", "preset"], set_=kept))
    key = (RateLimit.town_id == town_id, RateLimit.preset == preset)
    row = session.scalars(
        select(RateLimit).where(*key).with_for_update().execution_options(populate_existing=True)
    ).one()
    resting = row.until > now
    row.in_row = max(1, row.in_row) if resting else row.in_row + 1
    if until is None or until <= now:
        steps = town_policy(session, town_id).rate_limit_backoff_s
        until = now + timedelta(seconds=steps[min(row.in_row, len(steps)) - 1])
    until = min(until, now + LONGEST)
    row.until = max(row.until, until) if resting else until
    row.reason = reason[:REASON_CHARACTERS]
    session.flush()
    return row.until


def note_success(session: Session, town_id: int, preset: str) -> None:
    """The next pause that the provider does not date is a first one again."""
    key = (RateLimit.town_id == town_id, RateLimit.preset == preset, RateLimit.in_row > 0)
    session.execute(update(RateLimit).where(*key).values(in_row=0).execution_options(synchronize_session=False))
