"""The end of a convoy: what its members made on one rig enters the queue of the target, and what follows from that."""

from sqlalchemy.orm import Session

from gastown.models import Bead


def open_landing(session: Session, bead: Bead) -> bool:
    raise NotImplementedError


def close_landing(session: Session, bead: Bead, message: str) -> bool:
    raise NotImplementedError


def end_convoy(session: Session, bead: Bead) -> None:
    raise NotImplementedError
