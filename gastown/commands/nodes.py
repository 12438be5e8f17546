"""What people ask of a node: to take no more starts, to have its attempts wind down, to go on, and to be gone."""

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from gastown.commands import membership
from gastown.db import gastown_now
from gastown.errors import NotFound, Refused
from gastown.models import Dispatch, Node
from gastown.states import LIVE, DispatchStatus, StopCode
from gastown.store import attempts, endings
from gastown.store.endings import Ask
from gastown.store.moves import lock_beads, record, wake

ASKED = (DispatchStatus.STARTING, DispatchStatus.RUNNING)


def drain(session: Session, town_id: int, name: str, *, actor: str = "user") -> bool:
    """Nothing new is started on this node until that is undone; what runs there goes on. False: it was so already.

    Raises NotFound. A tick that starts something holds the node's row: that comes before this, or not at all.
    """
    node = _lock(session, name)
    if node.closed_at is not None:
        return False
    node.closed_at = session.scalar(select(gastown_now()))
    record(session, town_id, "node_drained", f"nothing more is started on {name}", actor=actor)
    return True


def reopen(session: Session, town_id: int, name: str, *, actor: str = "user") -> bool:
    """The node takes starts again. False: nobody drained it. Raises NotFound."""
    node = _lock(session, name)
    if node.closed_at is None:
        return False
    node.closed_at = None
    record(session, town_id, "node_reopened", f"{name} takes starts again", actor=actor)
    return True


def remove(session: Session, town_id: int, name: str, *, actor: str = "user") -> str:
    """Nobody is shown the node any more. A worker that beats under its name makes it one again. The node's runtime:
    what is left on its machine, only a worker there can clear away, or a person.

    Its row stays while attempts of before name it. Raises NotFound; Refused while it lives, or attempts on it do.
    """
    node = _lock(session, name)
    now = session.scalars(select(gastown_now())).one()
    if not membership.is_silent(node, now):
        hint = "stop its workers first; after that it takes 45 s to count as gone"
        raise Refused(f"{name} is alive: a worker of it beat at {node.heartbeat_at:%H:%M:%S} UTC", hint=hint)
    if live := count_live(session, name):
        hint = f"gastown node drain {name} --stop, or wait until their leases run out: gastown node show {name}"
        raise Refused(f"{live} attempts on {name} have not ended", hint=hint)
    runtime = node.runtime
    if session.scalar(select(Dispatch.id).where(Dispatch.node_id == node.id).limit(1)) is None:
        session.delete(node)
    else:
        node.removed_at = now
    record(session, town_id, "node_removed", f"{name} is no node any more", actor=actor)
    return runtime


def stop_attempts(session: Session, name: str, *, actor: str = "user") -> int:
    """What runs there, of any town, saves its work and ends: that costs no bead anything. How many. Raises NotFound.

    In a transaction of its own, after that of `drain`: ticks lock beads before nodes.
    """
    node = _get(session, name)
    live = select(Dispatch).where(Dispatch.node_id == node.id, Dispatch.status.in_(LIVE)).order_by(Dispatch.bead_id)
    beads = lock_beads(session, set(session.scalars(live.with_only_columns(Dispatch.bead_id))))
    rows = [
        row for row in session.scalars(live.execution_options(populate_existing=True)).all() if row.bead_id in beads
    ]
    reason = f"{name} is drained by {actor}"
    asks = [Ask(dispatch_id=row.id, code=StopCode.DRAINED, reason=reason) for row in rows if row.status in ASKED]
    if asks:
        endings.ask_stops(session, asks, actor=actor, sources=ASKED)
    for row in rows:
        if row.status == DispatchStatus.QUEUED:  # nobody has begun with it, and nobody will
            attempts.stop_live(session, beads[row.bead_id], StopCode.DRAINED, reason)
    wake(session, *sorted(beads))
    return len(rows)


def count_live(session: Session, name: str) -> int:
    """The attempts that are there, of all towns."""
    live = select(func.count(Dispatch.id)).join(Node, Node.id == Dispatch.node_id)
    return session.scalars(live.where(Node.name == name, Dispatch.status.in_(LIVE))).one()


def _lock(session: Session, name: str) -> Node:
    _get(session, name)
    query = select(Node).where(Node.name == name).execution_options(populate_existing=True)
    return session.scalars(query.with_for_update(key_share=True)).one()


def _get(session: Session, name: str) -> Node:
    node = session.scalar(select(Node).where(Node.name == name, Node.removed_at.is_(None)))
    if node is None:
        raise NotFound("node", name, hint="gastown node list")
    return node
