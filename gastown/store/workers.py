"""Who claimed a row: a worker's name, and which of its lives, since the next worker of that name claims as well."""

import re
import secrets

from sqlalchemy import ColumnElement, and_, func
from sqlalchemy.orm import InstrumentedAttribute

LIFE = "/[0-9a-f]{12}$"
this_life = secrets.token_hex(6)  # imported before a worker forks the processes of its pool, so they share it


def claimer(name: str) -> str:
    """What this worker, and no other life of it, claims rows as."""
    return f"{name}/{this_life}"


def claimed_before(column: InstrumentedAttribute[str | None], worker: str) -> ColumnElement[bool]:
    """Claimed by an earlier life of this worker, not by this one."""
    return and_(func.regexp_replace(column, LIFE, "") == re.sub(LIFE, "", worker), column != worker)
