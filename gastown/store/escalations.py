"""What a person is asked to look at: once for each cause, until it is settled."""

from sqlalchemy import update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from gastown.db import gastown_now
from gastown.models import Escalation
from gastown.store.moves import record


def raise_once(session: Session, town_id: int, cause: str, message: str, *, bead_id: str | None = None) -> bool:
    """Ask a person, unless this cause is open already. False: it is."""
    values = {"town_id": town_id, "bead_id": bead_id, "cause": cause, "message": message}
    statement = insert(Escalation).values(**values).on_conflict_do_nothing().returning(Escalation.id)
    if session.scalar(statement) is None:
        return False
    record(session, town_id, "escalation", message, actor="reconciler", bead_id=bead_id, cause=cause)
    return True


def settle(session: Session, town_id: int, *causes: str) -> None:
    """These causes are gone: the next time is a new escalation."""
    open_ones = (Escalation.town_id == town_id, Escalation.cause.in_(causes), Escalation.settled_at.is_(None))
    statement = update(Escalation).where(*open_ones).values(settled_at=gastown_now())
    session.execute(statement.execution_options(synchronize_session=False))
