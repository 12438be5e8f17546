"""What a merge worker needs to know of the merge that it claimed."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy.orm import Session

from gastown import gates
from gastown.agent.protocol import head_ref
from gastown.gates import Gate, MergeMethod
from gastown.models import Bead, Dispatch, MergeRequest, Rig
from gastown.states import Purpose, Strategy
from gastown.store import branches, staging
from gastown.store.policies import environment_of


@dataclass(frozen=True, kw_only=True)
class MergeOrder:
    """What the merge worker needs to know; the repository knows the rest."""

    id: int
    merge_epoch: int
    lease_s: float
    bead_id: str
    dispatch_id: UUID | None  # None: a landing
    title: str
    rig_id: int
    repository: str
    target: str
    head_sha: str
    head_ref: str
    setup: str
    gates: tuple[Gate, ...]
    environment: dict[str, str]
    method: MergeMethod
    author: str | None
    own_staged_sha: str | None  # this request's merge commit, gated, waiting for a clean checkout
    staged_sha: str | None  # the newest such commit of others, on which this merge stacks
    pushing_sha: str | None  # an earlier worker may have pushed this one; the head itself: published it
    expected_sha: str | None  # the target's head when that began, or at the last look at what is published
    origin: branches.Origin | None  # of a target that is a feature branch
    convoy: str | None  # of a landing
    strategy: Strategy
    published_sha: str | None
    published_ref: str | None
    held_code: str | None  # what held it until now
    held_reason: str | None
    members: tuple["MergeOrder", ...] = ()  # that are merged along with it, each on top of the one before it
    preset: str | None  # the rig's usual one
    container: dict[str, Any]  # what the rig says of its containers
    mender: str | None  # the preset that is to mend what may hold it, if its agents can


def order_of(
    session: Session, bead: Bead, request: MergeRequest, lease: timedelta, pushing_sha: str | None
) -> MergeOrder:
    """Of a request as it was before the claim, which gives it the next merge epoch."""
    rig = session.get_one(Rig, request.rig_id)
    origin = branches.origin_of(session, request)
    strategy = Strategy.DIRECT if origin is not None else _strategy(rig, request, pushing_sha)
    stacks = strategy is Strategy.DIRECT
    return MergeOrder(
        id=request.id,
        merge_epoch=request.merge_epoch + 1,
        lease_s=lease.total_seconds(),
        bead_id=bead.id,
        dispatch_id=request.dispatch_id,
        title=bead.title,
        rig_id=rig.id,
        repository=rig.repository,
        target=request.target,
        head_sha=request.head_sha,
        head_ref=head_ref_of(session, request),
        setup=rig.setup,
        gates=gates.of_rig(rig.gates),
        environment=environment_of(rig),
        method=MergeMethod.MERGE if bead.purpose == Purpose.LANDING else MergeMethod(rig.merge_method),
        author=rig.author,
        own_staged_sha=request.staged_sha if stacks else None,
        staged_sha=staging.newest_staged(session, request) if stacks else None,
        pushing_sha=pushing_sha,
        expected_sha=request.expected_sha,
        origin=origin,
        convoy=bead.convoy_id if bead.purpose == Purpose.LANDING else None,
        strategy=strategy,
        published_sha=request.published_sha,
        published_ref=request.published_ref,
        held_code=request.held_code,
        held_reason=request.held_reason,
        preset=rig.agent,
        container=rig.container,
        mender=mender_of(session, request),
    )


def _strategy(rig: Rig, request: MergeRequest, pushing_sha: str | None) -> Strategy:
    """How this one reaches its target, unless that is a feature branch, which is Gastown's own.

    What has begun goes on as it began.
    """
    if pushing_sha is not None:
        return Strategy.BRANCH if pushing_sha == request.head_sha else Strategy.DIRECT
    waits = request.held_code is not None and request.published_sha == request.head_sha
    return Strategy.BRANCH if waits else Strategy(rig.strategy)


def mender_of(session: Session, request: MergeRequest) -> str | None:
    """The rig's preset for that, else that of the attempt that made the head, else, of a landing, the rig's usual, or
    that of a member."""
    rig = session.get_one(Rig, request.rig_id)
    made_by = None if request.dispatch_id is None else session.get_one(Dispatch, request.dispatch_id).preset
    return rig.rework_agent or made_by or rig.agent or branches.agent_of_members(session, request)


def head_ref_of(session: Session, request: MergeRequest) -> str:
    """Where a machine that lacks the head finds it on the remote."""
    if request.head_ref is not None:
        return request.head_ref
    dispatch = session.get_one(Dispatch, request.dispatch_id)
    return head_ref(dispatch.bead_id, dispatch.epoch)
