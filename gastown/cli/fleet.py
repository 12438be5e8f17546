"""gastown node, agent: what runs attempts, and in whose name."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from gastown.cli.options import AsJson

if TYPE_CHECKING:
    from gastown.store.fleet import NodeDetail, NodeRow
    from gastown.store.members import Member

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
            row.runtime,
            f"{row.used} of {row.capacity}",
            f"{span((now - row.heartbeat_at).total_seconds())} ago",
            _remark(row),
        )
        for row in rows
    ]
    heads = ("name", "state", "runtime", "used", "seen", "remark")
    return screen.console().print(screen.table(heads, cells, flexible=("remark",)))


def _remark(row: "NodeRow") -> str:
    from gastown.cli.words import at, in_short

    said = [", ".join(row.labels)] if row.labels else []
    if row.closed_at is not None:
        said.append(f"by hand since {at(row.closed_at)}, until gastown node drain {row.name} --undo")
    elif row.rests_until:
        said.append(f"rests until {at(row.rests_until)}: {in_short(row.failure, 200)}")
    if row.refused:
        said.append(f"REFUSED {in_short(row.refused, 300)}")
    return "; ".join(said)


@node.command("show")
def show_node(name: NodeName, as_json: AsJson = False) -> None:
    """Show a node: what it offers, its workers, and what runs there."""
    from gastown.cli import screen
    from gastown.cli.ask import ask
    from gastown.store import fleet

    found = ask(lambda session, town_id: fleet.show_node(session, town_id, name))
    return screen.print_json(found) if as_json else _print_node(found)


def _print_node(found: "NodeDetail") -> None:
    from gastown.cli import screen
    from gastown.cli.words import at, one_line, span

    row, now = found.node, datetime.now(UTC)
    screen.say(f"node {row.name}, {row.state}")
    lines = {
        "runtime": row.runtime,
        "is": found.identity or "not known: its workers are of an older version",
        "version": found.version or "not known: its workers are of an older version",
        "labels": ", ".join(row.labels) or "none",
        "used": f"{row.used} of {row.capacity}",
        "seen": f"{span((now - row.heartbeat_at).total_seconds())} ago; known since {at(found.created_at)}",
    }
    for preset, image in sorted(found.images.items()):
        lines[f"image {'of any agent' if preset == '*' else 'of ' + preset}"] = image
    for key, value in lines.items():
        screen.say(f"  {key:<11} {one_line(value, 200)}")
    if remark := _remark(row):
        screen.say(f"  {'remark':<11} {one_line(remark, 600)}")
    for worker in found.workers:
        screen.say(f"  {'worker':<11} {one_line(worker.name)}: {_of_worker(worker, now)}")
    for each in found.attempts:
        about = (
            f"attempt {each.epoch} on {each.bead_id}, {each.status} since {at(each.since)}: {one_line(each.title, 60)}"
        )
        screen.say(f"  {'runs':<11} {about}")


def _of_worker(worker: "Member", now: datetime) -> str:
    from gastown.cli.words import one_line, span

    seen = f"seen {span((now - worker.at).total_seconds())} ago"
    if worker.refused:
        return f"REFUSED, {one_line(worker.refused, 400)} ({seen})"
    return f"{'takes starts' if worker.starts else 'looks after what runs'}, {one_line(worker.version or '')} ({seen})"


@node.command("remove")
def remove_node(name: NodeName) -> None:
    """Forget a node that is gone for good, with the messages that wait for it. Its past attempts stay on record."""
    from gastown.cli import screen
    from gastown.cli.ask import ask
    from gastown.commands import nodes
    from gastown.errors import BrokerUnavailable
    from gastown.tasks.queues import drop_queues

    runtime = ask(lambda session, town_id: nodes.remove(session, town_id, name))
    screen.say(f"{name} is no node any more; a worker of that name makes it one again")
    if runtime == "docker":
        screen.say(
            f"containers of ended attempts may still be on its engine. A worker that comes back there removes them "
            f"within a minute; if none will, type there: {_removal(name)}"
        )
    try:
        drop_queues(name)
    except BrokerUnavailable as error:
        screen.say(f"what waits for it in the broker is still there, and goes by itself within a day: {error}")


def _removal(name: str) -> str:
    """The command that removes what ended on a node's engine, and nothing that runs."""
    from gastown.runtimes.docker_making import ATTEMPT, NODE, ROLE

    labels = {NODE: name.partition("~")[0], ROLE: ATTEMPT}  # of one that lost its name, what it was
    wanted = [*(f"label={key}={value}" for key, value in labels.items()), "status=exited"]
    return f"docker rm $(docker ps -aq {' '.join(f'--filter {each}' for each in wanted)})"


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
