"""gastown convoy: beads that land as a whole."""

from typing import TYPE_CHECKING, Annotated

import typer

from gastown.cli.options import Agent, AsJson, Format, Limit, PlanFile, RigName
from gastown.states import ConvoyMode

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.orm import Session

    from gastown.store.convoy_detail import ConvoyDetail, ConvoyRow

app = typer.Typer()
convoy = typer.Typer(no_args_is_help=True, help="Beads that land as a whole.")
app.add_typer(convoy, name="convoy")

Name = Annotated[str, typer.Argument(metavar="NAME", help="What it is to be called.")]
Key = Annotated[str, typer.Argument(metavar="CONVOY", help="Its name, or its id such as cv-7k3fq.")]
Beads = Annotated[list[str] | None, typer.Argument(metavar="BEAD", help="Beads that exist.")]
Member = Annotated[str, typer.Argument(metavar="BEAD", help="A member.")]
After = Annotated[list[str], typer.Option("--after", metavar="BEAD", help="The member to wait for; several possible.")]
Mode = Annotated[
    ConvoyMode,
    typer.Option(
        "--mode", help="Members merge into a branch that lands as a whole, or each by itself into the target."
    ),
]
Start = Annotated[bool, typer.Option("--start", help="Start it at once.")]
Everything = Annotated[bool, typer.Option("--all", help="Closed ones as well.")]
Partial = Annotated[bool, typer.Option("--partial", help="Without the members that failed, or wait for such.")]


@convoy.command("create")
def create_convoy(
    name: Name,
    bead: Beads = None,
    file: PlanFile = None,
    plan_format: Format = None,
    rig: RigName = None,
    agent: Agent = None,
    mode: Mode = ConvoyMode.REVIEW_THEN_LAND,
    start: Start = False,
    as_json: AsJson = False,
) -> None:
    """Make a convoy of a plan, or of beads that exist, and show in which waves it goes. It waits for `convoy start`."""
    from gastown.cli import convoys, planning, screen
    from gastown.cli.ask import ask, publish_after
    from gastown.commands import convoys as commands
    from gastown.errors import UsageError
    from gastown.store.convoy_detail import convoy_detail

    if not bead and file is None:
        raise UsageError("a convoy needs members", hint=f"gastown convoy create {name!r} -f plan.toml, or BEAD BEAD")
    _check_options(file, plan_format, rig, agent)
    commands.check_name(name)
    plan = None if file is None else planning.read_plan(file, plan_format)

    def write(session: "Session", town_id: int) -> "ConvoyDetail":
        given = None if plan is None else planning.assign(session, town_id, plan, rig, agent)
        convoy_id = commands.create(
            session,
            town_id,
            name,
            mode=mode,
            plan=plan,
            rigs=None if given is None else given.rigs,
            agents=None if given is None else given.agents,
            bead_ids=bead or [],
            start=start,
        )
        return convoy_detail(session, town_id, convoy_id)

    made = ask(write)
    publish_after()
    return screen.print_json(convoys.preview(made)) if as_json else convoys.print_preview(made)


def _check_options(file: str | None, plan_format: object, rig: str | None, agent: str | None) -> None:
    from gastown.errors import UsageError

    for option, value in (("--format", plan_format), ("--rig", rig), ("--agent", agent)):
        if file is None and value is not None:
            raise UsageError(f"{option} is for the beads of a plan", hint="give the plan: -f plan.toml")


@convoy.command("list")
def list_convoys(everything: Everything = False, limit: Limit = 100, as_json: AsJson = False) -> None:
    """List convoys, the newest first."""
    from gastown.cli import convoys, screen
    from gastown.cli.ask import ask
    from gastown.store import convoy_detail

    def read(session: "Session", town_id: int) -> "list[ConvoyRow]":
        return convoy_detail.list_convoys(session, town_id, everything=everything, limit=limit + 1)

    rows = ask(read)
    if as_json:
        return screen.print_json(rows[:limit])
    return convoys.print_list(rows[:limit], more=len(rows) > limit, everything=everything)


@convoy.command("show")
def show_convoy(convoy: Key, as_json: AsJson = False) -> None:
    """Show how a convoy stands: its members and what waits for what, its branches, and what holds its landing."""
    from gastown.cli import convoys, screen
    from gastown.cli.ask import ask_quietly
    from gastown.store.convoy_detail import convoy_detail

    detail = ask_quietly(lambda session, town_id: convoy_detail(session, town_id, convoy))
    return screen.print_json(detail) if as_json else convoys.print_detail(detail)


@convoy.command("start")
def start_convoy(convoy: Key) -> None:
    """Let the members of a staged convoy be worked on."""
    from gastown.cli import screen
    from gastown.cli.ask import ask, publish_after
    from gastown.commands import convoys as commands

    started = ask(lambda session, town_id: commands.start(session, town_id, convoy))
    publish_after()
    screen.say(f"{started} is started\nnext: gastown convoy show {started}")


@convoy.command("add")
def add_members(
    convoy: Key,
    bead: Beads = None,
    file: PlanFile = None,
    plan_format: Format = None,
    rig: RigName = None,
    agent: Agent = None,
) -> None:
    """Add beads that exist, or those of a plan, also while the convoy runs; a landing under way is taken back."""
    from gastown.cli import planning, screen
    from gastown.cli.ask import ask, publish_after
    from gastown.cli.words import count
    from gastown.commands import convoys as commands
    from gastown.errors import UsageError
    from gastown.store.convoys import find

    if not bead and file is None:
        raise UsageError("name the beads to add", hint="gastown convoy add CONVOY BEAD, or -f plan.toml")
    _check_options(file, plan_format, rig, agent)
    plan = None if file is None else planning.read_plan(file, plan_format)

    def write(session: "Session", town_id: int) -> tuple[str, list[str]]:
        added = list(dict.fromkeys(bead or []))
        if added:
            commands.add(session, town_id, convoy, added)
        if plan is not None:
            given = planning.assign(session, town_id, plan, rig, agent)
            added += commands.add_plan(session, town_id, convoy, plan, given.rigs, given.agents)
        return find(session, town_id, convoy).id, added

    convoy_id, added = ask(write)
    publish_after()
    shown = ", ".join(added[:5]) + (", ..." if len(added) > 5 else "")
    screen.say(f"{count(len(added), 'bead')} added to {convoy_id}: {shown}\nnext: gastown convoy show {convoy_id}")


@convoy.command("remove")
def remove_member(convoy: Key, bead: Member) -> None:
    """Take a member out that nobody has worked on yet; it goes on by itself."""
    from gastown.cli import screen
    from gastown.cli.ask import ask, publish_after
    from gastown.commands import convoys as commands

    ask(lambda session, town_id: commands.remove(session, town_id, convoy, bead))
    publish_after()
    screen.say(f"{bead} is no member any more, and goes on by itself\nnext: gastown why {bead}")


@convoy.command("order")
def order_member(convoy: Key, bead: Member, after: After) -> None:
    """Have a member wait for others, also while the convoy runs; refused when that closes a cycle."""
    from gastown.cli import screen
    from gastown.commands import convoys as commands

    _reorder(commands.order, convoy, bead, after)
    screen.say(f"{bead} waits for {', '.join(after)}\nnext: gastown convoy show {convoy}")


@convoy.command("unorder")
def unorder_member(convoy: Key, bead: Member, after: After) -> None:
    """Have a member wait for others no more."""
    from gastown.cli import screen
    from gastown.commands import convoys as commands

    _reorder(commands.unorder, convoy, bead, after)
    screen.say(f"{bead} waits no more for {', '.join(after)}\nnext: gastown convoy show {convoy}")


def _reorder(change: "Callable[[Session, int, str, str, str], None]", convoy: str, bead: str, after: list[str]) -> None:
    """All of them, or none."""
    from gastown.cli.ask import ask, publish_after
    from gastown.store.moves import lock_beads

    def write(session: "Session", town_id: int) -> None:
        lock_beads(session, {bead, *after})
        for each in dict.fromkeys(after):
            change(session, town_id, convoy, bead, each)

    ask(write)
    publish_after()


@convoy.command("land")
def land_convoy(convoy: Key, partial: Partial = False) -> None:
    """Land a convoy without the members that failed, or try a landing again that failed."""
    from gastown.cli import screen
    from gastown.cli.ask import ask, publish_after
    from gastown.cli.words import one_line
    from gastown.commands import convoys as commands

    words = ask(lambda session, town_id: commands.land(session, town_id, convoy, partial=partial))
    publish_after()
    screen.say(f"{one_line(convoy)}: {words}\nnext: gastown convoy show {one_line(convoy)}")


@convoy.command("close")
def close_convoy(convoy: Key) -> None:
    """Cancel what is unfinished of a convoy, and do not land it. Its branch stays, with what was merged into it."""
    from gastown.cli import screen
    from gastown.cli.ask import ask, publish_after
    from gastown.cli.words import count, one_line
    from gastown.commands import convoys as commands

    effects = ask(lambda session, town_id: commands.close(session, town_id, convoy))
    publish_after(effects)
    stopped = f", {count(len(effects), 'running attempt')} stopped" if effects else ""
    screen.say(f"{one_line(convoy)} is closed{stopped}\nnext: gastown convoy show {one_line(convoy)}")
