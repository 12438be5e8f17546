"""Attempts in every state, and every call that one may make."""

from collections.abc import Callable
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from gastown.agent.protocol import Checkpoint, Done, Heartbeat
from gastown.commands import attempt
from gastown.db import in_transaction, transaction
from gastown.models import Agent, Dispatch, MergeRequest
from gastown.states import DispatchStatus
from tests.builders import BASE, HEAD, agent_of, an_attempt, bead_of, now
from tests.races import committed


def make(status: DispatchStatus = DispatchStatus.RUNNING, **values: Any) -> Dispatch:
    return committed(lambda session: an_attempt(session, status, **values))


def everything(dispatch: Dispatch) -> tuple[Any, ...]:
    """All of the dispatch, its agent and its bead."""
    rows = (now(dispatch), agent_of(dispatch), bead_of(dispatch))
    return tuple({column.key: getattr(row, column.key) for column in row.__table__.columns} for row in rows)


def beat(dispatch: Dispatch) -> None:
    in_transaction(lambda session: attempt.heartbeat(session, dispatch.id, Heartbeat(phase="agent", progressed=True)))


CALLS: dict[str, Callable[[Session, Dispatch], Any]] = {
    "heartbeat": lambda session, dispatch: attempt.heartbeat(
        session, dispatch.id, Heartbeat(phase="agent", progressed=False)
    ),
    "status": lambda session, dispatch: attempt.set_status(session, dispatch.id, "thinking"),
    "escalate": lambda session, dispatch: attempt.escalate(session, dispatch.id, "help"),
    "logs": lambda session, dispatch: attempt.take_logs(session, dispatch.id, []),
    "checkpoint": lambda session, dispatch: attempt.checkpoint(session, dispatch.id, Checkpoint(wip_sha="c" * 40)),
    "done": lambda session, dispatch: attempt.finish(
        session, dispatch.id, Done(outcome="succeeded", base_sha="b" * 40, head_sha=HEAD)
    ),
    "failed": lambda session, dispatch: attempt.finish(session, dispatch.id, Done(outcome="failed", code="oom")),
}


SUCCEEDED = Done(outcome="succeeded", base_sha=BASE, head_sha=HEAD, exit_code=0)
UNCHANGED = Done(outcome="succeeded", base_sha=BASE, head_sha=BASE)


def finish(dispatch: Any, done: Done) -> str:
    return committed(lambda session: attempt.finish(session, dispatch.id, done))


def merge_of(bead_id: str) -> MergeRequest | None:
    with transaction() as session:
        return session.scalar(select(MergeRequest).where(MergeRequest.bead_id == bead_id))


def hooked(bead_id: str) -> int | None:
    with transaction() as session:
        return session.scalar(select(Agent.id).where(Agent.bead_id == bead_id))
