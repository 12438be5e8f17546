"""Rows for tests, in states that the system itself could have made. A builder names only what the case is about."""

import itertools
from datetime import timedelta
from typing import Any, TypeVar

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from gastown.db import gastown_now, transaction
from gastown.models import (
    Agent,
    ApiToken,
    Base,
    Bead,
    Convoy,
    ConvoyBranch,
    Dispatch,
    MergeRequest,
    Node,
    Rig,
    Service,
    Town,
)
from gastown.states import (
    LIVE,
    TERMINAL,
    AgentStatus,
    BeadStatus,
    DispatchStatus,
    FailureCode,
    MergeStatus,
    Resolution,
    StopCode,
)
from gastown.store.attempts import digest
from gastown.store.endings import BACKED_OFF

HEAD, BASE = "a" * 40, "b" * 40
_numbers = itertools.count(1)
Row = TypeVar("Row", bound=Base)


def _insert(session: Session, row: Row) -> Row:
    session.add(row)
    session.flush()
    return row


def a_town(session: Session, **values: Any) -> Town:
    """The one town of the test, unless it gets a name."""
    name = values.pop("name", "default")
    found = session.scalar(select(Town).where(Town.name == name))
    return found or _insert(session, Town(name=name, **values))


def a_node(session: Session, name: str = "here", **values: Any) -> Node:
    """A node that beats now."""
    found = session.scalar(select(Node).where(Node.name == name))
    return found or _insert(session, Node(**{"name": name, "runtime": "process", "capacity": 8} | values))


def a_rig(session: Session, **values: Any) -> Rig:
    name = values.pop("name", "rig")
    town_id = values.pop("town_id", None) or a_town(session).id
    found = session.scalar(select(Rig).where(Rig.name == name, Rig.town_id == town_id))
    rest = {"repository": "/srv/repository", "branch": "main", "agent": "shell"} | values
    return found or _insert(session, Rig(name=name, town_id=town_id, **rest))


def a_bead(session: Session, rig: Rig | None = None, **values: Any) -> Bead:
    """An open bead, due now. `status` may be any; what it needs comes with it."""
    rig = rig or a_rig(session)
    status = values.get("status", BeadStatus.OPEN)
    rest: dict[str, Any] = {"title": "do it", "id": f"gt-{next(_numbers):05}"}
    if status not in TERMINAL:
        rest["wake_at"] = gastown_now()
    else:
        rest["closed_at"] = gastown_now()
    if status == BeadStatus.CLOSED:
        rest["resolution"] = Resolution.DONE
    if status == BeadStatus.FAILED:
        rest["failure_code"] = "attempts_exhausted"
    return _insert(session, Bead(town_id=rig.town_id, rig_id=rig.id, **rest | values))


def a_feature_branch(session: Session, branch: str, rig: Rig | None = None) -> ConvoyBranch:
    """Of a convoy of its own."""
    rig = rig or a_rig(session)
    convoy = _insert(session, Convoy(id=f"cv-{next(_numbers):05}", town_id=rig.town_id, name="a convoy"))
    return _insert(session, ConvoyBranch(convoy_id=convoy.id, rig_id=rig.id, branch=branch, target=rig.branch))


def an_agent(session: Session, rig: Rig, **values: Any) -> Agent:
    name = values.pop("name", f"agent-{next(_numbers)}")
    return _insert(session, Agent(town_id=rig.town_id, rig_id=rig.id, name=name, **values))


def an_attempt(
    session: Session,
    status: DispatchStatus = DispatchStatus.RUNNING,
    *,
    bead: Bead | None = None,
    rig: Rig | None = None,
    node: Node | None = None,
    token: str | None = None,
    **values: Any,
) -> Dispatch:
    """An attempt with its bead, agent and hook as they are in that state; without `bead`, on a new one.

    Of an earlier attempt on the bead, the agent comes along. `token`: it may call the API.
    """
    done = status == DispatchStatus.SUCCEEDED
    rig = rig or (session.get_one(Rig, bead.rig_id) if bead else a_rig(session))
    bead = session.get_one(Bead, bead.id) if bead else a_bead(session, rig, status=BeadStatus.IN_PROGRESS)
    bead.status = BeadStatus.IN_REVIEW if done else BeadStatus.IN_PROGRESS
    agent = session.scalar(select(Agent).where(Agent.bead_id == bead.id)) or an_agent(session, rig)
    agent.bead_id = None if done else bead.id
    agent.status = AgentStatus.WORKING if status in LIVE else AgentStatus.IDLE
    epochs = session.scalars(select(Dispatch.epoch).where(Dispatch.bead_id == bead.id)).all()
    row: dict[str, Any] = {"epoch": max(epochs, default=0) + 1, "preset": "shell", "status": status}
    row |= _times(status) | _ending(status) | values
    dispatch = Dispatch(
        town_id=rig.town_id,
        rig_id=rig.id,
        bead_id=bead.id,
        agent_id=agent.id,
        node_id=(node or a_node(session)).id,
        **row,
    )
    _insert(session, dispatch)
    if token is not None:
        _insert(
            session,
            ApiToken(town_id=rig.town_id, dispatch_id=dispatch.id, name="attempt", token_hash=digest(token)),
        )
    if done:
        a_merge(session, dispatch)
    return dispatch


def _times(status: DispatchStatus) -> dict[str, Any]:
    now = gastown_now()
    if status in (DispatchStatus.QUEUED, DispatchStatus.STOPPED):
        return {}
    if status in (DispatchStatus.STARTING, DispatchStatus.ROLLED_BACK):
        return {"starting_at": now, "claimed_by": "worker@here"}
    lease = now + timedelta(seconds=45)
    return {"starting_at": now, "started_at": now, "heartbeat_at": now, "lease_expires_at": lease, "progress_at": now}


def _ending(status: DispatchStatus) -> dict[str, Any]:
    if status in LIVE:
        return {}
    codes = {
        DispatchStatus.FAILED: FailureCode.AGENT_FAILED,
        DispatchStatus.ROLLED_BACK: FailureCode.START_ERROR,
        DispatchStatus.LOST: FailureCode.HEARTBEAT_LOST,
    }
    ended = {"ended_at": gastown_now()}
    if status in codes:
        return ended | {"code": codes[status], "failure_class": codes[status].failure_class, "message": "it ended"}
    return ended | ({"code": StopCode.DRAINED} if status == DispatchStatus.STOPPED else {"head_sha": HEAD})


def a_merge(session: Session, dispatch: Dispatch | None = None, **values: Any) -> MergeRequest:
    """The merge request of an attempt that is done: open, unless told otherwise."""
    if dispatch is None:
        dispatch = an_attempt(session, DispatchStatus.SUCCEEDED)
        request = session.scalars(select(MergeRequest).where(MergeRequest.dispatch_id == dispatch.id)).one()
        for name, value in values.items():
            setattr(request, name, value)
        session.flush()
        return request
    bead = session.get_one(Bead, dispatch.bead_id)
    rest = {"target": "main", "head_sha": HEAD, "priority": bead.priority, "status": MergeStatus.OPEN}
    ids = {"town_id": bead.town_id, "rig_id": bead.rig_id, "bead_id": bead.id, "dispatch_id": dispatch.id}
    return _insert(session, MergeRequest(**ids, **rest | values))


def the_api_is_there(session: Session) -> None:
    """And has been for an hour: leases run."""
    now = gastown_now()
    session.merge(Service(name="api", alive_at=now, back_at=now - timedelta(hours=1)))
    session.flush()


def now(row: Row) -> Row:
    """The row as it is in the database now."""
    with transaction() as session:
        return session.get_one(type(row), row.id)  # type: ignore[attr-defined]


def agent_of(dispatch: Dispatch) -> Agent:
    with transaction() as session:
        return session.get_one(Agent, dispatch.agent_id)


def bead_of(dispatch: Dispatch) -> Bead:
    with transaction() as session:
        return session.get_one(Bead, dispatch.bead_id)


def failures_of(dispatch: Dispatch) -> int:
    """How many failed attempts of its bead count for the backoff."""
    counted = Dispatch.failure_class.in_(BACKED_OFF)
    query = select(func.count()).where(Dispatch.bead_id == dispatch.bead_id, counted)
    with transaction() as session:
        return session.scalars(query).one()


def attempts_on(bead_id: str) -> list[Dispatch]:
    with transaction() as session:
        return list(session.scalars(select(Dispatch).where(Dispatch.bead_id == bead_id).order_by(Dispatch.epoch)))
