"""gastown inbox: what waits for a person."""

from typing import TYPE_CHECKING, Annotated

import typer

from gastown.cli.options import AsJson, Limit

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gastown.store.escalations import InboxRow

app = typer.Typer()
inbox = typer.Typer(invoke_without_command=True, help="What waits for a person.")
app.add_typer(inbox, name="inbox")

Everything = Annotated[bool, typer.Option("--all", help="Settled ones as well.")]
Number = Annotated[int, typer.Argument(metavar="ID", help="The number of a request.")]


@inbox.callback()
def show_inbox(
    context: typer.Context, everything: Everything = False, limit: Limit = 100, as_json: AsJson = False
) -> None:
    """List what waits for you, the newest first. Each is settled by itself when its cause is gone."""
    from gastown.cli import screen
    from gastown.cli.ask import ask
    from gastown.store import escalations

    if context.invoked_subcommand is not None:
        return None
    rows = ask(
        lambda session, town_id: escalations.list_inbox(session, town_id, everything=everything, limit=limit + 1)
    )
    if as_json:
        return screen.print_json(rows[:limit])
    if rows:
        _print(rows[:limit], more=len(rows) > limit)
    return _print_rest(asked=bool(rows))


def _print_rest(*, asked: bool) -> None:
    """Not all that waits for a person asks in the inbox: a held merge, for one, waits until somebody looks."""
    from gastown.cli import screen, townwide

    need_you = 0 if asked else townwide.read().need_you
    if need_you:
        beads = "1 bead needs" if need_you == 1 else f"{need_you} beads need"
        screen.say(f"nothing asks for you here, but {beads} you\nnext: gastown why --all")
    elif not asked:
        screen.say("nothing waits for you")
    else:
        screen.note("gastown why --all lists all that waits, held merges as well")


def _print(rows: "Sequence[InboxRow]", *, more: bool) -> None:
    from datetime import UTC, datetime

    from gastown.cli import screen
    from gastown.cli.words import at, in_short, span

    now = datetime.now(UTC)
    for row in rows:
        age = f"{span((now - row.raised_at).total_seconds())} ago"
        settled = f", settled {at(row.settled_at)}" if row.settled_at else ""
        screen.say(f"{row.id:>5}  {row.bead_id or '-':<8}  {age}{settled}: {in_short(row.message, 500)}")
        if not row.settled_at:
            screen.say(f"{'':>7}next: {row.command}")
    if more:
        screen.note(f"only the newest {len(rows)}; --limit shows more")
    return screen.note("gastown inbox settle ID takes one away by hand")


@inbox.command()
def settle(number: Number) -> None:
    """Take a request away by hand; when its cause comes again, so does the request."""
    from gastown.cli import screen
    from gastown.cli.ask import ask
    from gastown.cli.words import in_short
    from gastown.store import escalations

    message = ask(lambda session, town_id: escalations.settle_by_hand(session, town_id, number))
    screen.say(f"settled: {in_short(message, 200)}")
