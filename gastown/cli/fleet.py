"""gastown node, agent: what runs attempts, and in whose name."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from gastown.cli.options import AsJson

if TYPE_CHECKING:
    from gastown.store.fleet import NodeRow

app = typer.Typer()
node = typer.Typer(no_args_is_help=True, help="The machines that run attempts.")
agent = typer.Typer(no_args_is_help=True, help="The agents, by name.")
app.add_typer(node, name="node")
app.add_typer(agent, name="agent")

NodeName = Annotated[str, typer.Argument(metavar="NODE", help="The node's name; gastown node list has them.")]
Undo = Annotated[bool, typer.Option("--undo", help="Take starts again.")]
Stop = Annotated[bool, typer.Option("--stop", help="Have what runs there save its work and end; it goes on elsewhere.")]
Everything = Annotated[bool, typer.Option("--all", help="Retired ones as well.")]


@node.command("list")
def list_nodes(as_json: AsJson = False) -> None:
    """List the nodes: whether each is alive, and how much of it is in use."""
    from gastown.cli import screen
    from gastown.cli.ask import ask
    from gastown.cli.words import one_line, span
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
            _remark(row),
        )
        for row in rows
    ]
    heads = ("name", "state", "used", "seen", "remark")
    return screen.console().print(screen.table(heads, cells, flexible=("remark",)))


def _remark(row: "NodeRow") -> str:
    from gastown.cli.words import at, in_short

    if row.closed_at is not None:
        return f"by hand since {at(row.closed_at)}, until gastown node drain {row.name} --undo"
    return f"rests until {at(row.rests_until)}: {in_short(row.failure, 200)}" if row.rests_until else ""


@node.command()
def drain(name: NodeName, undo: Undo = False, stop: Stop = False) -> None:
    """Start nothing more on a node, whatever its workers say, until --undo. What runs there goes on to its end."""
    from gastown.cli import screen
    from gastown.cli.ask import ask, publish_after
    from gastown.cli.words import count
    from gastown.commands import nodes
    from gastown.errors import UsageError

    if undo and stop:
        raise UsageError("--undo and --stop contradict each other", hint="give one of them")
    if undo:
        changed = ask(lambda session, town_id: nodes.reopen(session, town_id, name))
        publish_after()
        return screen.say(f"{name} takes starts again" if changed else f"{name} takes starts: nobody drains it")
    changed = ask(lambda session, town_id: nodes.drain(session, town_id, name))
    live = ask(lambda session, _: (nodes.stop_attempts if stop else nodes.count_live)(session, name))
    publish_after()
    screen.say(f"nothing more is started on {name}" + ("" if changed else " (that was so already)"))
    if live:
        doing = "asked to save its work and end" if stop else "going on to its end (--stop: to save its work and end)"
        screen.say(f"{count(live, 'attempt')} there, each {doing}")
    return screen.say(f"next: gastown node list, and then gastown node drain {name} --undo")


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
