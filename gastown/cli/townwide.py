"""How the work of the whole town stands, in one line."""

from dataclasses import dataclass

from sqlalchemy.orm import Session

from gastown.cli.ask import ask
from gastown.cli.board import is_settled
from gastown.cli.words import at, one_line
from gastown.reconcile.views import TownView
from gastown.states import BeadStatus, Verdict
from gastown.store import claims, escalations, explain, listing, load

COUNTED = 2000  # beads; `status` is typed often, and should answer at once in a town with more


@dataclass(frozen=True, kw_only=True)
class Townwide:
    paused: str  # since when, and what; empty when nothing is
    running: int
    ready: int
    waiting: int
    need_you: int
    asked: int  # requests in the inbox
    more: bool  # there are beads that were not counted

    def words(self) -> str:
        need = "needs you" if self.need_you == 1 else "need you"
        counts = f"{self.running} running, {self.ready} ready, {self.waiting} waiting, {self.need_you} {need}"
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
    rows = listing.list_beads(session, town_id, limit=COUNTED + 1)
    more, rows = len(rows) > COUNTED, explain.with_live_holds(session, town_id, rows[:COUNTED])
    needing = [row for row in rows if is_settled(row)]
    rest = [row for row in rows if not is_settled(row)]
    running = [row for row in rest if row.live]
    ready = [row for row in rest if not row.live and row.verdict == Verdict.READY and row.status == BeadStatus.OPEN]
    return Townwide(
        paused=_paused(load.load_town(session, town_id, claims.clock(session))),
        running=len(running),
        ready=len(ready),
        waiting=len(rest) - len(running) - len(ready),
        need_you=len(needing),
        asked=escalations.count_open(session, town_id),
        more=more,
    )


def _paused(town: TownView) -> str:
    if town.paused_at is not None:
        return f"paused since {at(town.paused_at)}"
    rigs = [one_line(rig.name) for rig in town.rigs.values() if rig.paused_at is not None]
    return f"paused: rig {', '.join(sorted(rigs))}" if rigs else ""
