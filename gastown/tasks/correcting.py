"""The net below the wake-ups, every five minutes: wakes what was forgotten, checks what no constraint can hold."""

from collections.abc import Callable
from functools import partial

import structlog
from sqlalchemy import select
from sqlalchemy.orm import Session

from gastown.db import in_transaction, transaction
from gastown.errors import GastownError
from gastown.models import Bead, Town
from gastown.store import counters, escalations, policies, resync
from gastown.store.moves import wake
from gastown.store.resync import Violation

log = structlog.get_logger()

MAX_BATCHES = 20  # of beads that were forgotten for one reason; the next resync goes on


def correct() -> int:
    """Ought to find nothing. Each step is a transaction of its own: one that is too slow must not keep the others.

    How many beads were woken.
    """
    woken = sum(_step(partial(_wake, reason)) for reason in resync.REASONS)
    for name in resync.INVARIANTS:
        woken += _step(partial(_check, name))
    _step(_check_policies)
    _step(partial(in_transaction, escalations.settle_gone))
    return woken


def _step(work: Callable[[], int]) -> int:
    try:
        return work()
    except GastownError as error:
        log.warning("resync_failed", step=str(work), error=str(error))
        return 0


def _wake(reason: str) -> int:
    woken = 0
    for _ in range(MAX_BATCHES):
        some = in_transaction(lambda session: _wake_some(session, reason))
        woken += some
        if some < resync.BATCH:
            break
    if woken:
        log.warning("resync_woke", reason=reason, beads=woken)
    return woken


def _wake_some(session: Session, reason: str) -> int:
    woken = resync.wake_for(session, reason)
    if woken:
        counters.count(session, counters.RESYNC + reason, woken)
    return woken


def _check(name: str) -> int:
    """Whatever breaks it is told, counted and looked at by the rules, some of which repair it; how many beads."""
    with transaction() as session:
        found = resync.check_invariant(session, name, lately=True)
        if found is None:
            return 0
        _tell(session, found)
        unfinished = select(Bead.id).where(Bead.id.in_(found.bead_ids), Bead.closed_at.is_(None)).order_by(Bead.id)
        beads = list(session.scalars(unfinished.limit(resync.BATCH).with_for_update(skip_locked=True, key_share=True)))
        wake(session, *beads)
        return len(beads)


def _tell(session: Session, found: Violation) -> None:
    log.error("invariant_broken", violation=str(found))
    counters.count(session, counters.INVARIANTS_BROKEN)
    towns = select(Bead.town_id).where(Bead.id.in_(found.bead_ids)).distinct().order_by(Bead.town_id)
    for town_id in session.scalars(towns):
        message = f"a fault of Gastown's own, please report it: {found}"
        escalations.raise_once(session, town_id, found.cause, message)


def _check_policies() -> int:
    """Stored numbers that make no sense hold the starts of their town or rig until somebody puts them right."""
    with transaction() as session:
        for town_id in session.scalars(select(Town.id).order_by(Town.id)).all():
            wrong = policies.load_policies(session, town_id).wrong
            causes = {escalations.POLICY + ("town" if rig is None else f"rig:{rig}"): wrong[rig] for rig in wrong}
            for cause, fault in causes.items():
                escalations.raise_once(session, town_id, cause, f"nothing is started: {fault}")
            escalations.settle_others(session, town_id, escalations.POLICY, causes)
    return 0
