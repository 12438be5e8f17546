"""How often something happened that ought not to, for `/metrics`: rows, so that every process adds to one number."""

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from gastown.db import gastown_now
from gastown.models import Counter

RESYNC = "resync_"  # and the reason why resync had to wake a bead
INVARIANTS_BROKEN = "invariants_broken"
RULE_ERRORS = "rule_errors"
ROWS_UNREADABLE = "rows_unreadable"


def count(session: Session, name: str, by: int = 1) -> None:
    """It happened `by` times more."""
    statement = insert(Counter).values(name=name, value=by)
    changes = {"value": Counter.value + by, "changed_at": gastown_now()}
    session.execute(statement.on_conflict_do_update(index_elements=["name"], set_=changes))


def read_counters(session: Session) -> dict[str, int]:
    """Those that were ever counted; the others are 0."""
    rows = session.execute(select(Counter.name, Counter.value).order_by(Counter.name))
    return {row.name: row.value for row in rows}
