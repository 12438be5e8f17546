"""Signs of life of Gastown's own parts."""

from datetime import timedelta

from sqlalchemy import case, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from gastown.db import gastown_now
from gastown.models import Service

API_BEAT_S = 5.0
SILENCE_S = 15.0  # three beats


def beat(session: Session, name: str) -> None:
    """It is here. After a silence the time of its return is noted: leases count only time in which it was there."""
    now = gastown_now()
    statement = insert(Service).values(name=name, alive_at=now, back_at=now)
    was_silent = Service.alive_at < now - timedelta(seconds=SILENCE_S)
    changes = {"alive_at": now, "back_at": case((was_silent, now), else_=Service.back_at)}
    session.execute(statement.on_conflict_do_update(index_elements=["name"], set_=changes))


def is_silent(session: Session, name: str) -> bool:
    """Whether it was here once, and has said nothing for longer than it may."""
    silent = select(Service.alive_at < gastown_now() - timedelta(seconds=SILENCE_S)).where(Service.name == name)
    return bool(session.scalar(silent))
