"""The product without one of its protections. The names are those of the specification."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import select, update
from sqlalchemy.orm import Session

from gastown.agent.protocol import Done
from gastown.commands import attempt
from gastown.db import gastown_now
from gastown.models import Agent, Bead, Dispatch
from gastown.states import ADOPTABLE, LIVE, AgentStatus, BeadStatus, DispatchStatus, FailureCode
from gastown.store import agents, attempts, merges, moves, reads
from gastown.store.attempts import Fenced
from gastown.tasks import containers
from gastown.tasks import reconcile as ticking

Patch = pytest.MonkeyPatch


def rollback_guarded(patch: Patch) -> None:
    """A roll-back that comes too late still frees the agent."""
    whole = attempts.roll_back

    def careless(session: Session, dispatch_id: UUID, code: FailureCode, message: str) -> bool:
        moved = whole(session, dispatch_id, code, message)
        working = Agent.status == AgentStatus.WORKING
        mine = select(Dispatch.agent_id).where(Dispatch.id == dispatch_id).scalar_subquery()
        session.execute(update(Agent).where(Agent.id == mine, working).values(status=AgentStatus.IDLE))
        return moved

    patch.setattr(attempts, "roll_back", careless)


def rollback_before_running(patch: Patch) -> None:
    """A failed start gives up what runs already."""
    whole = attempts.roll_back

    def late(session: Session, dispatch_id: UUID, code: FailureCode, message: str) -> bool:
        return whole(session, dispatch_id, code, message) or attempts.lose(session, dispatch_id, code, message)

    patch.setattr(attempts, "roll_back", late)


def finish_accepts_running(patch: Patch) -> None:
    """The closing write of a start takes one that was faster than it for a stranger."""
    whole = attempts.end_start_call

    def slow(session: Session, dispatch_id: UUID, pid: int | None) -> bool:
        return whole(session, dispatch_id, pid) and _status(session, dispatch_id) == DispatchStatus.STARTING

    patch.setattr(attempts, "end_start_call", slow)


def raise_inspects(patch: Patch) -> None:
    """A start that raises has failed; nobody looks."""
    patch.setattr(containers, "_is_present", lambda *_: False)


def _fence(patch: Patch, adoptable: Callable[[Session, Dispatch], bool]) -> None:
    def is_fenced(session: Session, dispatch: Dispatch) -> bool:
        if dispatch.status in LIVE:
            return not _wanted(session, dispatch)
        return dispatch.status not in ADOPTABLE or not adoptable(session, dispatch)

    patch.setattr(attempts, "is_fenced", is_fenced)
    patch.setattr(reads, "is_fenced", is_fenced)


def adopt_checks_epoch(patch: Patch) -> None:
    """An attempt is taken back although a newer one exists."""
    _fence(patch, _wanted)


def adopt_checks_hook(patch: Patch) -> None:
    """An attempt is taken back although its bead is over."""

    def newest(session: Session, dispatch: Dispatch) -> bool:
        newer = select(Dispatch.id).where(Dispatch.bead_id == dispatch.bead_id, Dispatch.epoch > dispatch.epoch)
        return session.scalar(newer.limit(1)) is None

    _fence(patch, newest)


def adopt_lost(patch: Patch) -> None:
    """Lost is lost for ever."""
    patch.setattr(attempts, "ADOPTABLE", (DispatchStatus.ROLLED_BACK,))


def adopt_only_unreported(patch: Patch) -> None:
    """An attempt that said it failed is taken back."""
    patch.setattr(attempts, "ADOPTABLE", (*ADOPTABLE, DispatchStatus.FAILED))
    patch.setattr(moves, "is_legal", lambda *_: True)


def every_call_adopts(patch: Patch) -> None:
    """Only a heartbeat takes an attempt back."""
    whole = attempts.admit

    def strict(session: Session, dispatch_id: UUID) -> Any:
        if _status(session, dispatch_id) in ADOPTABLE:
            raise Fenced("it was given up")
        return whole(session, dispatch_id)

    patch.setattr(attempts, "admit", strict)


def done_repeatable(patch: Patch) -> None:
    """The second `done` of an attempt finds it over."""
    whole = attempt.finish

    def once(session: Session, dispatch_id: UUID, done: Done) -> str:
        if _status(session, dispatch_id) == DispatchStatus.SUCCEEDED:
            raise Fenced("it is over")
        return whole(session, dispatch_id, done)

    patch.setattr(attempt, "finish", once)


def done_atomic(patch: Patch) -> None:
    """`done` ends the attempt, and leaves the bead and its merge to somebody else."""
    whole = attempt.finish

    def half(session: Session, dispatch_id: UUID, done: Done) -> str:
        if done.outcome != "succeeded":
            return whole(session, dispatch_id, done)
        attempts.admit(session, dispatch_id)
        moves.move(
            session, Dispatch, dispatch_id, DispatchStatus.RUNNING, DispatchStatus.SUCCEEDED, ended_at=gastown_now()
        )
        return DispatchStatus.SUCCEEDED

    patch.setattr(attempt, "finish", half)


def stop_only_fenced(patch: Patch) -> None:
    """What is not live is stopped, also when it may be taken back."""

    def fenced_among(session: Session, dispatch_ids: Iterable[UUID]) -> list[UUID]:
        over = Dispatch.id.in_(list(dispatch_ids)), Dispatch.status.not_in(LIVE)
        return list(session.scalars(select(Dispatch.id).where(*over)))

    patch.setattr(reads, "is_fenced", lambda _session, dispatch: dispatch.status not in LIVE)
    patch.setattr(reads, "fenced_among", fenced_among)


def cancel_atomic(patch: Patch) -> None:
    """A cancel leaves the attempt and its agent to the reconciler."""
    patch.setattr(attempts, "stop_live", lambda *_: None)
    patch.setattr(agents, "unhook", lambda *_: None)


def merge_fence(patch: Patch) -> None:
    """A merge pushes without having taken the right to."""
    patch.setattr(merges, "begin_push", lambda *_: True)


def guard_by_api(patch: Patch) -> None:
    """Silence counts also while nobody could be heard."""
    whole = ticking.decide
    patch.setattr(ticking, "decide", lambda view, now, policy: whole(replace(view, outage=False), now, policy))


def _status(session: Session, dispatch_id: UUID) -> str | None:
    return session.scalar(select(Dispatch.status).where(Dispatch.id == dispatch_id))


def _wanted(session: Session, dispatch: Dispatch) -> bool:
    bead = session.get_one(Bead, dispatch.bead_id)
    agent = session.get_one(Agent, dispatch.agent_id)
    return bead.status == BeadStatus.IN_PROGRESS and agent.bead_id == bead.id


MUTANTS: dict[str, Callable[[Patch], None]] = {
    each.__name__: each
    for each in (
        rollback_guarded,
        rollback_before_running,
        finish_accepts_running,
        raise_inspects,
        adopt_checks_epoch,
        adopt_checks_hook,
        adopt_lost,
        adopt_only_unreported,
        every_call_adopts,
        done_repeatable,
        done_atomic,
        stop_only_fenced,
        cancel_atomic,
        merge_fence,
        guard_by_api,
    )
}
