"""gastown why, events: what holds a bead, and what has happened."""

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from gastown.cli.options import AsJson, Limit, RigName

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from gastown.store.explain import Explanation
    from gastown.store.listing import EventRow

app = typer.Typer()

FOLLOW_S = 0.5  # between two looks
OVERLAP = 200  # events are numbered when written and seen when committed: a lower number may come later
DOWN = "nothing happens: the stack is not up\nnext: gastown up"

MaybeBead = Annotated[str | None, typer.Argument(metavar="[BEAD]", help="The id of a bead.")]
All = Annotated[bool, typer.Option("--all", help="Every bead that is not closed.")]
Follow = Annotated[bool, typer.Option("--follow", "-f", help="Go on with what comes.")]
OfBead = Annotated[str | None, typer.Option("--bead", metavar="BEAD", help="Of this bead alone.")]


@app.command()
def why(bead: MaybeBead = None, everything: All = False, rig: RigName = None, as_json: AsJson = False) -> None:
    """Name the gate that holds a bead, its value, and what opens it."""
    from gastown.cli import screen
    from gastown.errors import UsageError

    if (bead is None) is not everything:
        raise UsageError("why needs one bead, or --all", hint="gastown bead list")
    if bead is None:
        rows = _explain_all(rig)
        return screen.print_json(rows) if as_json else _print_all(rows)
    row = _explain_one(bead)
    return screen.print_json(row) if as_json else _print_one(row)


def _explain_one(bead_id: str) -> "Explanation":
    from gastown.cli.ask import ask
    from gastown.store import explain
    from gastown.store.beads import get_bead

    def read(session: "Session", town_id: int) -> "Explanation":
        get_bead(session, bead_id, town_id)
        found = explain.explain(session, town_id, [bead_id])[0]
        says, asks = explain.voice_of(session, bead_id)
        return replace(found, says=says, asks=asks, history=explain.history_of(session, bead_id))

    return ask(read)


def _explain_all(rig: str | None) -> "list[Explanation]":
    from gastown.cli.ask import ask
    from gastown.commands import towns
    from gastown.store import explain, listing

    def read(session: "Session", town_id: int) -> "list[Explanation]":
        if rig is not None:
            towns.get_rig(session, town_id, rig)
        return explain.explain(session, town_id, listing.unfinished_beads(session, town_id, rig, limit=1000))

    return ask(read)


def _print_one(row: "Explanation") -> None:
    from gastown.cli import screen
    from gastown.cli.words import at, in_short, one_line

    if row.down:
        screen.say(DOWN)
    screen.say(f"{row.id} {one_line(row.title, 100)}")
    screen.say(f"  {row.verdict.replace('_', ' ')}: {in_short(row.reason, 500)}")
    screen.say(f"  gate       {row.gate}: {row.meaning}")
    screen.say(f"  opens      {row.opens}")
    if row.says:
        screen.say(f"  says       {in_short(row.says, 500)}")
    if row.asks:
        screen.say(f"  asks you   {in_short(row.asks, 500)}")
    if row.next_look is not None:
        screen.say(f"  next look  {at(row.next_look)}, or when something wakes it")
    if row.history:
        screen.say("\nwhat was decided so far:")
    for past in row.history:
        words = past.verdict.replace("_", " ")
        screen.say(f"  {at(past.at)} {words:<15} {in_short(past.reason, 160)} ({past.rule})")
    screen.say(f"next: {row.command}")


def _print_all(rows: "list[Explanation]") -> None:
    from gastown.cli import screen
    from gastown.cli.words import in_short, one_line

    if any(row.down for row in rows):
        screen.say(DOWN)
    if not rows:
        return screen.say("nothing is open")
    cells = [
        (row.id, screen.state(row.verdict), in_short(row.reason, 120), one_line(row.title, 50), row.command)
        for row in rows
    ]
    heads = ("id", "verdict", "because", "title", "next")
    return screen.console().print(screen.table(heads, cells, flexible=("because", "title")))


@app.command()
def events(follow: Follow = False, bead: OfBead = None, limit: Limit = 50, as_json: AsJson = False) -> None:
    """Show what has happened: who did what, and why. With --json --follow, one object a line."""
    from gastown.cli import screen

    rows = _read_events(bead, 0, limit)
    if as_json and not follow:
        return screen.print_json(rows)
    seen: set[int] = set()
    _print_new(rows, seen, as_json)
    if not rows and not follow:
        screen.say("nothing has happened yet")
    while follow:
        time.sleep(FOLLOW_S)
        _print_new(_read_events(bead, max(seen, default=0) - OVERLAP, 10_000), seen, as_json)
    return None


def _read_events(bead_id: str | None, after: int, limit: int) -> "list[EventRow]":
    from gastown.cli.ask import ask
    from gastown.store import listing
    from gastown.store.beads import get_bead

    def read(session: "Session", town_id: int) -> "list[EventRow]":
        if bead_id is not None:
            get_bead(session, bead_id, town_id)
        return listing.list_events(session, town_id, bead_id=bead_id, after=after, limit=limit)

    return ask(read)


def _print_new(rows: "list[EventRow]", seen: set[int], as_json: bool) -> None:
    from gastown.cli.beads import event_line
    from gastown.cli.words import to_json

    oldest = min(seen, default=0)
    for row in rows:
        if row.id not in seen and row.id > oldest:
            seen.add(row.id)
            typer.echo(to_json(row, indent=None) if as_json else event_line(row).strip())
