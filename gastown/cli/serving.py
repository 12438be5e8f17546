"""gastown worker, beat, api, flower: the parts of a fleet, each a process or container of its own. See operations.md.

`gastown up` runs the same on one machine, with a database and a broker of its own.
"""

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gastown.settings import Settings

app = typer.Typer()

Queues = Annotated[
    str | None,
    typer.Option(metavar="A,B", help="Of control, watch, upkeep, node, merge; default: all."),
]
Concurrency = Annotated[
    int | None, typer.Option(min=1, max=64, help="Agents started at one time; default: worker_processes.")
]
Address = Annotated[str, typer.Option(help="Where it listens.")]
Port = Annotated[int, typer.Option(min=1, max=65535, help="The port that it listens on.")]
AuthFile = Annotated[
    str | None, typer.Option(metavar="FILE", help="Holds USER:PASSWORD; needed wherever others can reach it.")
]
FLOWERS_OWN = ("FLOWER_BASIC_AUTH", "FLOWER_AUTH_PROVIDER")  # set, Flower asks for a login by itself


@app.command()
def worker(queues: Queues = None, concurrency: Concurrency = None) -> None:
    """Run the workers of this node: ticks, starts, inspections and merges. SIGTERM ends them, each after its task."""
    from gastown.embedded import crew, home
    from gastown.settings import get_settings

    settings = get_settings()
    wanted = crew.queues_of(queues)
    _require_servers(settings)
    home.prepare(settings)
    crew.Crew(settings, wanted, concurrency, _say).run()


@app.command()
def beat() -> None:
    """Run beat, which fires the periodic tasks. Two do no harm."""
    import tempfile
    from pathlib import Path

    from gastown.embedded import health
    from gastown.settings import get_settings

    settings = get_settings()
    _require_servers(settings)
    if health.is_containerised():
        from gastown.embedded import pulse  # noqa: F401 (by its import, beat tells the health check that it sends)

        health.note(health.FOLDER, beat=True)
    # when each task was last sent, which nobody needs to know after a restart
    with tempfile.TemporaryDirectory(prefix="gastown-beat-") as folder:
        schedule = Path(folder) / "schedule"
        _run_celery(settings, ["beat", f"--schedule={schedule}", "--pidfile="])


@app.command()
def api() -> None:
    """Run the HTTP API, which agents call."""
    from gastown.embedded import health, port, serve, services
    from gastown.settings import get_settings

    settings = get_settings()
    _require_servers(settings)
    listener = port.claim(settings)
    if health.is_containerised():
        health.note(health.FOLDER, url=[port.asked_at(settings), settings.api.port, "/readyz"])
    serve.main(services.API, listener.detach())


@app.command()
def flower(address: Address = "127.0.0.1", port: Port = 5555, auth_file: AuthFile = None) -> None:
    """Run Flower, which shows Celery's workers and tasks in a browser."""
    import os

    from gastown.embedded import health
    from gastown.errors import UsageError
    from gastown.settings import get_settings

    settings = get_settings()
    _require_servers(settings)
    if auth_file is not None:
        os.environ["FLOWER_BASIC_AUTH"] = _login(auth_file)  # ours alone: what /proc shows is from before
    elif not _is_loopback(address) and not any(os.environ.get(each) for each in FLOWERS_OWN):
        what = f"on {address} others can reach Flower, and it would ask nobody who they are"
        raise UsageError(what, hint="--auth-file FILE with USER:PASSWORD in it, or --address 127.0.0.1")
    if health.is_containerised():
        health.note(health.FOLDER, url=["127.0.0.1", port, "/healthcheck"])
    columns = "name,args,state,received,runtime,worker"  # of args: which bead each is about
    _run_celery(settings, ["flower", f"--address={address}", f"--port={port}", f"--tasks-columns={columns}"])


def _require_servers(settings: "Settings") -> None:
    """A fleet's database and broker are elsewhere; the embedded ones belong to `gastown up`. Raises UsageError."""
    from gastown.embedded import status
    from gastown.errors import UsageError

    embedded = [
        variable
        for variable, is_embedded in (
            ("GASTOWN_DATABASE_URL", settings.embedded_database),
            ("GASTOWN_BROKER_URL", settings.embedded_broker),
        )
        if is_embedded
    ]
    if embedded and not status.read(settings.home).alive:
        what = f"{' and '.join(embedded)} not set, and no gastown is up in {settings.home}"
        raise UsageError(what, hint="set them (docs/operations.md), or run everything on this machine: gastown up")


def _run_celery(settings: "Settings", arguments: "Sequence[str]") -> None:
    """Celery's own command, in this process: it handles signals and ends the process."""
    from gastown.celery_app import app as celery

    celery.start([*arguments, f"--loglevel={settings.log_level}"])


def _login(file: str) -> str:
    """USER:PASSWORD from the file. Raises UsageError."""
    from pathlib import Path

    from gastown.errors import UsageError

    try:
        login = Path(file).read_text().strip()
    except (OSError, ValueError) as error:
        raise UsageError(f"{file} cannot be read: {error}", hint="correct its path or its permissions") from error
    user, colon, password = login.partition(":")
    if not (user and colon and password) or "," in login or "\n" in login:
        raise UsageError(f"{file} holds no login", hint="write USER:PASSWORD into it, one line without a comma")
    return login


def _is_loopback(address: str) -> bool:
    from ipaddress import ip_address

    try:
        return ip_address(address.strip("[]")).is_loopback
    except ValueError:
        return address == "localhost"


def _say(line: str) -> None:
    typer.echo(line, err=True)
