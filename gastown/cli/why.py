"""gastown why, events: what holds a bead, and what has happened."""

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from gastown.cli.options import AsJson, Limit, RigName

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from gastown.store.explain import Explanation
    from gastown.store.listing import BeadRow, EventRow

    Explained = tuple[Explanation, BeadRow]

app = typer.Typer()

FOLLOW_S = 0.5  # between two looks
LAST = 5  # decisions that are shown unasked
ALL = 10_000  # decisions
OVERLAP = 200  # events are numbered when written and seen when committed: a lower number may come later
DOWN = "nothing happens: the stack is not up\nnext: gastown up"

MaybeBead = Annotated[str | None, typer.Argument(metavar="[BEAD]", help="The id of a bead.")]
All = Annotated[bool, typer.Option("--all", help="What holds the town back, and every bead that is not closed.")]
Beads = Annotated[int | None, typer.Option("--limit", "-n", min=1, help="Of --all: at most so many beads.")]
Follow = Annotated[bool, typer.Option("--follow", "-f", help="Go on with what comes.")]
History = Annotated[bool, typer.Option("--history", help="All that was decided so far, not only the last of it.")]
OfBead = Annotated[str | None, typer.Option("--bead", metavar="BEAD", help="The same as the argument.")]
OnlyBead = Annotated[str | None, typer.Argument(metavar="[BEAD]", help="Of this bead alone.")]


@app.command()
def why(
    bead: MaybeBead = None,
    everything: All = False,
    history: History = False,
    rig: RigName = None,
    limit: Beads = None,
    as_json: AsJson = False,
) -> None:
    """Name what holds a bead, and what opens it; without one, what holds the town back."""
    from gastown.cli import screen, whole
    from gastown.errors import UsageError

    if bead is not None and everything:
        raise UsageError("why takes one bead, or --all", hint="gastown bead list")
    if bead is None:
        return whole.explain_town(rig, beads=everything, limit=limit, as_json=as_json)
    row, listed = _explain_one(bead, ALL if history else None)
    return screen.print_json(row) if as_json else _print_one(row, listed, in_full=history)


def _explain_one(bead_id: str, limit: int | None) -> "Explained":
    from gastown.cli.ask import ask_quietly
    from gastown.store import explain, listing
    from gastown.store.beads import get_bead

    def read(session: "Session", town_id: int) -> "Explained":
        get_bead(session, bead_id, town_id)
        found = explain.explain(session, town_id, [bead_id])[0]
        says, asks = explain.voice_of(session, bead_id)
        history = explain.history_of(session, bead_id, limit or explain.HISTORY)
        listed = listing.beads_by_id(session, town_id, [bead_id])[0]
        return replace(found, says=says, asks=asks, history=history), listed

    return ask_quietly(read)


def state_now(row: "Explanation", listed: "BeadRow") -> str:
    """The word of `bead list`; of a bead that waits, what holds it now, not when it was looked at last."""
    from gastown.cli.beads import state_of

    return state_of(replace(listed, verdict=listed.verdict and row.verdict))


def _print_one(row: "Explanation", listed: "BeadRow", *, in_full: bool) -> None:
    from gastown.cli import screen
    from gastown.cli.beads import belongs
    from gastown.cli.words import at, in_short, one_line

    if row.down:
        screen.say(DOWN)
    screen.say(f"{row.id} {one_line(row.title, 100)}")
    state = state_now(row, listed).replace("_", " ")
    screen.say(f"  {state}: {in_short(row.reason.removeprefix(f'{state}: '), 500)}")
    screen.say(f"  rule       {row.gate}: {row.meaning}")
    screen.say(f"  opens      {row.opens}")
    if listed.convoy:
        screen.say(f"  belongs    {belongs(listed)}")
    if row.says:
        screen.say(f"  says       {in_short(row.says, 500)}")
    if row.asks:
        screen.say(f"  {'asked you' if listed.terminal else 'asks you ':<10} {in_short(row.asks, 500)}")
    if row.next_look is not None:
        screen.say(f"  next look  {at(row.next_look)}, or when something wakes it")
    if row.history:
        screen.say("\nwhat was decided so far:")
    shown = row.history if in_full else row.history[-LAST:]
    if len(shown) < len(row.history):
        screen.say(f"  (the last {LAST}; gastown why {row.id} --history shows all)")
    for past in shown:
        words = past.verdict.replace("_", " ")
        screen.say(f"  {at(past.at)} {words:<15} {in_short(past.reason, 160)} ({past.rule})")
    if row.command != f"gastown why {row.id}":  # which was typed just now
        screen.say(f"next: {row.command}")


@app.command()
def events(
    bead: OnlyBead = None, follow: Follow = False, of: OfBead = None, limit: Limit = 50, as_json: AsJson = False
) -> None:
    """Show what has happened: who did what, and why. With --json --follow, one object a line."""
    from gastown.cli import screen
    from gastown.errors import UsageError

    if bead and of and bead != of:
        raise UsageError("events takes one bead", hint="gastown events BEAD")
    bead = bead or of
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
