"""gastown rig, pause, resume: the repositories under management."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from gastown.cli.contained import with_container
from gastown.cli.options import (
    Agent,
    AllowRed,
    AsJson,
    Author,
    Branch,
    Gates,
    GatesFile,
    Merge,
    Method,
    NodeLabels,
    Policies,
    ReviewAgent,
    ReworkAgent,
    RigName,
    Setup,
    Unset,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.orm import Session

    from gastown.cli.adding import Wanted
    from gastown.refinery.repository import Probe
    from gastown.store.rigs import RigRow

app = typer.Typer()
rig = typer.Typer(no_args_is_help=True, help="The repositories under management.")
app.add_typer(rig, name="rig")

Repository = Annotated[str, typer.Argument(metavar="PATH|URL", help="A git repository, or any folder inside of one.")]
OwnName = Annotated[str | None, typer.Option("--name", help="Default: the name of the directory.")]
Name = Annotated[str, typer.Argument(metavar="NAME", help="The rig's name.")]
NoGates = Annotated[bool, typer.Option("--no-gates", help="Take its gates away.")]
NoNodeLabels = Annotated[bool, typer.Option("--no-node-labels", help="Let it run on any node again.")]
Environment = Annotated[bool, typer.Option("--environment", help="Give it the environment of this shell.")]


@rig.command("add")
@with_container
def add_rig(
    repository: Repository,
    name: OwnName = None,
    branch: Branch = None,
    agent: Agent = None,
    setup: Setup = None,
    gate: Gates = None,
    gates_file: GatesFile = None,
    merge: Merge = None,
    merge_method: Method = None,
    author: Author = None,
    review_agent: ReviewAgent = None,
    rework_agent: ReworkAgent = None,
    node_label: NodeLabels = None,
    allow_red: AllowRed = False,
    as_json: AsJson = False,
    *,
    container: "dict[str, Any]",
) -> None:
    """Put a repository under management, after setup and gates have passed on it as it is."""
    from gastown.cli import adding, screen
    from gastown.errors import Refused
    from gastown.gates import shown

    wanted = adding.Wanted(
        repository=repository,
        name=name,
        branch=branch,
        agent=agent,
        setup=setup,
        gates=adding.given_gates(gates_file, gate) or (),
        strategy=adding.strategy_of(merge),
        merge_method=merge_method,
        author=author,
        review_agent=review_agent,
        rework_agent=rework_agent,
        node_labels=node_label,
        container=container,
        allow_red=allow_red,
    )
    probe = adding.look(wanted)
    try:
        with screen.progress() as progress:
            added = adding.add(wanted, probe, progress=progress)
    except adding.RedBase as error:
        adding.show_red(error)
        raise
    except Refused as error:
        given = {"--agent": agent, "--setup": setup, "--gates-file": gates_file}
        given |= {"--merge": merge, "--merge-method": merge_method, "--author": author}
        given |= {"--review-agent": review_agent, "--rework-agent": rework_agent}
        hint = _how_to_change(probe, [*given.items(), *(("--gate", each) for each in gate or [])])
        raise Refused(str(error), hint=hint or error.hint) from error
    if as_json:
        told = {key: value for key, value in vars(added).items() if key != "checks"}
        screen.print_json(told | {"gates": [shown(gate) for gate in added.gates]})
        return
    adding.show_added(added)
    screen.say(f'next: gastown sling "what is to be done" --rig {added.name}')


def _how_to_change(probe: "Probe", options: "Sequence[tuple[str, str | None]]") -> str:
    """The command that gives these options to the rig of this repository; empty without options or such a rig."""
    import shlex

    from gastown.cli.ask import ask
    from gastown.store import rigs

    given = [word for option, value in options if value for word in (option, value)]
    name = ask(lambda session, town_id: rigs.rig_of(session, town_id, probe.repository, probe.branch))
    return shlex.join(["gastown", "rig", "set", name, *given]) if name and given else ""


@rig.command("set")
@with_container
def change_rig(
    name: Name,
    agent: Agent = None,
    setup: Setup = None,
    gate: Gates = None,
    gates_file: GatesFile = None,
    merge: Merge = None,
    merge_method: Method = None,
    author: Author = None,
    review_agent: ReviewAgent = None,
    rework_agent: ReworkAgent = None,
    no_gates: NoGates = False,
    environment: Environment = False,
    allow_red: AllowRed = False,
    node_label: NodeLabels = None,
    no_node_labels: NoNodeLabels = False,
    policy: Policies = None,
    unset: Unset = None,
    *,
    container: "dict[str, Any]",
) -> None:
    """Change a rig for the time to come, after setup and gates have passed."""
    import os

    from gastown.cli import adding
    from gastown.errors import UsageError
    from gastown.presets.environment import capture

    gates = adding.given_gates(gates_file, gate)
    if no_gates and gates is not None:
        raise UsageError("--gate and --no-gates contradict each other", hint="give one of them")
    if node_label or no_node_labels:
        _change_labels(name, node_label or [], no_node_labels)
    if container:
        _change_container(name, container)
    if policy or unset:
        _change_policy(name, policy or [], unset or [])
    if (policy or unset or node_label or no_node_labels or container) and (
        not (agent or gates or no_gates or environment or merge or merge_method)
        and setup is author is review_agent is rework_agent is None
    ):
        return
    wanted = adding.Wanted(
        repository="",
        agent=agent,
        setup=setup,
        gates=() if no_gates else gates,
        strategy=adding.strategy_of(merge),
        merge_method=merge_method,
        author=author,
        review_agent=review_agent,
        rework_agent=rework_agent,
        environment=capture(os.environ) if environment else None,
        allow_red=allow_red,
    )
    _change_checked(name, wanted)


def _change_checked(name: str, wanted: "Wanted") -> None:
    from gastown.cli import adding, screen

    try:
        with screen.progress() as progress:
            changed = adding.given_changes(name, wanted, progress=progress)
    except adding.RedBase as error:
        adding.show_red(error)
        raise
    screen.say(f"rig {name}: " + (f"{', '.join(changed)} changed" if changed else "nothing to change"))


def _change_labels(name: str, given: "Sequence[str]", none: bool) -> None:
    from gastown.cli import screen
    from gastown.cli.ask import ask, publish_after
    from gastown.commands import towns
    from gastown.errors import UsageError

    if given and none:
        raise UsageError("--node-label and --no-node-labels contradict each other", hint="give one of them")

    def change(session: "Session", town_id: int) -> list[str]:
        return towns.update_rig(session, towns.get_rig(session, town_id, name), node_labels=list(given))

    if not ask(change):
        return screen.say(f"rig {name}: it has these node labels")
    publish_after()
    said = f"only nodes with {', '.join(given)} run it from now on" if given else "any node may run it from now on"
    return screen.say(f"rig {name}: {said}; what runs goes on")


def _change_container(name: str, layer: "dict[str, Any]") -> None:
    from gastown.cli import contained, screen
    from gastown.cli.ask import ask, publish_after
    from gastown.commands import towns

    def change(session: "Session", town_id: int) -> list[str]:
        rig = towns.get_rig(session, town_id, name)
        session.refresh(rig, with_for_update={"key_share": True})  # two changes at once are both made
        return towns.update_rig(session, rig, container=contained.changed(rig.container, layer))

    if not ask(change):
        return screen.say(f"rig {name}: its containers are made like that")
    publish_after()
    return screen.say(f"rig {name}: {', '.join(layer)} changed, for the attempts and gates to come")


def _change_policy(name: str, given: "Sequence[str]", unset: "Sequence[str]") -> None:
    from gastown.cli import screen
    from gastown.cli.ask import ask, publish_after
    from gastown.commands import policies, towns

    changes = policies.read_assignments(given)

    def change(session: "Session", town_id: int) -> list[str]:
        return policies.change_rig_policy(session, towns.get_rig(session, town_id, name), changes, unset)

    changed = ask(change)
    if changed:
        publish_after()
    screen.say(f"rig {name}: {', '.join(changed)}" if changed else f"rig {name}: no number to change")


@rig.command("list")
def list_rigs(as_json: AsJson = False) -> None:
    """List the rigs."""
    from gastown.cli import rigs as printed
    from gastown.cli import screen
    from gastown.cli.ask import ask
    from gastown.store import rigs

    rows = ask(lambda session, town_id: rigs.list_rigs(session, town_id))
    return screen.print_json(rows) if as_json else printed.print_list(rows)


@rig.command("show")
def show_rig(name: Name, as_json: AsJson = False) -> None:
    """Show a rig with its setup and gates."""
    from gastown.cli import rigs as printed
    from gastown.cli import screen
    from gastown.cli.ask import ask
    from gastown.commands import towns
    from gastown.store import rigs

    def read(session: "Session", town_id: int) -> "RigRow":
        towns.get_rig(session, town_id, name)
        return rigs.list_rigs(session, town_id, name)[0]

    row = ask(read)
    return screen.print_json(row) if as_json else printed.print_rig(row)


@rig.command("pause")
def pause_rig(name: Name) -> None:
    """Start no new attempts on a rig; what runs goes on."""
    _set_paused(True, name)


@rig.command("resume")
def resume_rig(name: Name) -> None:
    """Start attempts on a rig again."""
    _set_paused(False, name)


@app.command()
def pause(rig: RigName = None) -> None:
    """Start no new attempts, in the town or on one rig; what runs goes on."""
    _set_paused(True, rig)


@app.command()
def resume(rig: RigName = None) -> None:
    """Start attempts again."""
    _set_paused(False, rig)


def _set_paused(paused: bool, rig: str | None) -> None:
    from gastown.cli import screen
    from gastown.cli.ask import ask, publish_after
    from gastown.commands import towns

    ask(lambda session, town_id: towns.set_paused(session, town_id, paused, rig=rig))
    subject = "the town" if rig is None else f"rig {rig}"
    if paused:
        screen.say(f"{subject} is paused: running attempts go on, no new ones start")
        screen.say("next: gastown resume" + ("" if rig is None else f" --rig {rig}"))
        return
    publish_after()
    screen.say(f"{subject} goes on")
