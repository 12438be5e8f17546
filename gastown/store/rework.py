"""Beads that are made for the sake of a merge request: its rework and its review."""

from sqlalchemy.orm import Session

from gastown.models import Bead
from gastown.states import Purpose


def create(session: Session, merge_id: int, purpose: Purpose, agent: str) -> bool:
    raise NotImplementedError


def create_review(session: Session, merge_id: int, agent: str) -> bool:
    raise NotImplementedError


def fail_merge(session: Session, bead: Bead, merge_id: int, message: str) -> bool:
    raise NotImplementedError
