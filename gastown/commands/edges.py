"""Which bead waits for which, changed after the beads were made."""

from sqlalchemy import delete
from sqlalchemy.orm import Session

from gastown.errors import NotFound, Refused
from gastown.models import Bead, BeadDependency
from gastown.states import TERMINAL, BeadStatus, Purpose
from gastown.store import beads
from gastown.store.moves import lock_beads, record, wake


def block(session: Session, town_id: int, bead_id: str, blocker_id: str, *, actor: str = "user") -> None:
    """The bead waits for `blocker_id`. An attempt that runs goes on; the next one waits.

    Raises NotFound, and Refused when its work is done, or when that closes a cycle, naming the path.
    """
    bead = _locked(session, town_id, bead_id, blocker_id)
    if bead.status in TERMINAL or bead.status == BeadStatus.IN_REVIEW:
        raise Refused(f"{bead_id} is {bead.resolution or bead.status}", hint=f"gastown bead show {bead_id}")
    if bead.purpose == Purpose.LANDING:
        raise Refused(
            f"{bead_id} lands convoy {bead.convoy_id}", hint=f"gastown convoy add {bead.convoy_id} {blocker_id}"
        )
    if bead_id == blocker_id:
        raise Refused(f"{bead_id} cannot wait for itself", hint="name another bead: --by BEAD")
    beads.add_blockers(session, bead_id, [blocker_id], town_id)
    record(session, town_id, "blocked", f"waits for {blocker_id}", actor=actor, bead_id=bead_id)


def unblock(session: Session, town_id: int, bead_id: str, blocker_id: str, *, actor: str = "user") -> list[str]:
    """The bead waits for `blocker_id` no more, nor for the landing of its convoy, if for that reason alone. Which ones.

    Raises NotFound, and Refused when it did not wait.
    """
    _locked(session, town_id, bead_id, blocker_id)
    statement = (
        delete(BeadDependency)
        .where(
            BeadDependency.bead_id == bead_id,
            BeadDependency.blocker_id == blocker_id,
            BeadDependency.kind == "blocks",
        )
        .returning(BeadDependency.bead_id)
    )
    if session.execute(statement.execution_options(synchronize_session=False)).first() is None:
        raise Refused(f"{bead_id} does not wait for {blocker_id}", hint=f"gastown bead show {bead_id}")
    landings = beads.wait_for_landings_no_more(session, bead_id, blocker_id)
    wake(session, bead_id)
    words = f"waits no more for {' and '.join([blocker_id, *landings])}"
    record(session, town_id, "unblocked", words, actor=actor, bead_id=bead_id)
    return landings


def _locked(session: Session, town_id: int, bead_id: str, blocker_id: str) -> Bead:
    """The bead, with both rows locked in the one order that nobody deadlocks in."""
    rows = lock_beads(session, {bead_id, blocker_id})
    for each in (bead_id, blocker_id):
        if each not in rows or rows[each].town_id != town_id:
            raise NotFound("bead", each, hint="gastown bead list")
    return rows[bead_id]
