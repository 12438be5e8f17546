"""gastown config and gastown db: what the settings are and where they came from; the schema."""

import json
import os
import re
import tomllib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from pydantic import BaseModel

app = typer.Typer()
config = typer.Typer(no_args_is_help=True, help="The settings.")
db = typer.Typer(no_args_is_help=True, help="The database.")
app.add_typer(config, name="config")
app.add_typer(db, name="db")

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Backup = Annotated[bool, typer.Option(help="Dump the database into the home's backups first.")]
_PASSWORD = re.compile(r"(?<=://)([^/@]*?):[^/]*@")
_PARAMETER = re.compile(r"(?i)([?&](?:password|sslpassword)=)[^&]*")


def masked(url: str) -> str:
    """A URL without its password."""
    return _PARAMETER.sub(r"\1***", _PASSWORD.sub(r"\1:***@", url))


@config.command()
def show(as_json: AsJson = False) -> None:
    """List every setting, its value, and where that came from: default, file, environment, or set for town or rig."""
    from gastown import settings

    rows = [*_rows(settings.get_settings(), "", _in_file()), *_rows_of_town(list(_policy_rows()), quiet=as_json)]
    if as_json:
        typer.echo(json.dumps([dict(zip(("setting", "value", "source"), row, strict=True)) for row in rows], indent=2))
        return
    name_width = max(len(name) for name, _, _ in rows)
    value_width = min(60, max(len(_shown(value)) for _, value, _ in rows))
    for name, value, source in rows:
        typer.echo(f"{name:<{name_width}}  {_shown(value):<{value_width}}  {source}")


@db.command()
def upgrade(backup: Backup = True) -> None:
    """Migrate the database to this version's schema. `gastown up` does it by itself."""
    from gastown.embedded import control, prepare
    from gastown.errors import DatabaseUnavailable
    from gastown.settings import get_settings

    settings = get_settings()
    if settings.embedded_database and not control.read_status(settings).alive:
        raise DatabaseUnavailable("the embedded Postgres is not running", hint="gastown up, which migrates by itself")
    changed = prepare.prepare_database(settings, backup=backup)
    typer.echo("the database is migrated" if changed else "the database is up to date")


Row = tuple[str, Any, str]


def _rows(model: "BaseModel", prefix: str, in_file: dict[str, Any]) -> Iterator[Row]:
    from pydantic import BaseModel

    for name in type(model).model_fields:
        value = getattr(model, name)
        if isinstance(value, BaseModel):
            inner = in_file.get(name)
            yield from _rows(value, f"{prefix}{name}.", inner if isinstance(inner, dict) else {})
        elif name != "policy":
            yield f"{prefix}{name}", _plain(value), _source(f"{prefix}{name}", name in in_file)


def _policy_rows() -> Iterator[Row]:
    """The numbers of the rules, each with the source of its override."""
    from dataclasses import asdict

    from gastown.reconcile.policy import Policy
    from gastown.settings import get_settings

    given = get_settings().policy
    in_file = _in_file().get("policy", {})
    for name, value in asdict(Policy.of(given)).items():
        inherited = _source("policy", name in in_file) if name in given else "default"
        yield f"policy.{name}", _plain(value), inherited if _variable(f"policy.{name}") is None else "environment"


def _rows_of_town(rows: list[Row], *, quiet: bool) -> list[Row]:
    """With the numbers that were set for the town instead, and those that were set for a rig beside them."""
    from sqlalchemy.orm import Session

    from gastown.cli.ask import ask
    from gastown.errors import DatabaseUnavailable
    from gastown.models import Town
    from gastown.store import policies, rigs

    def read(session: Session, town_id: int) -> tuple[Any, list[tuple[str, Any]], list[str]]:
        of_rigs = [(rig.name, own) for rig, own in rigs.policies_of(session, town_id)]
        wrong = policies.load_policies(session, town_id).wrong
        return session.get_one(Town, town_id).policy, of_rigs, sorted(wrong.values())

    try:
        of_town, of_rigs, wrong = ask(read)
    except DatabaseUnavailable as error:
        if not quiet:
            typer.echo(f"note: numbers that were set for the town or a rig are left out: {error}", err=True)
        return rows
    for fault in wrong:
        typer.echo(f"warning: nothing is started there: {fault}", err=True)
    found = []
    for name, value, source in rows:
        key = name.removeprefix("policy.")
        set_for_town = isinstance(of_town, dict) and key in of_town
        found.append((name, of_town[key], "town") if set_for_town else (name, value, source))
        of_rig = [(rig, own) for rig, own in of_rigs if isinstance(own, dict) and key in own]
        found += [(name, own[key], f"rig {rig}") for rig, own in of_rig]
    return found


def _source(name: str, is_in_file: bool) -> str:
    variable = _variable(name)
    if variable is not None:
        return f"environment ({variable})"
    return "file (gastown.toml)" if is_in_file else "default"


def _variable(name: str) -> str | None:
    """The variable that sets it; variables are read whatever their case."""
    wanted = "gastown_" + name.replace(".", "__")
    return next((variable for variable in os.environ if variable.lower() == wanted), None)


def _in_file() -> dict[str, Any]:
    from gastown.settings import config_file

    try:
        return tomllib.loads(config_file().read_text())
    except FileNotFoundError:
        return {}


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return masked(value)
    return value if isinstance(value, bool | int | float | list | tuple | None) else str(value)


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
