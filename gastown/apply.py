"""Actions into guarded writes. The union type of actions makes the checker prove that each has its case."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import assert_never
from uuid import UUID

import structlog
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from gastown.reconcile.actions import (
    Action,
    AskMerge,
    AskStop,
    CleanUp,
    CreateDispatch,
    Effect,
    Escalate,
    FailBead,
    FreeAgent,
    HoldBead,
    InspectContainers,
    Lose,
    NoteStall,
    ReclaimMerge,
    RollBack,
    StartContainer,
    StopAttempt,
    StopContainer,
)
from gastown.reconcile.decision import Decision
from gastown.reconcile.views import BeadView
from gastown.states import StopCode
from gastown.store import agents, attempts, beads, decisions, escalations, merges
from gastown.store.moves import MoveLost, lock_bead, set_bead, wake
from gastown.store.views import LoadedBead

log = structlog.get_logger()

REFUSED_DELAY = timedelta(seconds=30)  # of a bead whose actions the database does not take


def apply(session: Session, decided: Sequence[tuple[LoadedBead, BeadView, Decision]], now: datetime) -> list[Effect]:
    """Apply what was decided, one savepoint a bead: a move that is lost undoes that bead only and leaves it due."""
    effects: list[Effect] = []
    kept = []
    for bead, view, decision in decided:
        try:
            with session.begin_nested():
                mine = [effect for action in decision.actions for effect in _carry_out(session, bead, view, action)]
        except MoveLost:
            wake(session, bead.id)
            continue
        except IntegrityError as error:  # a fault of ours: it must not keep the town's other beads waiting
            log.error("constraint_hit", bead=bead.id, rule=decision.rule, error=str(error.orig))
            set_bead(session, bead.id, wake_at=now + REFUSED_DELAY, ready_at=None)
            continue
        effects.extend(mine)
        kept.append((bead, view, decision))
    decisions.note_decisions(session, kept, now)
    return effects


def _carry_out(session: Session, loaded: LoadedBead, view: BeadView, action: Action) -> list[Effect]:
    bead = lock_bead(session, loaded.id)
    assert bead is not None
    match action:
        case CreateDispatch(node_id=node_id):
            assert view.slot is not None
            dispatch = attempts.create_dispatch(session, bead, node_id)
            return [StartContainer(dispatch_id=str(dispatch.id), node=view.slot.node)]
        case RollBack(dispatch_id=dispatch_id, code=code, message=message):
            _must(attempts.roll_back(session, UUID(dispatch_id), code, message))
            return []
        case Lose(dispatch_id=dispatch_id, code=code, message=message, exit_code=exit_code):
            _must(attempts.lose(session, UUID(dispatch_id), code, message, exit_code))
            return []
        case AskStop(dispatch_id=dispatch_id, code=stop_code, reason=reason):
            _must(attempts.ask_stop(session, UUID(dispatch_id), stop_code, reason))
            return []
        case StopAttempt(dispatch_id=dispatch_id, code=stop_code, message=message):
            _must(attempts.stop_attempt(session, UUID(dispatch_id), stop_code, message))
            return []
        case NoteStall(dispatch_id=dispatch_id, tier=tier, message=message):
            _must(attempts.note_stall(session, UUID(dispatch_id), tier, message))
            return []
        case Escalate(cause=cause, message=message):
            escalations.raise_once(session, bead.town_id, cause, message, bead_id=bead.id)
            return []
        case HoldBead(reason=reason):
            beads.hold_bead(session, bead, reason, "reconciler")
            return []
        case FreeAgent():
            agents.free(session, bead.id)
            return []
        case FailBead(code=code, message=message):
            _must(beads.fail_bead(session, bead, code, message))
            return []
        case CleanUp():
            attempts.stop_live(session, bead, StopCode.CANCELED, f"{bead.id} is {bead.status}")
            agents.unhook(session, bead.id)
            return []
        case ReclaimMerge(merge_id=merge_id):
            _must(merges.reclaim(session, merge_id))
            return []
        case AskMerge(merge_id=merge_id):
            merges.note_asked(session, merge_id)
            return [action]
        case StartContainer() | StopContainer() | InspectContainers():
            return [action]
        case _:
            assert_never(action)


def _must(moved: bool) -> None:
    if not moved:
        raise MoveLost
