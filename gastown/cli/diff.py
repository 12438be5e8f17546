"""gastown diff: what a bead changed."""

from typing import TYPE_CHECKING, Annotated

import typer

from gastown.cli.options import BeadId

if TYPE_CHECKING:
    from gastown.refinery.changes import Change
    from gastown.store.changes import ChangeRow

app = typer.Typer()

Stat = Annotated[bool, typer.Option("--stat", help="Only which files, and how much.")]
Attempt = Annotated[int | None, typer.Option("--attempt", min=1, help="What this attempt made, merged or not.")]


@app.command()
def diff(bead_id: BeadId, stat: Stat = False, attempt: Attempt = None) -> None:
    """Show what a bead changed: as merged, else as it waits for its merge, else as its agent saved it."""
    from gastown.cli import paging, screen
    from gastown.cli.ask import ask
    from gastown.cli.words import one_line
    from gastown.store import changes

    row = ask(lambda session, town_id: changes.change_of(session, town_id, bead_id, attempt))
    change = _look(row)
    screen.note(one_line(f"{row.what} {change.sha[:12]}, against {change.base_sha[:12]}"))
    options = ["--stat"] if stat else []
    if not change.text("--shortstat"):
        screen.note("nothing is changed: both have the same content")
        return
    pager = paging.pager()
    if pager is not None:
        paging.show(change.text(*options, "--color=always"), pager)
    else:
        paging.write(change.text(*options, "--color=never"))


def _look(row: "ChangeRow") -> "Change":
    from gastown.refinery import changes
    from gastown.settings import get_settings

    home = get_settings().home
    if row.merged_sha is not None:
        return changes.merged(home, row.rig_id, row.repository, row.sha, row.refs, row.dispatch_id)
    return changes.unmerged(home, row.rig_id, row.repository, row.sha, row.refs, row.base_sha, row.target)
