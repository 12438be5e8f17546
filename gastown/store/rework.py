"""Rework: beads whose agents mend what holds a merge request, and what becomes of it then."""

from sqlalchemy.orm import Session

from gastown.models import Bead
from gastown.states import Purpose


def create(session: Session, merge_id: int, purpose: Purpose, agent: str) -> bool:
    raise NotImplementedError


def fail_merge(session: Session, bead: Bead, merge_id: int, message: str) -> bool:
    raise NotImplementedError
