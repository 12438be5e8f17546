"""Feature branches: where the members of a convoy are merged until it lands, and from where they start."""

import re
from dataclasses import dataclass

from sqlalchemy import ColumnElement, func, select, update
from sqlalchemy.orm import Session

from gastown.models import Bead, Convoy, ConvoyBranch, MergeRequest, Rig
from gastown.states import BeadStatus, Purpose

SLUG_CHARACTERS = 40


@dataclass(frozen=True, kw_only=True)
class Origin:
    """What a feature branch is made of by the first merge into it, and again after somebody deleted it."""

    target: str  # the branch that it lands on
    head_sha: str | None  # as the last merge into it left it; None: nothing was merged yet, it begins as the target


def branch_name(convoy: Convoy) -> str:
    slug = re.sub(r"[^a-z0-9]+", "-", convoy.name.lower())[:SLUG_CHARACTERS].strip("-")
    return f"gastown/{slug}-{convoy.id}" if slug else f"gastown/{convoy.id}"


def add_branch(session: Session, convoy: Convoy, rig: Rig) -> ConvoyBranch:
    row = ConvoyBranch(convoy_id=convoy.id, rig_id=rig.id, branch=branch_name(convoy), target=rig.branch)
    session.add(row)
    session.flush()
    return row


def path_of(session: Session, bead: Bead) -> ConvoyBranch | None:
    """The feature branch that a member is merged into. None: it is merged into its rig's own branch, as its convoy has
    none there, or what the convoy made there is landing or over."""
    if bead.convoy_id is None or bead.purpose is not None:
        return None
    landing = select(Bead.id).where(
        Bead.convoy_id == bead.convoy_id,
        Bead.rig_id == bead.rig_id,
        Bead.purpose == Purpose.LANDING,
        Bead.status == BeadStatus.OPEN,
    )
    row = select(ConvoyBranch).where(
        ConvoyBranch.convoy_id == bead.convoy_id, ConvoyBranch.rig_id == bead.rig_id, landing.exists()
    )
    return session.scalar(row.execution_options(populate_existing=True))


def target_of(session: Session, bead: Bead) -> str:
    """The branch into which a bead's finished work is merged."""
    path = path_of(session, bead)
    return session.get_one(Rig, bead.rig_id).branch if path is None else path.branch


def start_of(session: Session, bead: Bead) -> tuple[str | None, str | None]:
    """The feature branch that the work is for, once something was merged there, and its head after that."""
    if bead.mr_id is None:
        path = path_of(session, bead)
    else:
        path = session.scalar(select(ConvoyBranch).where(*_is_target(session.get_one(MergeRequest, bead.mr_id))))
    if path is None or path.head_sha is None:
        return None, None
    return path.branch, path.head_sha


def origin_of(session: Session, request: MergeRequest) -> Origin | None:
    """Of a request whose target is a feature branch; None: its target is there, or it cannot be merged."""
    query = select(ConvoyBranch.target, ConvoyBranch.head_sha).where(*_is_target(request))
    found = session.execute(query).first()
    return None if found is None else Origin(target=found.target, head_sha=found.head_sha)


def note_tip(session: Session, request: MergeRequest, tip_sha: str) -> None:
    """Something was merged into the request's target: if that is a feature branch, this is its head now."""
    statement = update(ConvoyBranch).where(*_is_target(request)).values(head_sha=tip_sha)
    session.execute(statement.execution_options(synchronize_session=False))


def note_head(session: Session, convoy_id: str, rig_id: int, head_sha: str) -> None:
    """What is to land is this by now: its landing was mended."""
    which = (ConvoyBranch.convoy_id == convoy_id, ConvoyBranch.rig_id == rig_id)
    statement = update(ConvoyBranch).where(*which).values(head_sha=head_sha)
    session.execute(statement.execution_options(synchronize_session=False))


def branch_of(session: Session, landing: Bead) -> ConvoyBranch | None:
    """What a landing bead lands, locked. None: the members of its convoy are merged each by itself."""
    row = select(ConvoyBranch).where(ConvoyBranch.convoy_id == landing.convoy_id, ConvoyBranch.rig_id == landing.rig_id)
    return session.scalar(row.with_for_update().execution_options(populate_existing=True))


def highest_priority(session: Session, landing: Bead) -> int:
    """Of the members that it lands: the number is the lower, the sooner."""
    query = select(func.min(Bead.priority)).where(
        Bead.convoy_id == landing.convoy_id, Bead.rig_id == landing.rig_id, Bead.purpose.is_(None)
    )
    return session.scalar(query) or landing.priority


def agent_of_members(session: Session, request: MergeRequest) -> str | None:
    """A preset that made some of what is landed. None: the request lands nothing."""
    landing = select(Bead.convoy_id).where(Bead.id == request.bead_id, Bead.purpose == Purpose.LANDING)
    query = select(func.min(Bead.agent)).where(
        Bead.convoy_id == landing.scalar_subquery(), Bead.rig_id == request.rig_id, Bead.purpose.is_(None)
    )
    return session.scalar(query)


def _is_target(request: MergeRequest) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    return ConvoyBranch.rig_id == request.rig_id, ConvoyBranch.branch == request.target
