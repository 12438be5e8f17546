"""gastown node, agent: what runs attempts, and in whose name."""

from datetime import UTC, datetime
from typing import Annotated

import typer

from gastown.cli.options import AsJson

app = typer.Typer()
node = typer.Typer(no_args_is_help=True, help="The machines that run attempts.")
agent = typer.Typer(no_args_is_help=True, help="The agents, by name.")
app.add_typer(node, name="node")
app.add_typer(agent, name="agent")

Everything = Annotated[bool, typer.Option("--all", help="Retired ones as well.")]


@node.command("list")
def list_nodes(as_json: AsJson = False) -> None:
    """List the nodes: whether each is alive, and how much of it is in use."""
    from gastown.cli import screen
    from gastown.cli.ask import ask
    from gastown.cli.words import at, in_short, one_line, span
    from gastown.store import fleet

    rows = ask(fleet.list_nodes)
    if as_json:
        return screen.print_json(rows)
    if not rows:
        return screen.say("no worker has ever shown itself\nnext: gastown up")
    now = datetime.now(UTC)
    cells = [
        (
            one_line(row.name),
            screen.state(row.state),
            f"{row.used} of {row.capacity}",
            f"{span((now - row.heartbeat_at).total_seconds())} ago",
            f"until {at(row.rests_until)}: {in_short(row.failure, 200)}" if row.rests_until else "",
        )
        for row in rows
    ]
    return screen.console().print(screen.table(("name", "state", "used", "seen", "rests"), cells, flexible=("rests",)))


@agent.command("list")
def list_agents(everything: Everything = False, as_json: AsJson = False) -> None:
    """List the agents: what each holds, or since when it is idle."""
    from gastown.cli import screen
    from gastown.cli.ask import ask
    from gastown.cli.words import at, one_line
    from gastown.store import fleet

    rows = ask(lambda session, town_id: fleet.list_agents(session, town_id, everything=everything))
    if as_json:
        return screen.print_json(rows)
    if not rows:
        return screen.say('no agents yet: the first attempt makes one\nnext: gastown sling "what is to be done"')
    cells = [
        (
            row.name,
            screen.state(row.status),
            one_line(row.rig),
            row.bead_id or "-",
            at(row.idle_since) if row.idle_since else "-",
        )
        for row in rows
    ]
    return screen.console().print(screen.table(("name", "state", "rig", "bead", "idle since"), cells))
