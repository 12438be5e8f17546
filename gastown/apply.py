"""Actions into guarded writes, for a whole batch at once. The union type makes the checker prove that each has its
case.

Usually all of a batch goes through in one savepoint, with a fixed number of statements. When somebody was first with
one of the beads, or is at a row that one of them needs, that is undone, and each bead is carried out alone, by the same
functions.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import assert_never
from uuid import UUID

import structlog
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError, OperationalError
from sqlalchemy.orm import Session

from gastown.db import is_lock_trouble
from gastown.models import Bead
from gastown.reconcile.actions import (
    Action,
    AskMerge,
    AskStop,
    CleanUp,
    CloseLanding,
    CloseReview,
    CreateDispatch,
    CreateReview,
    CreateRework,
    Effect,
    EndConvoy,
    Escalate,
    FailBead,
    FailMerge,
    FreeAgent,
    HoldBead,
    InspectContainers,
    Lose,
    NoteStall,
    OpenLanding,
    ReclaimMerge,
    RollBack,
    StartContainer,
    StopAttempt,
    StopContainer,
    said_about,
)
from gastown.reconcile.decision import Decision
from gastown.reconcile.policy import Policy
from gastown.reconcile.views import BeadView
from gastown.states import DispatchStatus, StopCode
from gastown.store import (
    agents,
    attempts,
    beads,
    creation,
    decisions,
    endings,
    escalations,
    landings,
    merges,
    requests,
    reviews,
    rework,
)
from gastown.store.endings import Ask, Ending, Stall
from gastown.store.moves import MoveLost, lock_bead, set_bead, wake
from gastown.store.views import LoadedBead

log = structlog.get_logger()

REFUSED_DELAY = timedelta(seconds=30)  # of a bead whose actions the database does not take
BUSY_DELAY = timedelta(seconds=1)  # of a bead whose actions need a row that somebody else is at
# A batch holds many beads, so nobody may keep it waiting for the rows beside them, such as those that wait for one.
IMPATIENT = text("""
    SELECT setting, set_config(name, CASE WHEN setting::int BETWEEN 1 AND 100 THEN setting ELSE '100' END, true)
    FROM pg_settings WHERE name = 'lock_timeout'""")  # in ms; what it was before
PATIENT = text("SELECT set_config('lock_timeout', :before, true)")

Decided = tuple[LoadedBead, BeadView, Decision]


def apply(session: Session, decided: Sequence[Decided], now: datetime, policies: Mapping[int, Policy]) -> list[Effect]:
    """Apply what was decided; the effects are for after the commit. `policies`: of each rig.

    A move that is lost, or waits too long for a lock, undoes its own bead only, and leaves that due.
    """
    acting = [each for each in decided if each[2].actions]
    done: dict[str, list[Effect]] = {}
    if acting:
        try:
            with session.begin_nested():
                done = _carry_out(session, acting, policies)
        except (MoveLost, IntegrityError, OperationalError) as error:
            if isinstance(error, OperationalError) and not is_lock_trouble(error):
                raise
            done = _one_by_one(session, acting, now, policies)
    kept = [each for each in decided if not each[2].actions or each[0].id in done]
    decisions.note_decisions(session, kept, now)
    return [effect for bead, _view, _decision in kept for effect in done.get(bead.id, ())]


def _one_by_one(
    session: Session, acting: Sequence[Decided], now: datetime, policies: Mapping[int, Policy]
) -> dict[str, list[Effect]]:
    """Each bead in a savepoint of its own: the effects of those that went through."""
    done: dict[str, list[Effect]] = {}
    for each in acting:
        bead_id = each[0].id
        try:
            with session.begin_nested():
                done |= _carry_out(session, [each], policies)
        except MoveLost:
            wake(session, bead_id)
        except OperationalError as error:
            if not is_lock_trouble(error):
                raise
            log.info("row_busy", bead=bead_id, rule=each[2].rule)
            set_bead(session, bead_id, wake_at=now + BUSY_DELAY)
        except IntegrityError as error:  # a fault of ours: it must not keep the town's other beads waiting
            log.error("constraint_hit", bead=bead_id, rule=each[2].rule, error=str(error.orig))
            set_bead(session, bead_id, wake_at=now + REFUSED_DELAY, ready_at=None)
    return done


def _carry_out(session: Session, acting: Sequence[Decided], policies: Mapping[int, Policy]) -> dict[str, list[Effect]]:
    """All actions of these beads, or MoveLost: the effects by bead."""
    batch = _Batch()
    for bead, view, decision in acting:
        batch.effects[bead.id] = []
        for action in decision.actions:
            batch.add(bead, view, action, policies[bead.rig_id])
    _end_attempts(session, batch, policies)
    if batch.asks:
        _must(len(endings.ask_stops(session, batch.asks)) == len(batch.asks))
    if batch.stalls:
        _must(len(endings.note_stalls(session, batch.stalls)) == len(batch.stalls))
    if batch.rare:
        before = session.execute(IMPATIENT).one().setting
        for bead, action in batch.rare:
            _carry_out_rare(session, bead, action)
        session.execute(PATIENT, {"before": before})
    if batch.asked_merges:
        requests.note_asked(session, *batch.asked_merges)
    if batch.starts:
        made = creation.create_dispatches(session, batch.starts)
        for bead_id, dispatch_id in made.items():
            batch.effects[bead_id].append(StartContainer(dispatch_id=str(dispatch_id), node=batch.nodes[bead_id]))
    titles = {bead.id: bead.title for bead, _view, _decision in acting}
    return {
        bead_id: [said_about(effect, bead_id, titles[bead_id]) for effect in effects]
        for bead_id, effects in batch.effects.items()
    }


Rare = (
    Escalate
    | HoldBead
    | FreeAgent
    | FailBead
    | CleanUp
    | ReclaimMerge
    | CreateRework
    | CreateReview
    | CloseReview
    | FailMerge
    | OpenLanding
    | CloseLanding
    | EndConvoy
)


@dataclass
class _Batch:
    """Actions by what they ask for. Each kind of the first group is one or a few statements, however many there are."""

    roll_backs: list[Ending] = field(default_factory=list)
    losses: list[Ending] = field(default_factory=list)
    stops: list[Ending] = field(default_factory=list)
    asks: list[Ask] = field(default_factory=list)
    stalls: list[Stall] = field(default_factory=list)
    asked_merges: list[int] = field(default_factory=list)
    starts: list[creation.Start] = field(default_factory=list)
    nodes: dict[str, str] = field(default_factory=dict)  # where a bead's attempt starts
    rare: list[tuple[LoadedBead, Rare]] = field(default_factory=list)
    effects: defaultdict[str, list[Effect]] = field(default_factory=lambda: defaultdict(list))

    def add(self, bead: LoadedBead, view: BeadView, action: Action, policy: Policy) -> None:
        match action:
            case CreateDispatch(node_id=node_id):
                assert view.slot is not None
                self.nodes[bead.id] = view.slot.node
                self.starts.append(creation.start_of(bead, node_id, policy))
            case RollBack(dispatch_id=key, code=code, message=message):
                self.roll_backs.append(Ending(dispatch_id=UUID(key), code=code, message=message))
            case Lose(dispatch_id=key, code=code, message=message, exit_code=exit_code):
                self.losses.append(Ending(dispatch_id=UUID(key), code=code, message=message, exit_code=exit_code))
            case StopAttempt(dispatch_id=key, code=stop_code, message=message):
                self.stops.append(Ending(dispatch_id=UUID(key), code=stop_code, message=message))
            case AskStop(dispatch_id=key, code=stop_code, reason=reason):
                self.asks.append(Ask(dispatch_id=UUID(key), code=stop_code, reason=reason))
            case NoteStall(dispatch_id=key, tier=tier, message=message):
                self.stalls.append(Stall(dispatch_id=UUID(key), tier=tier, message=message))
            case AskMerge(merge_id=merge_id):
                self.asked_merges.append(merge_id)
                self.effects[bead.id].append(action)
            case StartContainer() | StopContainer() | InspectContainers():
                self.effects[bead.id].append(action)
            case _:
                self.rare.append((bead, action))


def _end_attempts(session: Session, batch: _Batch, policies: Mapping[int, Policy]) -> None:
    running = (DispatchStatus.RUNNING,)
    for ending, sources, target in (
        (batch.roll_backs, endings.STARTABLE, DispatchStatus.ROLLED_BACK),
        (batch.losses, running, DispatchStatus.LOST),
        (batch.stops, running, DispatchStatus.STOPPED),
    ):
        if ending:
            _must(len(endings.end(session, ending, sources, target, policies)) == len(ending))


def _carry_out_rare(session: Session, loaded: LoadedBead, action: Rare) -> None:
    match action:
        case Escalate(cause=cause, message=message):
            escalations.raise_once(session, loaded.town_id, cause, message, bead_id=loaded.id)
        case HoldBead(reason=reason):
            beads.hold_bead(session, _row(session, loaded), reason, "reconciler")
        case FreeAgent():
            agents.free(session, loaded.id)
        case FailBead(code=code, message=message):
            _must(beads.fail_bead(session, _row(session, loaded), code, message))
        case CleanUp():
            attempts.stop_live(session, _row(session, loaded), StopCode.CANCELED, f"{loaded.id} is {loaded.status}")
            agents.unhook(session, loaded.id)
        case ReclaimMerge(merge_id=merge_id):
            _must(merges.reclaim(session, merge_id))
        case CreateRework(merge_id=merge_id, purpose=purpose, agent=agent):
            _must(rework.create(session, merge_id, purpose, agent))
        case CreateReview(merge_id=merge_id, agent=agent):
            _must(reviews.create_review(session, merge_id, agent))
        case CloseReview(reason=reason):
            _must(reviews.close(session, _row(session, loaded), reason, "reconciler"))
        case FailMerge(merge_id=merge_id, message=message):
            _must(rework.fail_merge(session, _row(session, loaded), merge_id, message))
        case OpenLanding():
            _must(landings.open_landing(session, _row(session, loaded)))
        case CloseLanding(message=message):
            _must(landings.close_landing(session, _row(session, loaded), message))
        case EndConvoy():
            landings.end_convoy(session, _row(session, loaded))
        case _:
            assert_never(action)


def _row(session: Session, loaded: LoadedBead) -> Bead:
    bead = lock_bead(session, loaded.id)
    assert bead is not None  # beads are never deleted
    return bead


def _must(moved: bool) -> None:
    if not moved:
        raise MoveLost
