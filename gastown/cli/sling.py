"""gastown sling: new work."""

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from gastown.cli.options import Agent, AsJson, RigName

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

app = typer.Typer()

Title = Annotated[str, typer.Argument(metavar="TITLE", help="What is to be done, in one line.")]
Body = Annotated[str | None, typer.Option("--body", metavar="TEXT", help="All that the agent has to know.")]
File = Annotated[str | None, typer.Option("--file", "-F", metavar="FILE", help="The body from a file; - for a pipe.")]
Priority = Annotated[str, typer.Option("--priority", "-p", help="critical, high, medium or low.")]
After = Annotated[list[str] | None, typer.Option("--after", metavar="BEAD", help="Start when that one is merged.")]
Labels = Annotated[list[str] | None, typer.Option("--label", metavar="LABEL", help="To find it again.")]


@app.command()
def sling(
    title: Title,
    rig: RigName = None,
    body: Body = None,
    file: File = None,
    priority: Priority = "medium",
    after: After = None,
    agent: Agent = None,
    label: Labels = None,
    as_json: AsJson = False,
) -> None:
    """Hand a piece of work to the town: a new bead. It starts as soon as nothing holds it."""
    from gastown.cli import reading, screen, slinging
    from gastown.cli.ask import ask, publish_after
    from gastown.cli.words import one_line
    from gastown.commands.work import BODY_BYTES, NewBead
    from gastown.commands.work import sling as sling_bead
    from gastown.errors import UsageError

    if body is not None and file is not None:
        raise UsageError("--body and --file are two bodies", hint="give one of them")
    text = reading.read_text(file, BODY_BYTES) if file is not None else body or ""
    new = NewBead(title=title, body=text, priority=priority, after=after or [], labels=label or [])

    def work(session: "Session", town_id: int) -> dict[str, str]:
        chosen = slinging.pick_rig(session, town_id, rig)
        preset = slinging.pick_agent(chosen, agent)
        slinging.require_script(preset, title, text)
        bead_id = sling_bead(session, town_id, chosen, replace(new, agent=preset.name))
        return {"id": bead_id, "rig": chosen.name, "agent": preset.name, "title": title}

    made = ask(work)
    publish_after()
    if as_json:
        return screen.print_json(made)
    screen.say(f"{made['id']} {one_line(title, 80)} (rig {made['rig']}, agent {made['agent']})")
    return screen.say(f"next: gastown logs -f {made['id']} or gastown why {made['id']}")
