"""What must hold when nothing is under way: every bead is over or waits for a true reason, and its story replays."""

from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from gastown.models import Bead, BeadDependency, Convoy, DecisionRow, Escalation, MergeRequest, Town
from gastown.reconcile import decide
from gastown.reconcile.actions import Escalate
from gastown.reconcile.views import load
from gastown.states import RELEASING, TERMINAL, BeadStatus, ConvoyStatus, MergeStatus, Verdict
from gastown.store.claims import clock
from gastown.store.policies import load_policies, policy_of
from gastown.store.views import load_views

# a start goes on by itself, and is looked at on time: nothing is to be done because it came one step further
UNDER_WAY: set[str | None] = {Verdict.DISPATCH, Verdict.AWAITING_START, Verdict.AWAITING_AGENT}
# what only a person ends; anything else has to end by itself
FOR_PEOPLE = {Verdict.HELD, Verdict.BLOCKER_FAILED, Verdict.MERGE_HELD, Verdict.BLOCKED, Verdict.AWAITING_REWORK}
FOR_PEOPLE |= {Verdict.STAGED, Verdict.AWAITING_MEMBERS, Verdict.MEMBER_FAILED, Verdict.AWAITING_REVIEW}
# nobody tells these that things changed, so they look now and then
LOOKING = {Verdict.AWAITING_MEMBERS}


def replay_decisions(session: Session) -> list[str]:
    """Each decision in the log, made again from its stored view: those that differ."""
    found = []
    for row in session.scalars(select(DecisionRow).order_by(DecisionRow.id)).all():
        again = decide(load(row.view), row.at, policy_of(session, session.get_one(Bead, row.bead_id).rig_id))
        stored = (row.verdict, row.reason, row.rule, row.next_look)
        if (str(again.verdict), again.reason, again.rule, again.next_look) != stored:
            found.append(f"decision {row.id} of {row.bead_id}: {row.rule}: {row.reason!r}, and now {again.reason!r}")
    return found


def forgotten(session: Session) -> list[str]:
    """Beads that are not due, of which the rules would now say something else than they last said: nobody woke them."""
    found = []
    now = clock(session)
    later = or_(Bead.wake_at.is_(None), Bead.wake_at > now)
    for bead in session.scalars(select(Bead).where(later, Bead.status.not_in(TERMINAL)).order_by(Bead.id)).all():
        if bead.verdict is None and bead.wake_at is not None:
            continue  # its first decision raised, and waits out its delay
        numbers = load_policies(session, bead.town_id)
        [(_bead, view)] = load_views(session, [bead.id], now, numbers)
        decision = decide(view, now, policy_of(session, bead.rig_id))
        same = str(decision.verdict) == bead.verdict or {str(decision.verdict), bead.verdict} <= UNDER_WAY
        if bead.wake_at is None:
            repeatable = all(isinstance(action, Escalate) for action in decision.actions)  # asked once, however often
            same &= decision.reason == bead.verdict_reason and repeatable
        if not same:
            found.append(f"{bead.id} sleeps as {bead.verdict} ({bead.verdict_reason}), and is {decision.verdict}")
    return found


def misasked(session: Session) -> list[str]:
    """Open requests to people whose cause is gone, and beads that failed without one."""
    beads = {bead.id: bead for bead in session.scalars(select(Bead))}
    asked = list(session.scalars(select(Escalation).where(Escalation.settled_at.is_(None)).order_by(Escalation.id)))
    found = [f"asked for {each.cause}" for each in asked if not _is_there(session, each, beads)]
    causes = {each.cause for each in asked}
    failed = sorted(bead.id for bead in beads.values() if bead.status == BeadStatus.FAILED)
    unasked = [key for key in failed if causes.isdisjoint((f"failed:{key}", f"merge_failed:{key}"))]
    unasked = [key for key in unasked if _is_awaited(session, beads[key])]
    return found + [f"{key} failed, and nobody is asked" for key in unasked]


def _is_awaited(session: Session, bead: Bead) -> bool:
    """Unless it was made for a merge that is over, or goes on without it, or its convoy landed without it."""
    if bead.convoy_id is not None and bead.purpose is None:
        return session.get_one(Convoy, bead.convoy_id).status != ConvoyStatus.CLOSED
    request = None if bead.mr_id is None else session.get_one(MergeRequest, bead.mr_id)
    over = request is not None and request.status in (MergeStatus.CLOSED, MergeStatus.FAILED)
    return request is None or (not over and bead.id in (request.rework_id, request.review_id))


def _is_there(session: Session, asked: Escalation, beads: dict[str, Bead]) -> bool:
    """Whether what a person is asked to look at is still so, as far as rows can tell."""
    kind, _, subject = asked.cause.partition(":")
    match kind:
        case "failed" | "merge_failed":
            return beads[subject].status == BeadStatus.FAILED
        case "member":
            return beads[subject].verdict == Verdict.MEMBER_FAILED
        case "rework":
            return beads[subject].status == BeadStatus.IN_REVIEW and beads[subject].verdict == Verdict.MERGE_HELD
        case "auth" | "budget":
            return beads[subject].held_at is not None
        case "blocker":
            waiting = select(BeadDependency.bead_id).where(BeadDependency.blocker_id == subject)
            unfinished = any(beads[key].status not in TERMINAL for key in session.scalars(waiting))
            return unfinished and beads[subject].status in TERMINAL and beads[subject].resolution not in RELEASING
        case "breaker":
            return session.get_one(Town, asked.town_id).breaker_opened_at is not None
        case "stalled" | "invariant":
            return False  # nothing runs any more, and nothing may ever have been broken
        case _:
            return True


def restless(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """Beads that are neither over nor waiting for a person, with what they wait for."""
    return [
        f"{row['id']} is {row['status']}: {row['verdict']}"
        for row in rows
        if row["status"] not in TERMINAL
        and (row["verdict"] not in FOR_PEOPLE or (row["wake_at"] is not None and row["verdict"] not in LOOKING))
    ]
