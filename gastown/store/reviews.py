"""Reviews: beads whose agents read a merge request's head, and what they said of it."""

from sqlalchemy.orm import Session


def create_review(session: Session, merge_id: int, agent: str) -> bool:
    raise NotImplementedError
