"""The end of a convoy: what its members made on one rig enters the queue of the target, and what follows from that."""

from sqlalchemy import select
from sqlalchemy.orm import Session, aliased

from gastown.db import gastown_now
from gastown.errors import Refused
from gastown.models import Bead, BeadDependency, Convoy, MergeRequest
from gastown.states import RELEASING, TERMINAL, BeadStatus, ConvoyMode, ConvoyStatus, Purpose, Resolution
from gastown.store import beads, branches, convoys, escalations, requests, rework
from gastown.store.moves import move, record, set_bead, wake


def open_landing(session: Session, bead: Bead) -> bool:
    """The members are over: the head of their branch is a merge request of this landing bead, which is locked.

    False: it is not open any more, or there is nothing to land.
    """
    assert bead.convoy_id is not None
    convoy = convoys.lock_row(session, bead.convoy_id)
    path = branches.branch_of(session, bead)
    if path is None or path.head_sha is None or bead.status != BeadStatus.OPEN:
        return False
    if convoy.status == ConvoyStatus.OPEN:
        move(session, Convoy, convoy.id, ConvoyStatus.OPEN, ConvoyStatus.LANDING)
    elif convoy.status != ConvoyStatus.LANDING:
        return False
    if not move(session, Bead, bead.id, BeadStatus.OPEN, BeadStatus.IN_REVIEW, ready_at=None, wake_at=gastown_now()):
        return False
    request = MergeRequest(
        town_id=bead.town_id,
        rig_id=bead.rig_id,
        bead_id=bead.id,
        target=path.target,
        head_sha=path.head_sha,
        head_ref=f"refs/heads/{path.branch}",
        priority=branches.highest_priority(session, bead),
    )
    session.add(request)
    session.flush()
    escalations.settle(session, bead.town_id, escalations.MEMBER + bead.id)
    message = f"{path.branch} at {path.head_sha[:12]} is to be merged into {path.target}"
    record(session, bead.town_id, "landing", message, actor="reconciler", bead_id=bead.id, convoy=convoy.id)
    return True


def close_landing(session: Session, bead: Bead, message: str) -> bool:
    """There is nothing to land: `no_changes`, or `done` where each member is merged by itself. The bead is locked."""
    assert bead.convoy_id is not None
    convoy = convoys.lock_row(session, bead.convoy_id)
    one_by_one = convoy.mode == ConvoyMode.REVIEW_AND_MERGE
    resolution = Resolution.DONE if one_by_one else Resolution.NO_CHANGES
    return bead.status == BeadStatus.OPEN and beads.close_bead(session, bead, resolution, "reconciler", message)


def end_convoy(session: Session, bead: Bead) -> None:
    """A landing bead is over: when all of them are, so is the convoy. It fails if one of them failed."""
    assert bead.convoy_id is not None
    convoy = convoys.lock_row(session, bead.convoy_id)
    if convoy.status not in (ConvoyStatus.OPEN, ConvoyStatus.LANDING):
        return
    landings = _landings(session, convoy.id)
    if any(each.status not in TERMINAL for each in landings):
        return  # another one's end will be the end
    failed = [each.id for each in landings if each.status == BeadStatus.FAILED]
    target = ConvoyStatus.FAILED if failed else ConvoyStatus.CLOSED
    sources = (ConvoyStatus.OPEN, ConvoyStatus.LANDING)
    move(session, Convoy, convoy.id, sources, target, closed_at=gastown_now())
    if not failed:
        ask_no_more(session, convoy)
    message = f"convoy {convoy.id} failed: {', '.join(failed)}" if failed else f"convoy {convoy.id} is closed"
    record(session, bead.town_id, f"convoy_{target}", message, actor="reconciler", bead_id=bead.id, convoy=convoy.id)


def ask_no_more(session: Session, convoy: Convoy) -> None:
    """It has landed, or a person closed it: nobody is asked about members that it goes without, nor about beads that
    only such members wait for. Whoever wants them retries them.
    """
    members = session.scalars(select(Bead.id).where(Bead.convoy_id == convoy.id)).all()
    waits, waiting, other = aliased(BeadDependency), aliased(Bead), aliased(BeadDependency)
    outside = select(other).join(waiting, waiting.id == other.bead_id).where(other.blocker_id == waits.blocker_id)
    outside = outside.where(waiting.status.not_in(TERMINAL), waiting.convoy_id.is_distinct_from(convoy.id))
    blockers = select(waits.blocker_id).where(waits.bead_id.in_(members), ~outside.exists())
    causes = [escalations.BLOCKER + each for each in session.scalars(blockers)]
    causes += [cause + each for cause in (escalations.FAILED, escalations.MERGE_FAILED) for each in members]
    escalations.settle(session, convoy.town_id, *causes)


def call_back(session: Session, member: Bead, actor: str) -> None:
    """A member is worked on again: what its convoy made on its rig does not land before that is over. A landing that
    failed is opened again, or the member would bring to the target what it stands on, and one that had nothing to land.

    The member is locked, and the landing beads of its convoy. Raises Refused while the landing is being pushed, and
    when what the member stands on is not to land any more.
    """
    landing = None if member.purpose else convoys.landing_on(session, member.convoy_id, member.rig_id)
    if landing is None or landing.convoy_id is None or landing.resolution == Resolution.MERGED:
        return
    convoy = convoys.lock_row(session, landing.convoy_id)
    if convoy.status == ConvoyStatus.CLOSED:
        _refuse_to_bring(session, convoy, landing, member)
        return
    if landing.status == BeadStatus.FAILED:
        reopen_landing(session, landing, actor)
    elif landing.status == BeadStatus.CLOSED:
        beads.reopen(session, landing, actor)
    escalations.settle(session, landing.town_id, escalations.MEMBER + landing.id)
    if landing.status == BeadStatus.IN_REVIEW:
        withdraw(session, landing, f"{member.id} is worked on again", actor)
    wake(session, landing.id)


def forgive(session: Session, member: Bead) -> None:
    """Nobody is asked any more about a failed member that is ended by hand; of others that failed, the rules ask anew.

    The member is locked.
    """
    landing = None if member.purpose else convoys.landing_on(session, member.convoy_id, member.rig_id)
    if landing is not None:
        escalations.settle(session, landing.town_id, escalations.MEMBER + landing.id)


def _refuse_to_bring(session: Session, convoy: Convoy, landing: Bead, member: Bead) -> None:
    if landing.resolution in RELEASING:
        return
    path = branches.branch_of(session, landing)
    if path is not None and path.head_sha is not None and beads.last_epoch(session, member.id):
        why = f"{member.id} stands on {path.branch}, which does not land: convoy {convoy.id} was closed"
        raise Refused(why, hint='gastown sling "..." does it anew, from the target')


def withdraw(session: Session, landing: Bead, why: str, actor: str) -> None:
    assert landing.convoy_id is not None
    convoy = convoys.lock_row(session, landing.convoy_id)
    _keep_mended(session, landing, requests.close_request(session, landing))
    rework.cancel_for(session, landing.id, actor, why)
    move(session, Bead, landing.id, BeadStatus.IN_REVIEW, BeadStatus.OPEN, wake_at=gastown_now())
    others = [each for each in _landings(session, convoy.id) if each.id != landing.id]
    if convoy.status == ConvoyStatus.LANDING and all(each.status != BeadStatus.IN_REVIEW for each in others):
        move(session, Convoy, convoy.id, ConvoyStatus.LANDING, ConvoyStatus.OPEN)
    message = f"its landing is withdrawn: {why}"
    record(session, landing.town_id, "withdrawn", message, actor=actor, bead_id=landing.id, convoy=convoy.id)


def _keep_mended(session: Session, landing: Bead, request: MergeRequest | None) -> None:
    """What was to land was mended, and the next request starts with that."""
    if request is not None and request.dispatch_id is not None:
        assert landing.convoy_id is not None
        branches.note_head(session, landing.convoy_id, landing.rig_id, request.head_sha)


def reopen_landing(session: Session, landing: Bead, actor: str) -> None:
    """A locked landing bead that failed is tried again, and so is its convoy. Raises Refused when that was closed."""
    assert landing.convoy_id is not None
    convoy = convoys.lock_row(session, landing.convoy_id)
    if convoy.status == ConvoyStatus.CLOSED:
        raise Refused(f"convoy {convoy.id} was closed", hint=f"gastown convoy show {convoy.id}")
    _keep_mended(session, landing, rework.failed_request(session, landing.id))
    beads.reopen(session, landing, actor)
    set_bead(session, landing.id, attempts_from=count_failed(session, landing.id))
    if convoy.status == ConvoyStatus.FAILED:
        move(session, Convoy, convoy.id, ConvoyStatus.FAILED, ConvoyStatus.OPEN, closed_at=None)


def count_failed(session: Session, landing_id: str) -> int:
    query = select(MergeRequest.id).where(MergeRequest.bead_id == landing_id, MergeRequest.status == "failed")
    return len(session.scalars(query).all())


def _landings(session: Session, convoy_id: str) -> list[Bead]:
    query = select(Bead).where(Bead.convoy_id == convoy_id, Bead.purpose == Purpose.LANDING).order_by(Bead.id)
    return list(session.scalars(query.execution_options(populate_existing=True)))
