"""gastown logs: what agents printed."""

import sys
import time
from typing import TYPE_CHECKING, Annotated

import typer

from gastown.cli.options import AsJson, BeadId

if TYPE_CHECKING:
    from gastown.cli.following import Follower

app = typer.Typer()

FOLLOW_S = 0.5  # between two looks

Follow = Annotated[bool, typer.Option("--follow", "-f", help="Go on until the bead is merged, or ended otherwise.")]
Attempt = Annotated[int | None, typer.Option("--attempt", min=1, metavar="N", help="Of this attempt.")]
All = Annotated[bool, typer.Option("--all", help="Of all attempts, the first one first.")]
Raw = Annotated[bool, typer.Option("--raw", help="The bytes as they are, also those that steer a terminal.")]


@app.command()
def logs(
    bead: BeadId,
    follow: Follow = False,
    attempt: Attempt = None,
    everything: All = False,
    raw: Raw = False,
    as_json: AsJson = False,
) -> None:
    """Show the output of a bead's last attempt. With --json, one object a line."""
    from gastown.cli import screen
    from gastown.cli.following import Follower, Form
    from gastown.errors import UsageError

    if attempt is not None and (everything or follow):
        raise UsageError("--attempt names one attempt, --all and --follow go on to others", hint="give one of them")
    if raw and as_json:
        raise UsageError("--raw and --json contradict each other", hint="give one of them")
    form = Form.RAW if raw else Form.JSON if as_json else Form.TEXT
    follower = Follower(bead, attempt=attempt, everything=everything, form=form)
    came = follower.look()
    if follow:
        _follow(follower)
    elif not follower.attempts:
        screen.note(f"no attempt on {bead} yet\nnext: gastown why {bead}")
    elif not came:
        screen.note(follower.silence())
    follower.close()
    sys.stdout.flush()


def _follow(follower: "Follower") -> None:
    """Until the bead has ended and no more output came with the last look."""
    follower.tell()
    quiet = 0
    while quiet < 3:  # what an attempt printed last may arrive after its result
        time.sleep(FOLLOW_S)
        came = follower.look()
        follower.tell()
        quiet = quiet + 1 if follower.over and not came else 0
