"""Towns, rigs and nodes: the set-up."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import bindparam, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from gastown import gates
from gastown.commands import membership
from gastown.commands.membership import Place
from gastown.containers import layered
from gastown.db import gastown_now
from gastown.errors import NotFound, Refused, UsageError
from gastown.gates import Gate, MergeMethod
from gastown.models import Bead, Node, Rig, Town
from gastown.reconcile.fitting import check_labels
from gastown.states import Strategy
from gastown.store import reviews
from gastown.store.moves import record, wake

RIG_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
AUTHOR = re.compile(r"([^<>\s](?:[^<>]*[^<>\s])?) <([^<>\s]+@[^<>\s]+)>")
_CRUD = ".,:;\"'\\ "  # what git takes away from both ends of a name


def ensure_town(session: Session, name: str) -> int:
    """The town's id; it is made on first use."""
    session.execute(insert(Town).values(name=name).on_conflict_do_nothing())
    return session.scalars(select(Town.id).where(Town.name == name)).one()


def beat_node(session: Session, name: str, runtime: str, capacity: int) -> int:
    """A worker of this node is alive, and takes starts: a drain of before is over. It does not say which machine."""
    node_id = membership.beat(session, Place(name=name, runtime=runtime, capacity=capacity)).node_id
    assert node_id is not None
    return node_id


def drain_node(session: Session, name: str) -> None:
    """Its attempts are about to be asked to stop: that is no failure of theirs, and nothing new is started there."""
    statement = update(Node).where(Node.name == name).values(draining_at=gastown_now())
    session.execute(statement.execution_options(synchronize_session=False))


@dataclass(frozen=True, kw_only=True)
class NewRig:
    name: str
    repository: str
    branch: str
    agent: str | None = None
    setup: str = ""
    gates: Sequence[Gate | str] = ()  # a bare command is a gate with a name made from it
    environment: dict[str, str] = field(default_factory=dict, repr=False)
    strategy: str = Strategy.DIRECT
    merge_method: str = MergeMethod.MERGE
    author: str | None = None  # of the commits that merges make, as "Name <mail>"; None: who did the work
    review_agent: str | None = None  # the preset that has to approve each result; None: none
    rework_agent: str | None = None  # the preset that mends what holds a merge; None: that of the work
    node_labels: list[str] = field(default_factory=list)  # a node has to have all of them
    container: dict[str, Any] = field(default_factory=dict)  # of its attempts and gates; see gastown.containers


def add_rig(session: Session, town_id: int, new: NewRig, *, actor: str = "user") -> Rig:
    """Raises UsageError for a bad name, author or container, Refused when the town has a rig of that name."""
    check_author(new.author)
    layered(new.container)
    if not RIG_NAME.fullmatch(new.name):
        raise UsageError(
            f"{new.name!r} cannot be a rig's name", hint="letters, digits, dot, dash, underscore: --name NAME"
        )
    values = {**vars(new), "town_id": town_id, "gates": gates.stored(gates.in_order(new.gates))}
    values["node_labels"] = sound_labels(new.node_labels)
    statement = insert(Rig).values(**values).on_conflict_do_nothing(index_elements=["town_id", "name"])
    rig_id = session.scalar(statement.returning(Rig.id))
    if rig_id is None:
        raise Refused(f"there is a rig {new.name} already", hint=f"gastown rig show {new.name}, or --name OTHER")
    record(session, town_id, "rig_added", f"rig {new.name}: {new.repository} ({new.branch})", actor=actor)
    return session.get_one(Rig, rig_id)


def check_author(author: str | None) -> None:
    """Raises UsageError for what git would not take, or would change, as the author of a commit."""
    if author is None:
        return
    found = AUTHOR.fullmatch(author)
    if (
        not found
        or not author.isprintable()
        or len(author) > 200
        or any(not part.strip(_CRUD) for part in found.groups())
    ):
        what = f"{author[:200]!r} cannot be the author of a commit"
        raise UsageError(what, hint="a name and a mail address: --author 'Ada Lovelace <ada@example.com>'")


def sound_labels(labels: Sequence[str]) -> list[str]:
    """Each once. Raises UsageError."""
    try:
        return check_labels(list(labels))
    except ValueError as error:
        raise UsageError(str(error), hint="--node-label gpu") from error


_RIG = select(Rig).where(
    Rig.town_id == bindparam("town_id"), Rig.name == bindparam("name")
)  # built once: each sling asks


def get_rig(session: Session, town_id: int, name: str) -> Rig:
    rig = session.scalar(_RIG, {"town_id": town_id, "name": name})
    if rig is None:
        names = ", ".join(session.scalars(select(Rig.name).where(Rig.town_id == town_id).order_by(Rig.name)))
        raise NotFound("rig", name, hint=f"known rigs: {names}" if names else "gastown rig add PATH --gate CMD")
    return rig


def set_paused(session: Session, town_id: int, paused: bool, *, rig: str | None = None, actor: str = "user") -> None:
    """Pause or resume the town, or one rig: no new attempts; what runs goes on."""
    subject = session.get_one(Town, town_id) if rig is None else get_rig(session, town_id, rig)
    subject.paused_at = (
        session.scalar(select(func.coalesce(subject.__class__.paused_at, gastown_now()))) if paused else None
    )
    record(session, town_id, "paused" if paused else "resumed", f"{rig or 'the town'}", actor=actor)
    if not paused:
        ready = select(Bead.id).where(Bead.town_id == town_id, Bead.ready_at.is_not(None)).limit(1)
        wake(session, *session.scalars(ready))


def update_rig(session: Session, rig: Rig, *, actor: str = "user", **values: object) -> list[str]:
    """Change what a rig is from now on; the names of what changed. Raises UsageError for a bad author or container."""
    allowed = {"agent", "setup", "gates", "environment", "strategy", "merge_method", "author"}
    allowed |= {"review_agent", "rework_agent", "node_labels", "container"}
    if values.keys() - allowed:
        raise ValueError(f"of a rig only {', '.join(sorted(allowed))} can be changed")
    if values.get("author") is not None:
        check_author(str(values["author"]))
    if "container" in values:
        container = values["container"]
        assert isinstance(container, Mapping)
        layered(container)
    if "node_labels" in values:
        labels = values["node_labels"]
        assert isinstance(labels, Sequence)
        values["node_labels"] = sound_labels(labels)
    if "gates" in values:
        given = values["gates"]
        assert isinstance(given, Sequence)
        values["gates"] = gates.stored(gates.in_order(given))
    changed = [name for name, value in values.items() if getattr(rig, name) != value]
    for name in changed:
        setattr(rig, name, values[name])
    if "review_agent" in changed:
        reviews.wake_waiting(session, rig.id)
    if changed:
        record(session, rig.town_id, "rig_changed", f"rig {rig.name}: {', '.join(changed)}", actor=actor)
    return changed
