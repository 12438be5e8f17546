"""Which commits hold what a bead, or one attempt on it, changed."""

from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from gastown.agent.protocol import head_ref, wip_ref
from gastown.errors import NotFound, Refused
from gastown.models import Bead, Dispatch, MergeRequest, Rig
from gastown.states import LIVE, MergeStatus
from gastown.store.beads import get_bead


@dataclass(frozen=True, kw_only=True)
class ChangeRow:
    rig_id: int
    repository: str
    target: str
    dispatch_id: str
    what: str  # for people, before the commit: "merged into main as"
    sha: str  # the commit with the change in it
    base_sha: str | None  # what the attempt began from, if it said so
    merged_sha: str | None  # that by which the target has it; None: not at all, or as the commit itself
    refs: tuple[str, ...]  # where the remote has it


def change_of(session: Session, town_id: int, bead_id: str, epoch: int | None = None) -> ChangeRow:
    """What was merged, else what waits for its merge, else what the newest attempt saved; or of one attempt alone.

    Raises NotFound for a bead or an attempt that is not there, and Refused when there is nothing to see yet.
    """
    bead = get_bead(session, bead_id, town_id)
    attempts = select(Dispatch).where(Dispatch.bead_id == bead.id).order_by(Dispatch.epoch.desc())
    if epoch is not None:
        dispatch = session.scalar(attempts.where(Dispatch.epoch == epoch))
        if dispatch is None:
            raise NotFound("attempt", f"{epoch} on {bead.id}", hint=f"gastown attempts {bead.id}")
        return _of_attempt(session, bead, dispatch)
    of_bead = select(MergeRequest).where(MergeRequest.bead_id == bead.id)
    merged = of_bead.where(MergeRequest.merged_sha.is_not(None)).order_by(MergeRequest.id.desc()).limit(1)
    request = session.scalar(merged)
    if request is not None:
        return _of_merge(session, request)
    waiting = session.scalar(of_bead.where(MergeRequest.status.not_in((MergeStatus.CLOSED, MergeStatus.FAILED))))
    if waiting is not None and waiting.dispatch_id is not None:
        made_by = session.get_one(Dispatch, waiting.dispatch_id)  # after rework, an attempt on another bead
        return _of_attempt(session, session.get_one(Bead, made_by.bead_id), made_by)
    rows = list(session.scalars(attempts))
    if not rows:
        raise Refused(f"there is no attempt on {bead.id} yet, so nothing is changed", hint=f"gastown why {bead.id}")
    with_work = next((row for row in rows if row.head_sha or row.wip_sha), rows[0])
    return _of_attempt(session, bead, with_work)


def _of_merge(session: Session, request: MergeRequest) -> ChangeRow:
    dispatch = None if request.dispatch_id is None else session.get_one(Dispatch, request.dispatch_id)
    itself = request.merged_sha == request.head_sha  # somebody fast-forwarded the target to it
    return ChangeRow(
        rig_id=request.rig_id,
        repository=session.get_one(Rig, request.rig_id).repository,
        target=request.target,
        dispatch_id=str(request.dispatch_id or ""),
        what=f"{request.bead_id}, merged into {request.target} as",
        sha=request.merged_sha or request.head_sha,
        base_sha=None if dispatch is None else dispatch.base_sha,
        merged_sha=None if itself else request.merged_sha,
        refs=(f"refs/heads/{request.target}",),
    )


def _of_attempt(session: Session, bead: Bead, dispatch: Dispatch) -> ChangeRow:
    sha = dispatch.head_sha or dispatch.wip_sha
    if sha is None:
        what = f"attempt {dispatch.epoch} on {bead.id} has saved nothing" + (" yet" if dispatch.status in LIVE else "")
        raise Refused(what, hint=f"gastown logs {bead.id}")
    rig = session.get_one(Rig, bead.rig_id)
    done = dispatch.head_sha is not None
    ref = head_ref(bead.id, dispatch.epoch) if done else wip_ref(bead.id, dispatch.epoch)
    return ChangeRow(
        rig_id=rig.id,
        repository=rig.repository,
        target=rig.branch,
        dispatch_id=str(dispatch.id),
        what=f"{bead.id}, attempt {dispatch.epoch}, {'done' if done else 'saved'} as",
        sha=sha,
        base_sha=dispatch.base_sha,
        merged_sha=None,
        refs=(ref,),
    )
