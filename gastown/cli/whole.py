"""gastown why without a bead: what holds the town back, and with --all each bead."""

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy.orm import Session

from gastown.cli import screen
from gastown.cli.ask import ask_quietly
from gastown.cli.screen import Cell
from gastown.cli.why import DOWN, state_now
from gastown.cli.words import at, count, in_short, one_line
from gastown.commands import towns
from gastown.store import explain, holdups, listing
from gastown.store.explain import Explanation
from gastown.store.holdups import HoldUp, Summary
from gastown.store.listing import BeadRow

SHOWN = 100  # beads, unless asked for more
EVERY = 1_000_000  # in JSON nothing is left out unasked
AT_ONCE = 500  # beads whose views are loaded together


class Told(NamedTuple):
    summary: Summary
    beads: list[tuple[Explanation, BeadRow]]


def explain_town(rig: str | None, *, beads: bool, limit: int | None, as_json: bool) -> None:
    most = (limit or (EVERY if as_json else SHOWN)) if beads else 0
    told = ask_quietly(lambda session, town_id: _read(session, town_id, rig, most))
    rest = max(0, told.summary.unclosed - len(told.beads))
    if as_json:
        found = {"beads": [each for each, _ in told.beads], "left_out": rest} if beads else {}
        return screen.print_json(vars(told.summary) | found)
    _print_summary(told.summary)
    if not beads:
        return screen.note("gastown why --all lists each bead, gastown why ID explains one") if rest else None
    return _print_beads(told.beads, rest)


def _read(session: Session, town_id: int, rig: str | None, most: int) -> Told:
    if rig is not None:
        towns.get_rig(session, town_id, rig)
    summary = holdups.summarise(session, town_id, rig)
    ids = listing.unfinished_beads(session, town_id, rig, limit=most) if most else []
    found: list[tuple[Explanation, BeadRow]] = []
    for first in range(0, len(ids), AT_ONCE):
        some = ids[first : first + AT_ONCE]
        listed = {row.id: row for row in listing.beads_by_id(session, town_id, some)}
        found += [(each, listed[each.id]) for each in explain.explain(session, town_id, some) if each.id in listed]
    return Told(summary, found)


def _print_summary(summary: Summary) -> None:
    if summary.down:
        screen.say(DOWN)
    if not summary.holdups:
        return screen.say("nothing is open")
    for each in summary.holdups:
        _print_holdup(each)
    return None


def _print_holdup(each: HoldUp) -> None:
    words = each.verdict.replace("_", " ")
    where = f" on {one_line(each.rig)}" if each.rig else ""
    one_of_many = "" if each.of_town or each.beads == 1 else f"{each.example}: "
    if each.beads == 1 and not each.of_town:
        where = f": {each.example}"
    screen.say(f"{words}: {count(each.beads, 'bead')}{where}")
    screen.say(f"  reason  {one_of_many}{in_short(each.reason, 300)}")
    if each.verdict in holdups.AT_WORK:
        return
    until = f" (at {at(each.opens_at)})" if each.opens_at else ""
    screen.say(f"  opens   {each.opens}{until}")
    screen.say(f"  next    {each.command}")


def _print_beads(rows: list[tuple[Explanation, BeadRow]], rest: int) -> None:
    if not rows:
        return
    screen.say()
    roomy = not screen.is_narrow()
    heads = ("id", "state", "reason", *(["title"] if roomy else []))
    cells: list[Sequence[Cell]] = [
        (
            row.id,
            screen.state(state_now(row, listed)),
            in_short(row.reason, 200),
            *([one_line(row.title, 50)] if roomy else []),
        )
        for row, listed in rows
    ]
    screen.console().print(screen.table(heads, cells, flexible=("title",), wrapped=("reason",)))
    if rest:
        screen.say(f"and {count(rest, 'bead')} more; --limit shows them")
    screen.say("gastown why ID says what opens each")
