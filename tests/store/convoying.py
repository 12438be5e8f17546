"""Convoys in the database, and members whose agents and merges do what a test says."""

import itertools
from collections.abc import Sequence
from typing import Any

from sqlalchemy import select

from gastown.agent.protocol import Done
from gastown.commands import convoys
from gastown.db import transaction
from gastown.models import Bead, Convoy, ConvoyBranch, Dispatch, MergeRequest, Rig
from gastown.states import ConvoyMode, DispatchStatus, Purpose
from gastown.store import merges
from tests import calls
from tests.builders import a_bead, an_attempt
from tests.races import committed
from tests.store.merging import claim
from tests.ticks import tick

_shas = itertools.count(1)


def sha() -> str:
    return f"{next(_shas):040x}"


def members(count: int, rig: Rig | None = None, **values: Any) -> list[str]:
    """New beads that are in no convoy yet."""
    return committed(lambda session: [a_bead(session, rig, **values).id for _ in range(count)])  # type: ignore[no-any-return]


def make(town_id: int, bead_ids: Sequence[str], **values: Any) -> str:
    """A convoy of these beads that is started, and was looked at."""
    values = {"start": True, "bead_ids": bead_ids, "name": "Ship it"} | values
    name = values.pop("name")
    convoy_id: str = committed(lambda session: convoys.create(session, town_id, name, **values))
    tick()
    return convoy_id


def one_by_one(town_id: int, bead_ids: Sequence[str]) -> str:
    return make(town_id, bead_ids, mode=ConvoyMode.REVIEW_AND_MERGE)


def convoy(convoy_id: str) -> Convoy:
    with transaction() as session:
        return session.get_one(Convoy, convoy_id)


def bead(bead_id: str) -> Bead:
    with transaction() as session:
        return session.get_one(Bead, bead_id)


def landings(convoy_id: str) -> list[Bead]:
    """By rig."""
    with transaction() as session:
        query = select(Bead).where(Bead.convoy_id == convoy_id, Bead.purpose == Purpose.LANDING)
        return list(session.scalars(query.order_by(Bead.rig_id)))


def branch(convoy_id: str) -> ConvoyBranch:
    with transaction() as session:
        return session.scalars(select(ConvoyBranch).where(ConvoyBranch.convoy_id == convoy_id)).one()


def request_of(bead_id: str) -> MergeRequest:
    """The newest."""
    with transaction() as session:
        query = select(MergeRequest).where(MergeRequest.bead_id == bead_id).order_by(MergeRequest.id.desc())
        return session.scalars(query.limit(1)).one()


def work(bead_id: str, *, changed: bool = True) -> None:
    """An attempt on it is done: its head waits to be merged, unless it changed nothing."""
    base = sha()
    calls.finish(
        _running(bead_id),
        Done(outcome="succeeded", base_sha=base, head_sha=sha() if changed else base, exit_code=0),
    )


def fail(bead_id: str) -> None:
    """An attempt on it says that none can succeed, so it fails."""
    calls.finish(_running(bead_id), Done(outcome="failed", code="branch_missing", message="no branch main"))
    tick()


def _running(bead_id: str) -> Dispatch:
    """The attempt on it that the reconciler made, or else one of the test's, at work."""
    with transaction() as session:
        live = session.scalar(select(Dispatch).where(Dispatch.bead_id == bead_id, Dispatch.ended_at.is_(None)))
        if live is None:
            return an_attempt(session, DispatchStatus.RUNNING, bead=session.get_one(Bead, bead_id))
        live.status, live.started_at = DispatchStatus.RUNNING, live.queued_at
        return live


def merge(bead_id: str) -> str:
    """Its merge goes through; the target's new head."""
    merged = sha()
    order = claim(request_of(bead_id))
    assert committed(lambda session: merges.begin_push(session, order, merged, sha()))
    assert committed(lambda session: merges.record_merged(session, order, merged))
    tick()
    return merged


def finish(*bead_ids: str) -> str:
    """Each is worked on and merged; the last head of the target."""
    head = ""
    for bead_id in bead_ids:
        work(bead_id)
        head = merge(bead_id)
    return head
