"""Why a bead is where it is: what the rules say of it at this moment, in words (G8)."""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from gastown.models import Bead, DecisionRow, Dispatch, Event, MergeRequest, Rig
from gastown.reconcile import decide
from gastown.reconcile.decision import Decision
from gastown.reconcile.rules import RULES
from gastown.reconcile.town import GATES, Hold, hold_of, unfit
from gastown.reconcile.views import BeadView, TownView
from gastown.states import LIVE, BeadStatus, Resolution, Verdict
from gastown.store.advice import advise
from gastown.store.claims import clock
from gastown.store.listing import BeadRow, waits_for_a_slot
from gastown.store.load import load_town
from gastown.store.policies import load_policies
from gastown.store.views import LoadedBead, load_views

_MEANINGS = {each.__name__: " ".join((inspect.getdoc(each) or "").split()) for each in (*RULES, *GATES)}
HISTORY = 20
UNDECIDED = "undecided"  # instead of a verdict


@dataclass(frozen=True, kw_only=True)
class PastDecision:
    at: datetime
    verdict: str
    reason: str
    rule: str
    next_look: datetime | None


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """The gate that holds a bead, its value, and what would open it."""

    id: str
    title: str
    rig: str
    status: str
    resolution: str | None
    verdict: str
    reason: str  # the gate's value
    gate: str  # the rule that decides, or the town's gate that is shut, by its name
    meaning: str  # the sentence of that rule
    opens: str
    command: str
    next_look: datetime | None  # None: when something wakes it
    looked_at: datetime | None
    down: bool = False  # nothing of Gastown runs, so nothing happens
    says: str | None = None  # what the agent of the live attempt says it is doing
    asks: str | None = None  # what an agent asked a person last, also once the bead is over
    history: tuple[PastDecision, ...] = ()


def explain(session: Session, town_id: int, bead_ids: Sequence[str]) -> list[Explanation]:
    """Decide about these beads as a tick would at this moment, and change nothing. In the order given."""
    presets = {row.id: row.agent for row in session.execute(select(Bead.id, Bead.agent).where(Bead.id.in_(bead_ids)))}
    now, policies = clock(session), load_policies(session, town_id)  # after the beads, so that it has their rigs
    town = load_town(session, town_id, now, policies)
    rigs = {rig.id: rig for rig in session.scalars(select(Rig).where(Rig.town_id == town_id))}
    found = {}
    for bead, view in load_views(session, list(presets), now, policies):
        rig = rigs[bead.rig_id]
        try:
            decision = decide(view, now, policies.rigs[bead.rig_id])
        except Exception as error:  # noqa: BLE001 (as in a tick, whatever it is concerns this bead alone)
            found[bead.id] = _undecided(bead, rig, f"a rule raised {type(error).__name__}: {error}")
            continue
        hold = None
        if decision.verdict is Verdict.READY:
            hold = hold_of(town, bead.rig_id, presets[bead.id], now, policies.town)
        found[bead.id] = _explain_one(session, bead, view, decision, hold, rig, town, now)
    for unread in session.scalars(select(Bead).where(Bead.id.in_(presets.keys() - found.keys()))):
        found[unread.id] = _undecided(unread, rigs[unread.rig_id], "one of its rows cannot be read by this version")
    return [found[each] for each in bead_ids if each in found]


def _undecided(bead: LoadedBead | Bead, rig: Rig, reason: str) -> Explanation:
    """Of a bead about which a tick can say nothing either: it is put off, and a person is asked (S37)."""
    return Explanation(
        id=bead.id,
        title=bead.title,
        rig=rig.name,
        status=bead.status,
        resolution=bead.resolution,
        verdict=UNDECIDED,
        reason=reason,
        gate="none",
        meaning="No rule can speak of it.",
        opens="a fault of Gastown's own, please report it; it is looked at again by itself, ever more rarely",
        command=f"gastown events --bead {bead.id}",
        next_look=None,
        looked_at=bead.looked_at,
    )


def _explain_one(
    session: Session,
    bead: LoadedBead,
    view: BeadView,
    decision: Decision,
    hold: Hold | None,
    rig: Rig,
    town: TownView,
    now: datetime,
) -> Explanation:
    verdict, reason, next_look, gate = decision.verdict, decision.reason, decision.next_look, decision.rule
    if hold is not None:
        verdict, reason, next_look, gate = hold.verdict, hold.reason, hold.opens_at, hold.gate or gate
    elif view.terminal:
        verdict, reason, next_look = Verdict.TERMINAL, _ending(session, bead), None
    in_the_way = [each for each in view.blockers if not each.released]
    blocker = max(in_the_way, key=lambda each: each.failed, default=None)
    rework = None if view.merge is None else view.merge.rework
    advice = advise(
        bead.id,
        bead.status,
        verdict,
        resolution=bead.resolution,
        held_code=None if view.merge is None else view.merge.held_code,
        blocker="" if blocker is None else blocker.id,
        repository=rig.repository,
        rig=rig.name,
        convoy=view.staged or ("" if view.landing is None else view.landing.convoy),
        mending=rework.id if rework is not None and rework.status is BeadStatus.FAILED else "",
        drained=town.closed[0].name if town.closed else "",
        no_environment=town.rigs[rig.id].no_environment,
        unfit=gate == unfit.__name__,
        of_town=town.paused_at is not None if verdict is Verdict.PAUSED else town.wrong is not None,
    )
    return Explanation(
        id=bead.id,
        title=bead.title,
        rig=rig.name,
        status=bead.status,
        resolution=bead.resolution,
        verdict=verdict,
        reason=reason,
        gate=gate,
        meaning=_MEANINGS[gate],
        opens=advice.opens,
        command=advice.command,
        next_look=None if next_look is None or view.terminal else max(next_look, now),
        looked_at=bead.looked_at,
        down=town.down and not view.terminal,
    )


def _ending(session: Session, bead: LoadedBead) -> str:
    if bead.status == BeadStatus.FAILED:
        return f"{bead.failure_code}: {bead.failure_message or 'no message'}"
    if bead.resolution == Resolution.MERGED:
        query = select(MergeRequest.target, MergeRequest.merged_sha).where(MergeRequest.bead_id == bead.id)
        merged = session.execute(query.where(MergeRequest.merged_sha.is_not(None)).limit(1)).first()
        if merged is not None:
            return f"merged into {merged.target} as {merged.merged_sha[:12]}"
    return str(bead.resolution or bead.status).replace("_", " ")


def history_of(session: Session, bead_id: str, limit: int = HISTORY) -> tuple[PastDecision, ...]:
    """What was decided about it, each time that changed; the newest last."""
    query = select(DecisionRow).where(DecisionRow.bead_id == bead_id).order_by(DecisionRow.id.desc()).limit(limit)
    rows = [
        PastDecision(at=row.at, verdict=row.verdict, reason=row.reason, rule=row.rule, next_look=row.next_look)
        for row in session.scalars(query)
    ]
    return tuple(rows[::-1])


def voice_of(session: Session, bead_id: str) -> tuple[str | None, str | None]:
    """(what its agent says it is doing, what an agent last asked a person), as `Explanation` has them."""
    live = select(Dispatch.status_text).where(Dispatch.bead_id == bead_id, Dispatch.status.in_(LIVE))
    asked = select(Event.message).where(Event.bead_id == bead_id)
    asked = asked.where(Event.kind == "escalation", Event.dispatch_id.is_not(None))
    return session.scalar(live), session.scalar(asked.order_by(Event.id.desc()).limit(1))


def with_live_holds(session: Session, town_id: int, rows: Sequence[BeadRow]) -> list[BeadRow]:
    """Rows whose recorded verdict is only `ready` get what holds them at this moment."""
    if not any(waits_for_a_slot(row) for row in rows):
        return list(rows)
    now, policies = clock(session), load_policies(session, town_id)
    town = load_town(session, town_id, now, policies)
    ids = {rig.name: rig_id for rig_id, rig in town.rigs.items()}

    def explained(row: BeadRow) -> BeadRow:
        if not waits_for_a_slot(row):
            return row
        hold = hold_of(town, ids[row.rig], row.preset, now, policies.town)
        return replace(row, verdict=hold.verdict, reason=hold.reason)

    return [explained(row) for row in rows]
