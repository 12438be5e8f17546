"""What a worker says of itself: that it is of a node, still there, and gone. One name is one node, so a second machine
of that name is not let in while the first one lives."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from gastown.db import gastown_now
from gastown.models import Node
from gastown.reconcile.policy import Policy
from gastown.settings import get_settings
from gastown.store import members

FORMER = "{name}~{id}"  # a node whose name another machine has now; no setting can hold such a name


@dataclass(frozen=True, kw_only=True)
class Place:
    """The runtime of which a worker starts attempts, as it is there."""

    name: str
    runtime: str
    capacity: int
    identity: str | None = None  # of the engine, or of machine and home; None: nobody can tell
    version: str | None = None
    labels: Sequence[str] = ()
    images: Mapping[str, str] = field(default_factory=dict)  # by preset


@dataclass(frozen=True, kw_only=True)
class Standing:
    """What came of a beat."""

    node_id: int | None = None  # None: the worker is not of that node
    refused: str | None = None  # why. None without a node: no worker that takes starts has come yet


def beat(session: Session, place: Place, worker: str | None = None, *, starts: bool = True) -> Standing:
    """A worker is there. One that `starts` keeps the node alive, and a drain by its predecessors is over.

    The name of a node that is silent goes to whoever asks for it. Attempts there keep their own row of it: nobody who
    looks on another machine may find them absent.
    """
    node = _lock(session, place.name)
    if node is None and starts:
        session.execute(_row(place).on_conflict_do_nothing(index_elements=["name"]))
        node = _lock(session, place.name)
    if node is None:
        return Standing()
    now = session.scalars(select(gastown_now())).one()
    facts: dict[str, Any] = {"version": place.version, "starts": starts}
    if node.identity is not None and place.identity not in (None, node.identity):
        if node.heartbeat_at >= now - silence() or not starts:
            said = _taken(node, place)
            if worker is not None:
                node.workers = members.noted(node.workers, now, worker, facts | {"refused": said})
            return Standing(refused=said)
        node = _take_over(session, node, place)
    if worker is not None:
        node.workers = members.noted(node.workers, now, worker, facts)
    if starts:
        node.heartbeat_at, node.draining_at, node.removed_at = now, None, None
        node.runtime, node.capacity = place.runtime, place.capacity
        node.identity, node.version = place.identity or node.identity, place.version
        node.labels, node.images = list(place.labels), dict(place.images)
    session.flush()
    return Standing(node_id=node.id)


def refuse(session: Session, place: Place, worker: str, why: str) -> Standing:
    """A worker that can start nothing. Its node is made known if nobody knows it, as one that is silent: `gastown why`
    and `gastown node list` say why, while it asks."""
    node = _lock(session, place.name)
    if node is not None:
        node.removed_at = None
    else:
        silent = gastown_now() - silence() - timedelta(seconds=1)
        row = _row(replace(place, identity=None)).values(heartbeat_at=silent)
        session.execute(row.on_conflict_do_nothing(index_elements=["name"]))
    note_refused(session, place.name, worker, why)
    return Standing(refused=why)


def leave(session: Session, name: str, worker: str) -> bool:
    """A worker takes no starts any more. True: nobody else does, so nothing is placed there until one comes."""
    node = _lock(session, name)
    if node is None or worker not in {each.name for each in members.read(node.workers) if not each.refused}:
        return False
    now = session.scalars(select(gastown_now())).one()
    last = not members.others_that_start(node.workers, now - silence(), worker)
    node.workers = {each: facts for each, facts in node.workers.items() if each != worker}
    if last:
        node.draining_at = now
    return last


def note_refused(session: Session, name: str, worker: str, why: str) -> None:
    """A worker does not even start. If the node is known, those who look at it see why."""
    node = _lock(session, name)
    if node is not None:
        now = session.scalars(select(gastown_now())).one()
        node.workers = members.noted(node.workers, now, worker, {"refused": why})


def silence() -> timedelta:
    """After which a node counts as lost, and its name as free."""
    return timedelta(seconds=Policy.of(get_settings().policy).node_silence_s)


def is_silent(node: Node, now: datetime) -> bool:
    return node.heartbeat_at < now - silence()


def _taken(node: Node, place: Place) -> str:
    return (
        f"the name {node.name} is that of another live node ({node.identity}), and this one is {place.identity}; "
        "give each its own GASTOWN_NODE, or wait until that one is gone"
    )


def _take_over(session: Session, former: Node, place: Place) -> Node:
    """A row of its own for the new owner of the name: the one that it had before, if it had. A drain by hand stays."""
    names = Node.name.like(FORMER.format(name=_escaped(place.name), id="%"), escape="\\")
    query = select(Node).where(names, Node.identity == place.identity).order_by(Node.id.desc()).limit(1)
    own = session.scalar(query.with_for_update(key_share=True))
    former.name = FORMER.format(name=place.name, id=former.id)
    session.flush()
    if own is None:
        session.execute(_row(place))
        own = _lock(session, place.name)
        assert own is not None
    own.name, own.closed_at, own.workers = place.name, former.closed_at, {}
    return own


def _escaped(name: str) -> str:
    return name.replace("\\", "\\\\").replace("_", "\\_").replace("%", "\\%")


def _row(place: Place) -> Any:
    return insert(Node).values(name=place.name, runtime=place.runtime, capacity=place.capacity, identity=place.identity)


def _lock(session: Session, name: str) -> Node | None:
    query = select(Node).where(Node.name == name).execution_options(populate_existing=True)
    return session.scalar(query.with_for_update(key_share=True))
