"""What a person is asked to look at: once for each cause, until it is settled.

Causes begin with what they are about: `failed:BEAD`, `merge_failed:BEAD`, `rework:BEAD` (its rework left nothing),
`auth:BEAD`, `budget:BEAD`, `stalled:BEAD`, `rule:BEAD` (a rule raised), `blocker:BEAD` (the one that failed),
`approval:BEAD` (a person has to merge its branch), `member:BEAD` (a landing whose convoy has a member that failed),
`home:BEAD:NODE` (work there that cannot be saved), `asked:DISPATCH:DIGEST` (an agent asks), `infra:CODE`, `breaker`,
`policy:town`, `policy:rig:ID`, `invariant:NAME`, `tick` (whole ticks fail).
"""

import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, and_, func, or_, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from gastown.db import gastown_now
from gastown.errors import NotFound
from gastown.models import Bead, Escalation, one_of
from gastown.states import LIVE, RELEASING, TERMINAL
from gastown.store.moves import record

FAILED, ASKED, BLOCKER, RULE, POLICY = "failed:", "asked:", "blocker:", "rule:", "policy:"
MERGE_FAILED, REWORK = "merge_failed:", "rework:"
APPROVAL = "approval:"
HOME = "home:"  # of a bead, on a node
MEMBER = "member:"  # of a landing bead: it does not go on, since a member of its convoy failed
TICK = "tick"
HELD = ("auth:", "budget:")  # of a bead that was held because of it

_HAS_BEAD = "SELECT 1 FROM beads b WHERE b.id = q.bead_id AND "
_RELEASED = one_of("b.resolution", RELEASING)
# Bead `b` was made for a merge that goes on without it, or is over.
_AWAITED_BY_NONE = """EXISTS (SELECT 1 FROM merge_requests m WHERE m.id = b.mr_id
        AND (m.status IN ('closed', 'failed')
          OR b.id IS DISTINCT FROM m.rework_id AND b.id IS DISTINCT FROM m.review_id))"""
# When a cause is gone: `q` is the open escalation. A broken invariant is settled by hand, since it is to be reported.
_GONE = {
    FAILED: f"EXISTS ({_HAS_BEAD} (b.status <> 'failed' OR {_AWAITED_BY_NONE}))",
    MERGE_FAILED: f"EXISTS ({_HAS_BEAD} b.status <> 'failed')",
    REWORK: f"NOT EXISTS ({_HAS_BEAD} b.status = 'in_review' AND b.verdict = 'merge_held')",
    MEMBER: f"NOT EXISTS ({_HAS_BEAD} b.verdict = 'member_failed')",
    APPROVAL: """NOT EXISTS (SELECT 1 FROM merge_requests m WHERE m.bead_id = q.bead_id
        AND m.status NOT IN ('closed', 'failed') AND m.published_sha = m.head_sha)""",
    ASKED: f"EXISTS ({_HAS_BEAD} (b.status = 'closed' OR b.status = 'failed' AND {_AWAITED_BY_NONE}))",
    RULE: f"EXISTS ({_HAS_BEAD} (b.status = 'closed' OR b.looked_at > q.raised_at))",
    **dict.fromkeys(HELD, f"EXISTS ({_HAS_BEAD} b.held_at IS NULL)"),
    "stalled:": f"""NOT EXISTS (SELECT 1 FROM dispatches d
        WHERE d.bead_id = q.bead_id AND {one_of("d.status", LIVE)} AND d.stall_tier > 1)""",
    BLOCKER: f"""NOT EXISTS (SELECT 1 FROM beads b JOIN bead_dependencies e ON e.blocker_id = b.id
        JOIN beads w ON w.id = e.bead_id WHERE b.id = substr(q.cause, {len("blocker:") + 1})
          AND {one_of("b.status", TERMINAL)} AND ({_RELEASED}) IS NOT TRUE AND NOT ({one_of("w.status", TERMINAL)}))""",
    "infra:": "EXISTS (SELECT 1 FROM dispatches d WHERE d.town_id = q.town_id AND d.started_at > q.raised_at)",
    TICK: "(SELECT d.at FROM decisions d WHERE d.town_id = q.town_id ORDER BY d.id DESC LIMIT 1) > q.raised_at",
    "breaker": "EXISTS (SELECT 1 FROM towns t WHERE t.id = q.town_id AND t.breaker_opened_at IS NULL)",
}


def raise_once(
    session: Session,
    town_id: int,
    cause: str,
    message: str,
    *,
    bead_id: str | None = None,
    actor: str = "reconciler",
    dispatch_id: UUID | None = None,
    **data: Any,
) -> bool:
    """Ask a person, unless this cause is open already. False: it is."""
    values = {"town_id": town_id, "bead_id": bead_id, "cause": cause, "message": message}
    statement = insert(Escalation).values(**values).on_conflict_do_nothing().returning(Escalation.id)
    if session.scalar(statement) is None:
        return False
    more = {"cause": cause} | data
    record(session, town_id, "escalation", message, actor=actor, bead_id=bead_id, dispatch_id=dispatch_id, **more)
    return True


def raise_of_home(session: Session, bead_id: str, node: str, message: str) -> bool:
    """Once and for all: whoever settled it has seen it. False: somebody was told."""
    cause = f"{HOME}{bead_id}:{node}"
    bead = session.get(Bead, bead_id)
    if bead is None or session.scalar(select(Escalation.id).where(Escalation.cause == cause).limit(1)) is not None:
        return False
    return raise_once(session, bead.town_id, cause, message, bead_id=bead_id, actor="housekeeping")


def asked_cause(dispatch_id: UUID, message: str) -> str:
    """An agent asks for a person: the same words from the same attempt are one request."""
    return f"{ASKED}{dispatch_id}:{hashlib.sha256(message.encode()).hexdigest()[:16]}"


def settle(session: Session, town_id: int, *causes: str) -> None:
    """These causes are gone: the next time is a new escalation."""
    _settle(session, Escalation.town_id == town_id, Escalation.cause.in_(causes))


def settle_bead(session: Session, bead: Bead) -> None:
    """A bead goes on, or has ended well: nothing is asked about it any more, nor for those that waited for it."""
    about = and_(Escalation.bead_id == bead.id, Escalation.cause.not_like(f"{BLOCKER}%"))
    _settle(session, Escalation.town_id == bead.town_id, or_(about, Escalation.cause == BLOCKER + bead.id))


def settle_gone(session: Session) -> int:
    """What is asked although its cause is gone; how many. For those that no single move ends, and as a net."""
    settled = 0
    for prefix, gone in _GONE.items():
        statement = text(f"""
            UPDATE escalations q SET settled_at = gastown_now()
            WHERE q.settled_at IS NULL AND q.cause LIKE :prefix AND {gone} RETURNING q.id""")
        settled += len(session.execute(statement, {"prefix": f"{prefix}%"}).all())
    return settled


def _settle(session: Session, *which: ColumnElement[bool]) -> None:
    statement = update(Escalation).where(*which, Escalation.settled_at.is_(None)).values(settled_at=gastown_now())
    session.execute(statement.execution_options(synchronize_session=False))


def settle_by_hand(session: Session, town_id: int, escalation_id: int, *, actor: str = "user") -> str:
    """A person has seen it; what it said. Raises NotFound for one that is not there, or settled already."""
    found = session.get(Escalation, escalation_id)
    if found is None or found.town_id != town_id or found.settled_at is not None:
        raise NotFound("open request", escalation_id, hint="gastown inbox")
    _settle(session, Escalation.id == escalation_id)
    record(session, town_id, "settled", found.message, actor=actor, bead_id=found.bead_id, cause=found.cause)
    return found.message


@dataclass(frozen=True, kw_only=True)
class InboxRow:
    """One request to a person, and the command to type next."""

    id: int
    cause: str
    bead_id: str | None
    message: str
    raised_at: datetime
    settled_at: datetime | None
    command: str


def list_inbox(session: Session, town_id: int, *, everything: bool = False, limit: int = 100) -> list[InboxRow]:
    """The open ones, newest first; `everything`: settled ones as well."""
    query = select(Escalation).where(Escalation.town_id == town_id).order_by(Escalation.id.desc()).limit(limit)
    if not everything:
        query = query.where(Escalation.settled_at.is_(None))
    names = ("id", "cause", "bead_id", "message", "raised_at", "settled_at")
    return [
        InboxRow(**{name: getattr(row, name) for name in names}, command=command_for(row.cause, row.bead_id))
        for row in session.scalars(query)
    ]


def count_open(session: Session, town_id: int) -> int:
    query = select(func.count()).where(Escalation.town_id == town_id, Escalation.settled_at.is_(None))
    return session.scalars(query).one()


def settle_others(session: Session, town_id: int, prefix: str, still: Collection[str]) -> None:
    """Of the causes that begin so, only these are still there."""
    begins = Escalation.cause.startswith(prefix, autoescape=True)
    _settle(session, Escalation.town_id == town_id, begins, Escalation.cause.not_in(still))


def command_for(cause: str, bead_id: str | None) -> str:
    """What to type next. Of a cause that this version does not know, what is known of its bead or of the town."""
    kind, _, subject = cause.partition(":")
    if kind == "blocker":
        return f"gastown why {subject}"
    if kind == TICK:
        return "gastown status, and the newest lines of log/control.log in GASTOWN_HOME"
    if bead_id is not None:
        return _COMMANDS.get(kind, "gastown why {}").format(bead_id)
    return "gastown config show" if kind == "policy" else "gastown why --all"


_COMMANDS = {
    "failed": "gastown logs {}",
    "merge_failed": "gastown bead show {}",
    "rework": "gastown bead show {}",
    "stalled": "gastown logs {}",
    "asked": "gastown bead show {}",
    "auth": "gastown bead release {}",
    "budget": "gastown bead release {}",
}
