"""gastown bead, attempts: look at beads, and steer them."""

from typing import TYPE_CHECKING, Annotated

import typer

from gastown.cli.options import AsJson, BeadId, Limit, RigName

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.orm import Session

    from gastown.store.listing import BeadRow

app = typer.Typer()
bead = typer.Typer(no_args_is_help=True, help="Pieces of work.")
app.add_typer(bead, name="bead")

States = Annotated[
    list[str] | None, typer.Option("--status", "-s", help="open, in_progress, in_review, closed, failed, merged, ...")
]
Everything = Annotated[bool, typer.Option("--all", help="Closed ones as well.")]
Again = Annotated[bool, typer.Option("--again", help="Have its agent work on it once more, from its own commits.")]
By = Annotated[list[str], typer.Option("--by", metavar="BEAD", help="The bead to wait for; several are possible.")]
Reason = Annotated[str, typer.Option("--reason", "-m", help="Why: others will read it.")]
Note = Annotated[str, typer.Option("--note", "-m", help="By what other means, or where it is: others will read it.")]
Restore = Annotated[int | None, typer.Option("--restore", metavar="N", help="Make a branch of attempt N's work.")]
NewBranch = Annotated[str | None, typer.Option("--branch", metavar="NAME", help="Its name; default: BEAD-N.")]


@bead.command("list")
def list_beads(
    rig: RigName = None,
    status: States = None,
    everything: Everything = False,
    limit: Limit = 100,
    as_json: AsJson = False,
) -> None:
    """List beads, the newest first."""
    from gastown.cli import beads, screen
    from gastown.cli.ask import ask
    from gastown.commands import towns
    from gastown.store import explain, listing

    states = _checked(status or [])

    def read(session: "Session", town_id: int) -> "list[BeadRow]":
        if rig is not None:
            towns.get_rig(session, town_id, rig)
        rows = listing.list_beads(session, town_id, rig=rig, states=states, everything=everything, limit=limit + 1)
        return explain.with_live_holds(session, town_id, rows)

    rows = ask(read)
    if as_json:
        return screen.print_json(rows[:limit])
    return beads.print_list(rows[:limit], more=len(rows) > limit, everything=everything or bool(states))


def _checked(given: list[str]) -> list[str]:
    from gastown.errors import UsageError
    from gastown.states import BeadStatus, Resolution

    known = [*map(str, BeadStatus), *map(str, Resolution)]
    states = [part.strip().replace("-", "_") for each in given for part in each.split(",")]
    for state in states:
        if state not in known:
            raise UsageError(f"there is no status {state}", hint=f"one of {', '.join(known)}")
    return states


@bead.command("show")
def show_bead(bead_id: BeadId, as_json: AsJson = False) -> None:
    """Show everything about a bead."""
    from gastown.cli import beads, screen
    from gastown.cli.ask import ask
    from gastown.store.detail import bead_detail

    detail = ask(lambda session, town_id: bead_detail(session, town_id, bead_id))
    if as_json:
        return screen.print_json(detail)
    return beads.print_detail(detail)


@app.command()
def attempts(bead_id: BeadId, restore: Restore = None, branch: NewBranch = None, as_json: AsJson = False) -> None:
    """Show each attempt on a bead, how it ended, and the work that is kept of it; or get that work back."""
    from gastown.cli import beads, kept, screen
    from gastown.errors import UsageError

    if restore is not None:
        answer = kept.restore(bead_id, restore, branch)
        return screen.print_json(answer) if as_json else kept.print_restored(answer)
    if branch is not None:
        raise UsageError("--branch names what --restore makes", hint=f"gastown attempts {bead_id} --restore N")
    found = kept.attempts_of(bead_id)
    if as_json:
        return screen.print_json([each.to_json() for each in found])
    if not found:
        return screen.say(f"no attempt on {bead_id} yet\nnext: gastown why {bead_id}")
    beads.print_attempts([each.row for each in found])
    return kept.print_work(found)


@bead.command()
def cancel(bead_id: BeadId) -> None:
    """Close a bead without its work, also one that failed; a running attempt is stopped, what it wrote is kept."""
    from gastown.cli import screen
    from gastown.cli.ask import ask, publish_after
    from gastown.commands import work

    effects = ask(lambda session, town_id: work.cancel(session, town_id, bead_id))
    publish_after(effects)
    screen.say(f"{bead_id} is canceled" + (", and its attempt is stopped" if effects else ""))


@bead.command()
def done(bead_id: BeadId, note: Note) -> None:
    """Say that what a bead is for is done by other means: who waits for it goes on, nothing of its own is merged."""
    from gastown.cli import screen
    from gastown.cli.ask import ask, publish_after
    from gastown.cli.words import one_line
    from gastown.commands import work
    from gastown.errors import UsageError

    words = one_line(note, 500)
    if not words:
        raise UsageError(
            "others have to know where it is", hint=f"gastown bead done {bead_id} --note 'merged as 1a2b3c'"
        )
    effects = ask(lambda session, town_id: work.finish(session, town_id, bead_id, words))
    publish_after(effects)
    screen.say(f"{bead_id} is done" + (", and its attempt is stopped" if effects else ""))


@bead.command()
def retry(bead_id: BeadId, again: Again = False) -> None:
    """Go on with a bead that is stuck, failed or canceled."""
    from gastown.cli import screen
    from gastown.cli.ask import ask, publish_after
    from gastown.commands import work

    words = ask(lambda session, town_id: work.retry(session, town_id, bead_id, again=again))
    publish_after()
    screen.say(f"{bead_id}: {words}\nnext: gastown why {bead_id}")


@bead.command()
def hold(bead_id: BeadId, reason: Reason) -> None:
    """Start no attempt on a bead until it is released; a running one is stopped, and what it wrote is kept."""
    from gastown.cli import screen
    from gastown.cli.ask import ask, publish_after
    from gastown.cli.words import one_line
    from gastown.commands import work
    from gastown.errors import UsageError

    words = one_line(reason, 500)
    if not words:
        raise UsageError("a hold needs a reason", hint=f"gastown bead hold {bead_id} --reason 'why'")
    effects = ask(lambda session, town_id: work.hold(session, town_id, bead_id, words))
    publish_after(effects)
    screen.say(f"{bead_id} is held: {words}\nnext: gastown bead release {bead_id}")


@bead.command()
def release(bead_id: BeadId) -> None:
    """Let a held bead go on."""
    from gastown.cli import screen
    from gastown.cli.ask import ask, publish_after
    from gastown.commands import work

    ask(lambda session, town_id: work.release(session, town_id, bead_id))
    publish_after()
    screen.say(f"{bead_id} goes on\nnext: gastown why {bead_id}")


@bead.command("block")
def block_bead(bead_id: BeadId, by: By) -> None:
    """Have a bead wait for others; refused when that closes a cycle. An attempt that runs goes on."""
    from gastown.cli import screen
    from gastown.commands import edges

    _change_edges(bead_id, by, edges.block)
    screen.say(f"{bead_id} waits for {', '.join(by)}\nnext: gastown why {bead_id}")


@bead.command("unblock")
def unblock_bead(bead_id: BeadId, by: By) -> None:
    """Have a bead wait for others no more, nor for the landing of their convoy."""
    from gastown.cli import screen
    from gastown.commands import edges

    landings: set[str] = set()

    def unblock(session: "Session", town_id: int, bead_id: str, blocker_id: str) -> None:
        if blocker_id not in landings:
            landings.update(edges.unblock(session, town_id, bead_id, blocker_id))

    _change_edges(bead_id, by, unblock)
    more = sorted(landings - set(by))
    landing = f", nor for {', '.join(more)}: only their convoy's landing" if more else ""
    screen.say(f"{bead_id} waits no more for {', '.join(by)}{landing}\nnext: gastown why {bead_id}")


def _change_edges(bead_id: str, by: list[str], change: "Callable[[Session, int, str, str], None]") -> None:
    """All of them, or none."""
    from gastown.cli.ask import ask, publish_after
    from gastown.store.moves import lock_beads

    def write(session: "Session", town_id: int) -> None:
        lock_beads(session, {bead_id, *by})
        for each in sorted(set(by)):
            change(session, town_id, bead_id, each)

    ask(write)
    publish_after()


@bead.command()
def dispatch(bead_id: BeadId) -> None:
    """Put a bead first in order and skip its cooldown; nothing else is skipped."""
    from gastown.cli import screen
    from gastown.cli.ask import ask, publish_after
    from gastown.commands import work
    from gastown.store.beads import get_bead

    def write(session: "Session", town_id: int) -> None:
        get_bead(session, bead_id, town_id)
        work.force_dispatch(session, bead_id)

    ask(write)
    publish_after()
    screen.say(f"{bead_id} is first in order\nnext: gastown why {bead_id}")
