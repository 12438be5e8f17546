"""How the work of the whole town stands, in one line, and what is wrong with what carries it."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy.orm import Session

from gastown.cli.ask import ask
from gastown.cli.board import is_settled
from gastown.cli.words import at, in_short, one_line
from gastown.reconcile.policy import Policy
from gastown.reconcile.town import node_rests_until
from gastown.reconcile.views import TownView
from gastown.states import BeadStatus, Verdict
from gastown.store import claims, escalations, explain, listing, load
from gastown.store.policies import load_policies

COUNTED = 2000  # beads; `status` is typed often, and should answer at once in a town with more
MISSED_FOR = timedelta(days=1)  # a node that is silent for longer, with nothing left on it, is not missed


@dataclass(frozen=True, kw_only=True)
class Townwide:
    paused: str  # since when, and what; empty when nothing is
    attempts: int  # live ones
    max_running: int  # attempts at a time
    running: int  # beads with a live attempt
    ready: int
    waiting: int
    need_you: int
    asked: int  # requests in the inbox
    more: bool  # there are beads that were not counted
    troubles: tuple[str, ...]  # parts that are silent, breakers that are open

    def words(self) -> str:
        need = "needs you" if self.need_you == 1 else "need you"
        attempts = f"{self.attempts} of {self.max_running} attempts run"
        counts = f"{attempts}, {self.ready} ready, {self.waiting} waiting, {self.need_you} {need}"
        newest = f" (of the newest {COUNTED})" if self.more else ""
        inbox = f"; {self.asked} in the inbox" if self.asked else ""
        return f"{self.paused or 'not paused'}; {counts}{newest}{inbox}"

    @property
    def next_command(self) -> str:
        """What a person should look at; empty when there is nothing."""
        return "gastown inbox" if self.asked else "gastown why --all" if self.need_you else ""


def read() -> Townwide:
    """Raises DatabaseUnavailable."""
    return ask(_read)


def _read(session: Session, town_id: int) -> Townwide:
    now, policies = claims.clock(session), load_policies(session, town_id)
    town = load.load_town(session, town_id, now, policies)
    rows = listing.list_beads(session, town_id, limit=COUNTED + 1)
    more, rows = len(rows) > COUNTED, explain.with_live_holds(session, town_id, rows[:COUNTED])
    needing = [row for row in rows if is_settled(row)]
    rest = [row for row in rows if not is_settled(row)]
    running = [row for row in rest if row.live]
    ready = [row for row in rest if not row.live and row.verdict == Verdict.READY and row.status == BeadStatus.OPEN]
    return Townwide(
        paused=_paused(town),
        attempts=town.used,
        max_running=policies.town.max_running,
        running=len(running),
        ready=len(ready),
        waiting=len(rest) - len(running) - len(ready),
        need_you=len(needing),
        asked=escalations.count_open(session, town_id),
        more=more,
        troubles=tuple(_troubles(town, now, policies.town)),
    )


def _troubles(town: TownView, now: datetime, policy: Policy) -> Iterator[str]:
    if town.api_silent:
        yield "the API is silent: attempts can report nothing, and none is taken for dead"
    if town.breaker_opened_at is not None:
        yield f"the breaker is open since {at(town.breaker_opened_at)}: {in_short(town.breaker_reason, 200)}"
    for node in town.nodes:
        name, until = one_line(node.name), node_rests_until(node, policy)
        if not node.alive:
            if node.used or now - node.heartbeat_at < MISSED_FOR:
                yield f"node {name} is silent since {at(node.heartbeat_at)}, with {node.used} of its attempts live"
        elif node.closed_at is not None:
            yield f"node {name} is drained: gastown node drain {name} --undo"
        elif until is not None:
            yield f"node {name} rests, as its starts fail: {in_short(node.failure, 200)}"


def _paused(town: TownView) -> str:
    if town.paused_at is not None:
        return f"paused since {at(town.paused_at)}"
    rigs = [one_line(rig.name) for rig in town.rigs.values() if rig.paused_at is not None]
    return f"paused: rig {', '.join(sorted(rigs))}" if rigs else ""
