"""What holds a town back, summed up: each verdict with how many beads, a reason and what opens it. Bounded: no bead is
decided anew, so a hundred thousand that wait cost one walk through an index."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import and_, case, func, select
from sqlalchemy.orm import Session, aliased

from gastown.models import Bead, MergeRequest, Rig
from gastown.reconcile.town import hold_of, unfit
from gastown.states import TERMINAL, BeadStatus, MergeStatus, Verdict
from gastown.store.advice import advise, needs_a_person
from gastown.store.claims import clock
from gastown.store.explain import UNDECIDED
from gastown.store.listing import blockers_of
from gastown.store.load import load_town
from gastown.store.policies import load_policies

AT_WORK = (Verdict.DISPATCH, Verdict.AWAITING_START, Verdict.AWAITING_AGENT, Verdict.STOPPING, Verdict.AWAITING_MERGE)
FAILED = "failed"
UNFINISHED = MergeRequest.status.not_in((MergeStatus.CLOSED, MergeStatus.FAILED))


@dataclass(frozen=True, kw_only=True)
class HoldUp:
    """Beads that stand at the same gate."""

    verdict: str  # a Verdict; `failed`, or `undecided` before the first look
    beads: int
    rig: str | None  # of a gate of the town: the rig whose ready beads stand there
    reason: str  # of one of them, with its values
    example: str  # the id of that one
    opens: str
    command: str
    opens_at: datetime | None = None
    of_town: bool = False  # a gate of the town or the rig holds beads about which nothing else is missing
    needs_you: bool = False


@dataclass(frozen=True, kw_only=True)
class Summary:
    down: bool  # nothing of Gastown runs, so nothing happens
    unclosed: int
    holdups: tuple[HoldUp, ...]  # the town's gates first, then what needs a person, then the most beads


def summarise(session: Session, town_id: int, rig: str | None = None) -> Summary:
    """Of the town, or of one rig."""
    gates, down = _gates(session, town_id, rig)
    found = [*gates, *_stored(session, town_id, rig)]
    found.sort(key=lambda each: (not each.of_town, each.verdict in AT_WORK, not each.needs_you, -each.beads))
    return Summary(down=down, unclosed=sum(each.beads for each in found), holdups=tuple(found))


def _gates(session: Session, town_id: int, rig: str | None) -> tuple[list[HoldUp], bool]:
    """What holds ready beads now: one look for each rig and preset, whatever their number."""
    query = select(Bead.rig_id, Rig.name, Bead.agent, func.count().label("beads"), func.min(Bead.id).label("example"))
    query = query.join(Rig, Rig.id == Bead.rig_id).where(Bead.town_id == town_id, Bead.ready_at.is_not(None))
    if rig is not None:
        query = query.where(Rig.name == rig)
    rows = session.execute(query.group_by(Bead.rig_id, Rig.name, Bead.agent).order_by(Rig.name, Bead.agent)).all()
    now, policies = clock(session), load_policies(session, town_id)  # after the beads, so that it has their rigs
    town = load_town(session, town_id, now, policies)
    found = []
    for row in rows:
        hold = hold_of(town, row.rig_id, row.agent, now, policies.town)
        of_town = town.paused_at is not None if hold.verdict is Verdict.PAUSED else town.wrong is not None
        drained = town.closed[0].name if town.closed else ""
        advice = advise(
            row.example,
            BeadStatus.OPEN,
            hold.verdict,
            rig=row.name,
            of_town=of_town,
            drained=drained,
            no_environment=town.rigs[row.rig_id].no_environment,
            unfit=hold.gate == unfit.__name__,
        )
        found.append(
            HoldUp(
                verdict=hold.verdict,
                beads=row.beads,
                rig=row.name,
                reason=hold.reason,
                example=row.example,
                opens=advice.opens,
                command=advice.command,
                opens_at=hold.opens_at,
                of_town=hold.verdict is not Verdict.READY,
                needs_you=hold.verdict in (Verdict.PAUSED, Verdict.MISCONFIGURED)
                or hold.gate == unfit.__name__
                or (hold.verdict is Verdict.DRAINING and drained != ""),
            )
        )
    return found, town.down


def _stored(session: Session, town_id: int, rig: str | None) -> list[HoldUp]:
    """What was said last of all others: what changes that wakes them, so it is true but for a moment."""
    verdict = func.coalesce(case((Bead.status == BeadStatus.FAILED, FAILED), else_=Bead.verdict), UNDECIDED)
    code = MergeRequest.held_code  # a conflict and a red gate are opened in different ways
    mending, review = aliased(Bead), aliased(Bead)
    ended = mending.status == BeadStatus.FAILED, review.status.in_(TERMINAL)  # and so are those whose agents gave up
    query = select(verdict.label("verdict"), func.count().label("beads"), func.min(Bead.id).label("example"))
    query = query.outerjoin(MergeRequest, and_(MergeRequest.bead_id == Bead.id, UNFINISHED))
    query = query.outerjoin(mending, mending.id == MergeRequest.rework_id)
    query = query.outerjoin(review, review.id == MergeRequest.review_id)
    query = query.where(Bead.town_id == town_id, Bead.status != BeadStatus.CLOSED, Bead.ready_at.is_(None))
    if rig is not None:
        query = query.where(
            Bead.rig_id == select(Rig.id).where(Rig.town_id == town_id, Rig.name == rig).scalar_subquery()
        )
    rows = session.execute(query.group_by(verdict, code, *ended).order_by(verdict, code, *ended)).all()
    return [_holdup(session, row.verdict, row.beads, row.example) for row in rows]


def _holdup(session: Session, verdict: str, beads: int, example: str) -> HoldUp:
    bead = session.get_one(Bead, example)
    request = session.scalar(select(MergeRequest).where(MergeRequest.bead_id == example, UNFINISHED))
    held_code = None if request is None else request.held_code
    mending = None if request is None or request.rework_id is None else session.get_one(Bead, request.rework_id)
    review = None if request is None or request.review_id is None else session.get_one(Bead, request.review_id)
    blocker = next((each.id for each in blockers_of(session, example)), "")
    rig = session.get_one(Rig, bead.rig_id)
    advice = advise(
        bead.id,
        bead.status,
        bead.verdict,
        convoy=bead.convoy_id or "",
        held_code=held_code,
        blocker=blocker,
        mending=mending.id if mending is not None and mending.status == BeadStatus.FAILED else "",
        repository=rig.repository,
        rig=rig.name,
    )
    failed = verdict == FAILED
    return HoldUp(
        verdict=verdict,
        beads=beads,
        rig=None,
        reason=(bead.failure_message if failed else bead.verdict_reason) or "the next tick looks at it",
        example=example,
        opens=advice.opens,
        command=advice.command,
        needs_you=needs_a_person(
            bead.status,
            bead.verdict,
            live=verdict in AT_WORK and bead.status == BeadStatus.IN_PROGRESS,
            held_by_hand=bead.held_at is not None,
            held_code=held_code,
            review_over=review is not None and review.status in TERMINAL,
        ),
    )
