"""gastown up, down, status: the embedded stack."""

import json
import os
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from gastown.cli.townwide import Townwide
    from gastown.embedded.status import StackStatus
    from gastown.settings import Settings

app = typer.Typer()

Detach = Annotated[bool, typer.Option("--detach", "-d", help="Return when it is ready, and leave it running.")]
LeaveAgents = Annotated[bool, typer.Option("--leave-agents", help="Do not stop running attempts; they go on.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
NOT_UP = 4


@app.command()
def up(detach: Detach = False) -> None:
    """Start everything on this machine: Postgres, Redis, the workers and the API."""
    from gastown.embedded import control
    from gastown.settings import get_settings

    settings = get_settings()
    os.umask(0o077)
    if not detach:
        from gastown.embedded.supervisor import Supervisor

        typer.echo(f"starting in {settings.home}; Ctrl-C stops it and lets agents save their work", err=True)
        Supervisor(settings, say=lambda line: typer.echo(line, err=True)).run()
        typer.echo("down", err=True)
        return
    started = control.start_detached(settings)
    now = control.read_status(settings)
    typer.echo(f"gastown is {'up' if started else 'up already'}: {now.url} (pid {now.pid}, since {now.since})")


@app.command()
def down(leave_agents: LeaveAgents = False) -> None:
    """Stop everything on this machine. Running attempts save their work first, within a minute."""
    from gastown.cli.drain import drain
    from gastown.embedded import control
    from gastown.settings import get_settings

    settings = get_settings()
    if control.read_status(settings).alive:
        typer.echo("stopping; agents " + ("go on" if leave_agents else "save their work (60 s at most)"), err=True)
    stopped = control.stop(settings, leave_agents=leave_agents)
    left = 0 if leave_agents else drain(settings.home)
    typer.echo("gastown is down" + ("" if stopped or left else " already"))


@app.command()
def status(as_json: AsJson = False) -> None:
    """Say what runs. Exit code 4 when the stack is not up."""
    from gastown.embedded.status import read
    from gastown.settings import get_settings

    settings = get_settings()
    now = read(settings.home)
    if as_json:
        town = _read_town() if now.is_up else None
        more = {"home": str(settings.home), "town": None if town is None else asdict(town)}
        typer.echo(json.dumps(asdict(now) | more, indent=2))
    else:
        _print_stack(now, settings)
    if not now.is_up:
        raise typer.Exit(NOT_UP)


@app.command()
def version() -> None:
    """Print the version."""
    from importlib.metadata import version as version_of

    typer.echo(f"gastown {version_of('gastown')}")


def _print_stack(now: "StackStatus", settings: "Settings") -> None:
    from gastown.cli.words import count

    since = f" since {now.since}" if now.alive else ""
    typer.echo(f"gastown is {now.state}{since}, home {settings.home}")
    if now.reason:
        typer.echo(f"  {now.reason}")
    if not now.is_up:
        typer.echo(f"next: {now.hint or 'gastown up'}")
        return
    typer.echo(f"  {'url':<9} {now.url}")
    for child in now.children:
        restarts = f", restarted {count(child.restarts, 'time')}" if child.restarts else ""
        reason = f", last {child.reason}" if child.reason else ""
        typer.echo(f"  {child.name:<9} {child.state:<10} pid {child.pid or '-'}{restarts}{reason}")
    for name, url in (("postgres", settings.database_url), ("broker", settings.broker_url)):
        if url:
            from gastown.cli.config import masked

            typer.echo(f"  {name:<9} elsewhere  {masked(url)}")
    _print_town()


def _read_town() -> "Townwide | None":
    """How the work stands; None when the database is away: then what runs is all there is to say."""
    from gastown.cli import townwide
    from gastown.errors import DatabaseUnavailable

    try:
        return townwide.read()
    except DatabaseUnavailable:
        return None


def _print_town() -> None:
    now = _read_town()
    if now is None:
        return
    typer.echo(f"  {'town':<9} {now.words()}")
    for each in now.troubles:
        typer.echo(f"  {'trouble':<9} {each}")
    if now.next_command:
        typer.echo(f"next: {now.next_command}")
