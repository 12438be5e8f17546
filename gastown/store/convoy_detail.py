"""What people look at of convoys: a line each, or one with its members, its branches, and what holds its landing."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, exists, func, or_, select
from sqlalchemy.orm import Session, aliased

from gastown.models import Bead, BeadDependency, Convoy, ConvoyBranch, MergeRequest, Rig
from gastown.states import RELEASING, TERMINAL, BeadStatus, ConvoyStatus, Purpose, Resolution
from gastown.store import convoys, listing
from gastown.store.explain import Explanation, explain, with_live_holds
from gastown.store.listing import BeadRow

COUNTED = ("members", "merged", "failed", "canceled", "waiting", "left_out")


@dataclass(frozen=True, kw_only=True)
class ConvoyRow:
    """A convoy on one line, with its members by how they stand."""

    id: str
    name: str
    status: str
    mode: str
    partial: bool  # it lands without the members that fail
    members: int
    merged: int  # or done without changes
    failed: int
    canceled: int
    waiting: int  # not over, and to be landed
    left_out: int  # not over, and their convoy has landed without them
    created_at: datetime
    started_at: datetime | None
    closed_at: datetime | None


@dataclass(frozen=True, kw_only=True)
class BranchRow:
    """Where the members on one rig are merged."""

    rig: str
    branch: str
    target: str  # where it lands
    head_sha: str | None  # None: nothing was merged into it yet


@dataclass(frozen=True, kw_only=True)
class LandingRow:
    """The end of a convoy on one rig, and what holds it now."""

    bead: BeadRow
    verdict: str
    reason: str
    opens: str
    command: str


@dataclass(frozen=True, kw_only=True)
class ConvoyDetail:
    convoy: ConvoyRow
    members: list[BeadRow]
    after: dict[str, list[str]]  # what each member waits for, members and others
    branches: list[BranchRow]
    landings: list[LandingRow]
    left_out: dict[str, str | None]  # members without which it has landed: the branch that one was merged into since
    down: bool  # nothing of Gastown runs, so nothing happens


def list_convoys(session: Session, town_id: int, *, everything: bool = False, limit: int = 100) -> list[ConvoyRow]:
    """The newest first; without `everything` those that are not closed."""
    query = _select_convoys().where(Convoy.town_id == town_id)
    if not everything:
        query = query.where(Convoy.status != ConvoyStatus.CLOSED)
    query = query.order_by(Convoy.created_at.desc(), Convoy.id).limit(limit)
    return [_convoy_row(row) for row in session.execute(query)]


def convoy_detail(session: Session, town_id: int, key: str) -> ConvoyDetail:
    """Raises NotFound; Refused where several have that name."""
    found = convoys.find(session, town_id, key)
    members = convoys.member_ids(session, found.id)
    landings = convoys.landing_ids(session, found.id)
    row = session.execute(_select_convoys().where(Convoy.id == found.id)).one()
    explained = explain(session, town_id, landings)
    beads = {each.id: each for each in listing.beads_by_id(session, town_id, landings)}
    return ConvoyDetail(
        convoy=_convoy_row(row),
        members=with_live_holds(session, town_id, listing.beads_by_id(session, town_id, members)),
        after=waits_of(session, members),
        branches=branches_of(session, found.id),
        landings=[_landing_row(each, beads[each.id]) for each in explained],
        left_out=left_out_of(session, found.id),
        down=any(each.down for each in explained),
    )


def waits_of(session: Session, bead_ids: Collection[str]) -> dict[str, list[str]]:
    """What each of these beads waits for, in the order in which that was made."""
    found: dict[str, list[str]] = {each: [] for each in bead_ids}
    query = select(BeadDependency.bead_id, BeadDependency.blocker_id).join(Bead, Bead.id == BeadDependency.blocker_id)
    query = query.where(BeadDependency.bead_id.in_(bead_ids), BeadDependency.kind == "blocks")
    for row in session.execute(query.order_by(Bead.created_at, Bead.id)):
        found[row.bead_id].append(row.blocker_id)
    return found


def branches_of(session: Session, convoy_id: str) -> list[BranchRow]:
    query = select(Rig.name.label("rig"), ConvoyBranch.branch, ConvoyBranch.target, ConvoyBranch.head_sha)
    query = query.join(Rig, Rig.id == ConvoyBranch.rig_id).where(ConvoyBranch.convoy_id == convoy_id)
    return [BranchRow(**row._mapping) for row in session.execute(query.order_by(Rig.name))]


def left_out_of(session: Session, convoy_id: str) -> dict[str, str | None]:
    """The members that failed or were not over when their convoy landed; where each was merged by itself since then."""
    landing = aliased(Bead)
    query = select(Bead.id, MergeRequest.target).join(landing, _landed(landing))
    query = query.outerjoin(MergeRequest, and_(MergeRequest.bead_id == Bead.id, MergeRequest.merged_sha.is_not(None)))
    collects = and_(ConvoyBranch.convoy_id == Bead.convoy_id, ConvoyBranch.rig_id == Bead.rig_id)
    query = query.outerjoin(ConvoyBranch, collects).where(Bead.convoy_id == convoy_id, Bead.purpose.is_(None))
    query = query.where(or_(Bead.status != BeadStatus.CLOSED, MergeRequest.target != ConvoyBranch.branch))
    return {row.id: row.target for row in session.execute(query.order_by(Bead.created_at, Bead.id))}


def _landed(landing: type[Bead]) -> ColumnElement[bool]:
    """That the convoy of the member `Bead` has landed on its rig."""
    same = and_(landing.convoy_id == Bead.convoy_id, landing.rig_id == Bead.rig_id)
    return and_(same, landing.purpose == Purpose.LANDING, landing.resolution.in_(RELEASING))


def name_of(session: Session, convoy_id: str) -> str:
    return session.get_one(Convoy, convoy_id).name


def _select_convoys() -> Select[*tuple[Any, ...]]:
    """Each with its members counted."""
    over, landing = Bead.status.in_(TERMINAL), aliased(Bead)
    landed = exists().where(_landed(landing))
    counts = (
        select(
            func.count().label("members"),
            func.count().filter(Bead.resolution.in_(RELEASING)).label("merged"),
            func.count().filter(Bead.status == BeadStatus.FAILED).label("failed"),
            func.count().filter(Bead.resolution == Resolution.CANCELED).label("canceled"),
            func.count().filter(~over, ~landed).label("waiting"),
            func.count().filter(~over, landed).label("left_out"),
        )
        .where(Bead.convoy_id == Convoy.id, Bead.purpose.is_(None))
        .lateral()
    )
    return select(Convoy, counts)


def _convoy_row(row: Any) -> ConvoyRow:
    convoy: Convoy = row.Convoy
    same = ("id", "name", "status", "mode", "created_at", "started_at", "closed_at")
    counted = {name: getattr(row, name) for name in COUNTED}
    return ConvoyRow(**{name: getattr(convoy, name) for name in same}, **counted, partial=convoy.partial_at is not None)


def _landing_row(explained: Explanation, bead: BeadRow) -> LandingRow:
    return LandingRow(
        bead=bead,
        verdict=explained.verdict,
        reason=explained.reason,
        opens=explained.opens,
        command=explained.command,
    )
