"""Attempts: created, claimed, rolled back, lost, admitted, finished. The protocol of DESIGN 5, one function a move.

The order of locks is the bead, then its agent, then its dispatch.
"""

import hashlib
import secrets
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from gastown.db import gastown_now
from gastown.models import Agent, ApiToken, Bead, Dispatch, Node, Rig
from gastown.states import (
    ADOPTABLE,
    LIVE,
    AgentStatus,
    BeadStatus,
    DispatchStatus,
    FailureCode,
    StopCode,
)
from gastown.store import endings, members
from gastown.store.creation import create_dispatches, start_of
from gastown.store.endings import STARTABLE, Ending, end
from gastown.store.moves import MoveLost, lock_bead, move, record, set_bead, wake
from gastown.store.policies import policy_of
from gastown.store.workers import claimed_before

MESSAGE_CHARACTERS = endings.MESSAGE_CHARACTERS


def create_dispatch(session: Session, bead: Bead, node_id: int) -> Dispatch:
    """A new epoch on a bead whose row is locked. Raises MoveLost when somebody was first."""
    start = start_of(bead, node_id, policy_of(session, bead.rig_id))
    return session.get_one(Dispatch, create_dispatches(session, [start])[bead.id])


@dataclass(frozen=True, kw_only=True)
class StartOrder:
    """What the claimer of a start needs. The token exists here and in the attempt; the database has its hash."""

    dispatch_id: UUID
    bead_id: str
    epoch: int
    runtime: str
    node: str
    token: str
    preset: str
    rig_id: int
    repository: str
    container: dict[str, Any]  # what the rig says of it


def claim_start(session: Session, dispatch_id: UUID, worker: str, identity: str | None = None) -> StartOrder | None:
    """queued -> starting. None: somebody else has it, or it was given up, or there is no such dispatch.

    `identity`: who the worker's node is. A name may have gone to another machine since the message was sent; what
    that one started would be looked for where it is not. None: nobody can tell.
    """
    found = _lock(session, dispatch_id)
    if found is None:
        return None
    bead, dispatch = found
    node = session.get_one(Node, dispatch.node_id)
    if not members.may_be(node.identity, identity):
        return None
    policy = policy_of(session, dispatch.rig_id)
    now = gastown_now()
    if not move(
        session,
        Dispatch,
        dispatch_id,
        DispatchStatus.QUEUED,
        DispatchStatus.STARTING,
        starting_at=now,
        claimed_by=worker,
    ):
        return None
    look = now + timedelta(seconds=policy.inspect_start_s)
    set_bead(session, bead.id, wake_at=func.least(Bead.wake_at, look))
    token = secrets.token_urlsafe(32)
    session.add(
        ApiToken(
            town_id=bead.town_id, dispatch_id=dispatch_id, name=f"attempt {dispatch.epoch}", token_hash=digest(token)
        )
    )
    rig = session.get_one(Rig, dispatch.rig_id)
    return StartOrder(
        dispatch_id=dispatch_id,
        bead_id=bead.id,
        epoch=dispatch.epoch,
        runtime=node.runtime,
        node=node.name,
        token=token,
        preset=dispatch.preset,
        rig_id=rig.id,
        repository=rig.repository,
        container=rig.container,
    )


def digest(token: str) -> bytes:
    """What is stored of a bearer token; 256 random bits need no salt."""
    return hashlib.sha256(token.encode()).digest()


def end_start_call(session: Session, dispatch_id: UUID, pid: int | None) -> bool:
    """The closing write of a start: nobody is inside runtime.start any more. False: it is fenced, so stop it.

    Finds the attempt `starting`, or already `running` when it was faster than this write (S25).
    """
    found = _lock(session, dispatch_id)
    if found is None:
        return False
    _bead, dispatch = found
    session.execute(
        update(Dispatch)
        .where(Dispatch.id == dispatch_id)
        .values(call_ended_at=gastown_now(), pid=pid)
        .execution_options(synchronize_session=False)
    )
    return not is_fenced(session, dispatch)


def doubt_start(session: Session, dispatch_id: UUID) -> str | None:
    """The call of a start ended without an answer: have its node asked at once. The node's name, or None if settled."""
    found = _lock(session, dispatch_id)
    if found is None or found[1].status != DispatchStatus.STARTING:
        return None
    bead, dispatch = found
    dispatch.call_ended_at = session.scalar(select(gastown_now()))
    wake(session, bead.id)
    return session.get_one(Node, dispatch.node_id).name


def doubt_starts_of(session: Session, worker: str) -> list[UUID]:
    """A worker came back under its old name: the starts that it claimed in an earlier life have nobody inside them."""
    claimed = select(Dispatch.id).where(
        Dispatch.status == DispatchStatus.STARTING,
        claimed_before(Dispatch.claimed_by, worker),
        Dispatch.call_ended_at.is_(None),
    )
    doubted = list(session.scalars(claimed.order_by(Dispatch.bead_id)))  # their beads are locked in the one order
    for dispatch_id in doubted:
        doubt_start(session, dispatch_id)
    return doubted


def roll_back(session: Session, dispatch_id: UUID, code: FailureCode, message: str) -> bool:
    """queued or starting -> rolled_back: agent idle with its hook, bead due after its backoff. False: too late."""
    ending = Ending(dispatch_id=dispatch_id, code=code, message=message)
    return _end(session, ending, STARTABLE, DispatchStatus.ROLLED_BACK)


def lose(session: Session, dispatch_id: UUID, code: FailureCode, message: str, exit_code: int | None = None) -> bool:
    """running -> lost. Nothing is stopped: it may come back and be adopted."""
    ending = Ending(dispatch_id=dispatch_id, code=code, message=message, exit_code=exit_code)
    return _end(session, ending, (DispatchStatus.RUNNING,), DispatchStatus.LOST)


def fail(
    session: Session, bead: Bead, dispatch: Dispatch, code: FailureCode, message: str, exit_code: int | None
) -> bool:
    """running -> failed: the attempt said so itself. The bead's row is locked."""
    ending = Ending(dispatch_id=dispatch.id, code=code, message=message, exit_code=exit_code)
    return _end(session, ending, (DispatchStatus.RUNNING,), DispatchStatus.FAILED)


def stop_attempt(
    session: Session, dispatch_id: UUID, code: StopCode, message: str, exit_code: int | None = None
) -> bool:
    """running -> stopped, with what that costs the bead. The agent keeps the hook. False: it ended meanwhile."""
    ending = Ending(dispatch_id=dispatch_id, code=code, message=message, exit_code=exit_code)
    return _end(session, ending, (DispatchStatus.RUNNING,), DispatchStatus.STOPPED)


def _end(session: Session, ending: Ending, sources: tuple[DispatchStatus, ...], target: DispatchStatus) -> bool:
    found = _lock(session, ending.dispatch_id)
    if found is None:
        return False
    rig_id = found[1].rig_id
    return bool(end(session, [ending], sources, target, {rig_id: policy_of(session, rig_id)}))


class Fenced(Exception):
    """The caller's attempt was superseded, canceled or has ended: it must stop."""


def admit(session: Session, dispatch_id: UUID) -> tuple[Bead, Dispatch]:
    """The one gate for every call of an attempt: live ones are served, adoptable ones adopted. Raises Fenced."""
    found = _lock(session, dispatch_id)
    if found is None:
        raise Fenced(f"there is no attempt {dispatch_id}")
    bead, dispatch = found
    if is_fenced(session, dispatch):
        raise Fenced(f"attempt {dispatch.epoch} on {bead.id} is {dispatch.status} and will not be taken back")
    now = gastown_now()
    beat = {"heartbeat_at": now, "lease_expires_at": now + timedelta(seconds=dispatch.lease_s)}
    if dispatch.status == DispatchStatus.RUNNING:
        statement = update(Dispatch).where(Dispatch.id == dispatch_id).values(**beat)
        session.execute(statement.execution_options(synchronize_session=False))
    elif dispatch.status in ADOPTABLE:
        _adopt(session, bead, dispatch, beat)
    else:
        beat["started_at"] = beat["progress_at"] = now
        if dispatch.status == DispatchStatus.QUEUED:  # its claim is not committed yet, or was undone: it is there
            move(session, Dispatch, dispatch_id, DispatchStatus.QUEUED, DispatchStatus.STARTING, starting_at=now)
        move(session, Dispatch, dispatch_id, DispatchStatus.STARTING, DispatchStatus.RUNNING, **beat)
        message = f"attempt {dispatch.epoch} made its first call"
        record(session, bead.town_id, "started", message, actor="agent", bead_id=bead.id, dispatch_id=dispatch_id)
    session.refresh(dispatch)
    return bead, dispatch


def _adopt(session: Session, bead: Bead, dispatch: Dispatch, beat: dict[str, Any]) -> None:
    """It was given up, but lives, and nothing replaced it: the attempt goes on and its failure does not count."""
    given_up, code = dispatch.status, dispatch.code
    values = beat | {"started_at": func.coalesce(Dispatch.started_at, gastown_now())}
    values |= {"progress_at": func.coalesce(Dispatch.progress_at, gastown_now()), "adopted_at": gastown_now()}
    values |= {"ended_at": None, "code": None, "failure_class": None, "message": None, "exit_code": None}
    if dispatch.stop_code is not None:
        values["stop_asked_at"] = gastown_now()  # it hears of it only now, and its time to save its work begins
    if not (
        move(session, Agent, dispatch.agent_id, AgentStatus.IDLE, AgentStatus.WORKING, idle_since=None)
        and move(session, Dispatch, dispatch.id, ADOPTABLE, DispatchStatus.RUNNING, **values)
    ):
        raise MoveLost(f"adoption of {dispatch.id}")
    cleared = {"not_before": None, "failure_class": None, "failure_code": None, "failure_message": None}
    set_bead(session, bead.id, wake_at=gastown_now(), ready_at=None, **cleared)
    message = f"attempt {dispatch.epoch}, {given_up.replace('_', ' ')} as {code}, is alive and goes on"
    record(session, bead.town_id, "adopted", message, actor="agent", bead_id=bead.id, dispatch_id=dispatch.id)


def is_fenced(session: Session, dispatch: Dispatch) -> bool:
    """Whether the attempt is neither live nor adoptable. Final: once fenced, always fenced."""
    if dispatch.status in LIVE:
        return not _wanted(session, dispatch)
    if dispatch.status not in ADOPTABLE:
        return True
    newer = select(Dispatch.id).where(Dispatch.bead_id == dispatch.bead_id, Dispatch.epoch > dispatch.epoch)
    return session.scalar(newer.limit(1)) is not None or not _wanted(session, dispatch)


def _wanted(session: Session, dispatch: Dispatch) -> bool:
    """The bead is in progress and the attempt's agent is hooked to it."""
    statement = (
        select(Agent.id)
        .join(Bead, Bead.id == Agent.bead_id)
        .where(Agent.id == dispatch.agent_id, Bead.id == dispatch.bead_id, Bead.status == BeadStatus.IN_PROGRESS)
    )
    return session.scalar(statement) is not None


def stop_live(session: Session, bead: Bead, code: StopCode, message: str) -> Dispatch | None:
    """The live attempt of a locked bead, stopped by decision. None: there is none."""
    live = session.scalar(select(Dispatch).where(Dispatch.bead_id == bead.id, Dispatch.status.in_(LIVE)))
    if live is None:
        return None
    stop_dispatch(session, live, code, message)
    move(session, Agent, live.agent_id, AgentStatus.WORKING, AgentStatus.IDLE, idle_since=gastown_now())
    record(session, bead.town_id, "stopped", message, actor="gastown", bead_id=bead.id, dispatch_id=live.id, code=code)
    return live


def stop_dispatch(session: Session, dispatch: Dispatch, code: StopCode, message: str) -> bool:
    values = {"ended_at": gastown_now(), "code": code, "message": message}
    return move(session, Dispatch, dispatch.id, LIVE, DispatchStatus.STOPPED, **values)


def note_seen(
    session: Session, dispatch_id: UUID, seen_at: Any, present: bool, exit_code: int | None, oom: bool
) -> bool:
    """What an inspection found, with the time at which it began. Absent wakes the bead: True."""
    found = _lock(session, dispatch_id)
    if found is None or found[1].status not in LIVE:
        return False
    bead, _dispatch = found
    seen = {
        "seen_at": seen_at,
        "seen": "present" if present else "absent",
        "seen_exit_code": exit_code,
        "seen_oom": oom,
    }
    statement = update(Dispatch).where(Dispatch.id == dispatch_id).values(**seen)
    session.execute(statement.execution_options(synchronize_session=False))
    if not present:
        wake(session, bead.id)
    return not present


def _lock(session: Session, dispatch_id: UUID) -> tuple[Bead, Dispatch] | None:
    """The attempt and its bead, the bead's row locked first."""
    bead_id = session.scalar(select(Dispatch.bead_id).where(Dispatch.id == dispatch_id))
    bead = None if bead_id is None else lock_bead(session, bead_id)
    if bead is None:
        return None
    return bead, session.get_one(Dispatch, dispatch_id, populate_existing=True)
