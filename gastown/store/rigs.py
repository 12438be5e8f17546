"""Rigs, as people look at them."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import InstrumentedAttribute, Session

from gastown import gates
from gastown.models import Bead, Dispatch, MergeRequest, Rig
from gastown.states import LIVE, TERMINAL, MergeStatus
from gastown.store.members import words
from gastown.store.policies import load_policies


@dataclass(frozen=True, kw_only=True)
class RigRow:
    """A rig without its environment, which may be long and is nobody's business."""

    id: int
    name: str
    repository: str
    branch: str
    agent: str | None
    setup: str
    gates: list[dict[str, Any]]  # in order, with the names of their variables instead of an environment
    strategy: str
    merge_method: str
    author: str | None  # of the commits that merges make
    review_agent: str | None  # the preset that has to approve each result
    rework_agent: str | None  # the preset that mends what holds a merge; None: that of the work
    node_labels: list[str]  # a node has to have all of them
    container: dict[str, Any]  # what it says of the containers of its attempts and gates; of variables, the names
    paused_at: datetime | None
    created_at: datetime
    open_beads: int
    running: int  # live attempts
    merging: int  # merge requests that are not through
    variables: int  # in the environment that its agents get
    policy: Any  # the numbers that were set for it; an object, unless something else got into the row
    wrong: str | None  # why these make no sense, so that nothing is started


def _without_values(container: Any) -> dict[str, Any]:
    """Variables by their names: what people put into them may be a secret."""
    if not isinstance(container, dict):
        return {}
    given = container.get("environment")
    return {**container, "environment": sorted(given)} if isinstance(given, dict) else dict(container)


def list_rigs(session: Session, town_id: int, name: str | None = None) -> list[RigRow]:
    """All of them by name, or the one of this name."""
    query = select(Rig).where(Rig.town_id == town_id).order_by(Rig.name)
    rigs = session.scalars(query if name is None else query.where(Rig.name == name)).all()
    beads = _counts(session, Bead.rig_id, Bead.town_id == town_id, Bead.status.not_in(TERMINAL))
    running = _counts(session, Dispatch.rig_id, Dispatch.town_id == town_id, Dispatch.status.in_(LIVE))
    ended = (MergeStatus.CLOSED, MergeStatus.FAILED)
    unfinished = MergeRequest.status.not_in(ended)
    merging = _counts(session, MergeRequest.rig_id, MergeRequest.town_id == town_id, unfinished)
    wrong = load_policies(session, town_id).wrong
    return [
        RigRow(
            id=rig.id,
            name=rig.name,
            repository=rig.repository,
            branch=rig.branch,
            agent=rig.agent,
            setup=rig.setup,
            gates=[gates.shown(gate) for gate in gates.of_rig(rig.gates)],
            strategy=rig.strategy,
            merge_method=rig.merge_method,
            author=rig.author,
            review_agent=rig.review_agent,
            rework_agent=rig.rework_agent,
            node_labels=list(words(rig.node_labels)),
            container=_without_values(rig.container),
            paused_at=rig.paused_at,
            created_at=rig.created_at,
            open_beads=beads.get(rig.id, 0),
            running=running.get(rig.id, 0),
            merging=merging.get(rig.id, 0),
            variables=len(rig.environment) if isinstance(rig.environment, dict) else 0,
            policy=rig.policy,
            wrong=wrong.get(rig.id),
        )
        for rig in rigs
    ]


def _counts(session: Session, rig_id: InstrumentedAttribute[int], *which: ColumnElement[bool]) -> dict[int, int]:
    query = select(rig_id, func.count()).where(*which).group_by(rig_id)
    return {row[0]: row[1] for row in session.execute(query)}


def policies_of(session: Session, town_id: int) -> list[tuple[Rig, Any]]:
    """Each rig for which numbers were set, with these."""
    rigs = session.scalars(select(Rig).where(Rig.town_id == town_id).order_by(Rig.name))
    return [(rig, rig.policy) for rig in rigs if rig.policy != {}]


def rig_of(session: Session, town_id: int, repository: str, branch: str) -> str | None:
    """The name of the rig that merges into this branch of this repository, if there is one."""
    wanted = canonical(repository)
    rigs = session.execute(select(Rig.name, Rig.repository).where(Rig.town_id == town_id, Rig.branch == branch))
    return next((name for name, known in rigs if canonical(known) == wanted), None)


def canonical(repository: str) -> str:
    """The same for the usual ways to write one repository."""
    return repository.rstrip("/").removesuffix(".git").rstrip("/")
