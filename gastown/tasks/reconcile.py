"""The loop that everything hangs on. If the process dies between commit and publish, the rows still say what is to do,
and a rule publishes again: the reconciler is the outbox."""

from contextlib import suppress
from datetime import datetime, timedelta
from typing import NamedTuple

import structlog
from sqlalchemy.orm import Session

from gastown.apply import Decided, apply
from gastown.celery_app import app
from gastown.commands import work
from gastown.db import in_transaction, transaction
from gastown.errors import GastownError, RequestError
from gastown.reconcile import decide
from gastown.reconcile.actions import Effect
from gastown.reconcile.views import Slot
from gastown.store import claims, counters, decisions, escalations, policies, rule_errors, views
from gastown.store.policies import Policies
from gastown.store.views import Loaded
from gastown.tasks import correcting
from gastown.tasks.base import poke, publish_all, send

log = structlog.get_logger()

BATCH = 100
MAX_BATCHES = 20
MAX_TICK = timedelta(seconds=2)  # by the one clock, which stands still in a test


@app.task(name="gastown.reconcile", max_retries=0, soft_time_limit=30, time_limit=40)
def reconcile(town_id: int | None = None) -> None:
    """One tick: for one town, or a message for each town with work."""
    if town_id is not None:
        reconcile_town(town_id)
        return
    with transaction() as session:
        towns = claims.towns_with_work(session)
    if len(towns) == 1:
        reconcile_town(towns[0])
        return
    for each in towns:
        send("gastown.reconcile", each, expires_s=5)


def reconcile_town(town_id: int) -> None:
    """One tick. When it raises, nothing of the town is decided any more: a person is asked, once."""
    try:
        _tick(town_id)
    except GastownError:
        raise  # the database or the broker is away, which is said elsewhere, and beat comes again
    except Exception as error:
        said = f"nothing is decided any more: each tick fails with {type(error).__name__}: {str(error)[:500]}"
        with suppress(GastownError):
            in_transaction(lambda session: escalations.raise_once(session, town_id, escalations.TICK, said))
        raise


def _tick(town_id: int) -> None:
    """Batches, each one transaction under the town's lock, until nothing is due or the tick has been long enough."""
    began: datetime | None = None
    idle = 0
    for _ in range(MAX_BATCHES):
        done = in_transaction(lambda session: _batch(session, town_id))
        if done is None:
            return  # another worker is at it and sees what we would
        publish_all(done.effects)  # after the commit, so that workers find the new state
        if not done.worked:
            with transaction() as session:  # once more without the lock: what came meanwhile was not for us to see
                if not claims.something_due(session, town_id):
                    return
            idle += 1
            if idle > 1:  # what is due is locked by somebody, whose commit pokes, or beat comes by
                return
        began = began or done.at
        if done.at - began > MAX_TICK:
            break
    poke(town_id)


class Batch(NamedTuple):
    """What one batch came to."""

    worked: bool  # there was something to decide
    effects: list[Effect]
    at: datetime


def _batch(session: Session, town_id: int) -> Batch | None:
    """Due beads are decided, then as many ready ones as there are free slots. None: the town is somebody else's."""
    now = claims.try_lock_town(session, town_id)
    if now is None:
        return None
    due = claims.claim_due(session, town_id, now, limit=BATCH)
    numbers = policies.load_policies(session, town_id)  # after the claim, so that a rig made meanwhile is among them
    effects, ready = _decide(session, due, now, numbers)
    slots = claims.claim_ready(session, town_id, now, BATCH, numbers)
    effects += _decide(session, sorted(slots), now, numbers, slots, ready)[0]
    return Batch(bool(due or slots), effects, now)


def _decide(
    session: Session,
    bead_ids: list[str],
    now: datetime,
    numbers: Policies,
    slots: dict[str, Slot] | None = None,
    known: dict[str, Loaded] | None = None,
) -> tuple[list[Effect], dict[str, Loaded]]:
    """Of beads that are locked: the effects, and those that are ready now, for which a slot may be free.

    One that cannot be read, or whose rule raises, costs itself a delay (S37).
    """
    decided: list[Decided] = []
    unreadable: dict[str, str] = {}
    for bead, view in views.load_views(session, bead_ids, now, numbers, slots, unreadable, known):
        try:
            decided.append((bead, view, decide(view, now, numbers.rigs[bead.rig_id])))
        except Exception as error:
            log.exception("rule_raised", bead=bead.id)
            rule_errors.put_off(session, bead.id, now, numbers.rigs[bead.rig_id], error)
    for bead_id, fault in unreadable.items():
        counters.count(session, counters.ROWS_UNREADABLE)
        rule_errors.put_off(session, bead_id, now, numbers.town, fault)
    return apply(session, decided, now, numbers.rigs), decisions.found_ready(decided, now)


@app.task(name="gastown.resync", max_retries=0, soft_time_limit=60, time_limit=70)
def resync_towns() -> None:
    """Wake what was forgotten, and check what the database cannot hold. Ought to find nothing."""
    if correcting.correct():
        poke()


@app.task(name="gastown.dispatch", max_retries=0)
def dispatch(bead_id: str) -> None:
    """Somebody wants this bead started now: no cooldown, and first in order.

    An unknown or finished bead is logged and left: `celery call` waits for no answer, `gastown bead dispatch` does.
    """
    if not (isinstance(bead_id, str) and bead_id.isprintable()):  # typed into a shell, so anything at all
        log.warning("dispatch_refused", bead=repr(bead_id), reason="that is no bead's id, such as gt-7k3fq")
        return
    try:
        town_id = in_transaction(lambda session: work.force_dispatch(session, bead_id, actor="celery call"))
    except RequestError as error:
        log.warning("dispatch_refused", bead=bead_id, reason=str(error))
        return
    poke(town_id)
