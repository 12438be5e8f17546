"""Merge requests, and what merge workers do with them."""

from typing import Any

from gastown.db import in_transaction, transaction
from gastown.models import Bead, MergeRequest
from gastown.states import HoldCode
from gastown.store import merges
from gastown.store.orders import MergeOrder
from tests.builders import a_merge
from tests.races import committed
from tests.ticks import take_messages

CONFLICT = HoldCode.CONFLICT
MERGED, ONTO = "d" * 40, "e" * 40


def make(**values: Any) -> MergeRequest:
    """A merge request with the bead and the attempt that it came from; `priority` is the bead's too."""
    return committed(lambda session: a_merge(session, **values))


def bead(request: MergeRequest) -> Bead:
    with transaction() as session:
        return session.get_one(Bead, request.bead_id)


def claim(request: MergeRequest, worker: str = "worker@here") -> MergeOrder:
    order = in_transaction(lambda session: merges.claim_merge(session, request.id, worker))
    assert order is not None
    return order


def refused(request: MergeRequest) -> bool:
    return in_transaction(lambda session: merges.claim_merge(session, request.id, "worker@here")) is None


def push(order: MergeOrder) -> bool:
    return committed(lambda session: merges.begin_push(session, order, MERGED, ONTO))


def hold(order: MergeOrder, code: HoldCode = CONFLICT, **more: Any) -> bool:
    return committed(lambda session: merges.hold(session, order, code, "it cannot be", **more))


def asked() -> list[int]:
    """Which merges a worker is asked for."""
    return [args[0] for task, args in take_messages("merge") if task == "gastown.merge"]
