"""The loop that everything hangs on. If the process dies between commit and publish, the rows still say what is to do,
and a rule publishes again: the reconciler is the outbox."""

import time
from datetime import datetime

import structlog
from sqlalchemy.orm import Session

from gastown.apply import apply
from gastown.celery_app import app
from gastown.commands import work
from gastown.db import in_transaction, transaction
from gastown.errors import RequestError
from gastown.reconcile import decide
from gastown.reconcile.actions import Effect
from gastown.reconcile.decision import Decision
from gastown.reconcile.policy import Policy
from gastown.reconcile.views import BeadView
from gastown.store import claims, policies, views
from gastown.store.moves import set_bead
from gastown.store.views import LoadedBead
from gastown.tasks import correcting
from gastown.tasks.base import poke, publish, send

log = structlog.get_logger()

BATCH = 100
MAX_BATCHES = 20
MAX_TICK_S = 2.0


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
    """Batches, each one transaction under the town's lock, until nothing is due or the tick has been long enough."""
    began = time.monotonic()
    for _ in range(MAX_BATCHES):
        result = in_transaction(lambda session: _batch(session, town_id))
        if result is None:
            return  # another worker is at it and sees what we would
        worked, effects = result
        for effect in effects:  # after the commit, so that workers find the new state
            publish(effect)
        if not worked:
            with transaction() as session:  # once more without the lock: what came meanwhile was not for us to see
                if not claims.something_due(session, town_id):
                    return
        if time.monotonic() - began > MAX_TICK_S:
            break
    poke(town_id)


def _batch(session: Session, town_id: int) -> tuple[bool, list[Effect]] | None:
    """Due beads are decided, then as many ready ones as there are free slots. None: the town is somebody else's."""
    if not claims.try_lock_town(session, town_id):
        return None
    now = claims.clock(session)
    policy, by_rig = policies.town_policy(session, town_id), policies.rig_policies(session, town_id)
    due = claims.claim_due(session, town_id, now, limit=BATCH)
    effects = apply(session, _decide(session, views.load_views(session, due, now, policy), now, by_rig), now)
    slots = claims.claim_ready(session, town_id, now, limit=BATCH)
    offered = views.load_views(session, sorted(slots), now, policy, slots)
    effects += apply(session, _decide(session, offered, now, by_rig), now)
    return bool(due or slots), effects


def _decide(
    session: Session, looked_at: list[tuple[LoadedBead, BeadView]], now: datetime, by_rig: dict[int, Policy]
) -> list[tuple[LoadedBead, BeadView, Decision]]:
    """A rule that raises costs its own bead a delay; the others go on (S37)."""
    decided = []
    for bead, view in looked_at:
        policy = by_rig[bead.rig_id]
        try:
            decided.append((bead, view, decide(view, now, policy)))
        except Exception:
            log.exception("rule_raised", bead=bead.id)
            set_bead(session, bead.id, wake_at=now + policy.rule_error_delay, ready_at=None)
    return decided


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
    try:
        town_id = in_transaction(lambda session: work.force_dispatch(session, bead_id, actor="celery call"))
    except RequestError as error:
        log.warning("dispatch_refused", bead=bead_id, reason=str(error))
        return
    poke(town_id)
