"""gastown demo: everything on this machine, no keys, about a minute."""

from typing import Annotated

import typer

app = typer.Typer()

Keep = Annotated[
    bool | None,
    typer.Option("--keep/--stop", help="Leave its stack up afterwards, or not; default: only on a terminal."),
]
Plain = Annotated[bool, typer.Option("--plain", help="A line for each change instead of a live table.")]


@app.command()
def demo(keep: Keep = None, plain: Plain = False) -> None:
    """Watch five beads being merged while agents and workers are killed. About a minute, in a home of its own.

    Exit code 0 when each is merged exactly once, else 1.
    """
    from gastown.cli import playing

    code = playing.play(keep=keep, plain=plain)
    if code:
        raise typer.Exit(code)
