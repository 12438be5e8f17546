"""One request of a person to the town: a transaction, and what is published after its commit."""

import logging
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from sqlalchemy import select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from gastown.commands import towns
from gastown.db import in_transaction, is_away
from gastown.embedded import control
from gastown.errors import DatabaseUnavailable, UsageError
from gastown.models import Town
from gastown.settings import get_settings

if TYPE_CHECKING:
    from gastown.reconcile.actions import Effect

T = TypeVar("T")

NO_SCHEMA = {"42P01", "42703", "3F000"}  # undefined table, column, schema


def ask_quietly(work: Callable[[Session, int], T]) -> T:
    """The same for reads that log what they cannot read: the answer says it in its own words."""
    with without_log_lines():
        return ask(work)


def ask(work: Callable[[Session, int], T]) -> T:
    """Run `work` with a session and the id of the town, in one transaction.

    Raises DatabaseUnavailable when Postgres is away, busy or not Gastown's, UsageError for text that is no text.
    """
    try:
        return in_transaction(lambda session: work(session, town_of(session)))
    except DatabaseUnavailable as error:
        if not is_away(error):
            raise
        raise _explained(error) from error
    except UnicodeEncodeError as error:
        raise UsageError("some of the text is not valid UTF-8", hint="look at what was typed or piped in") from error
    except DBAPIError as error:
        state = getattr(error.orig, "sqlstate", None)
        if state in NO_SCHEMA:
            what = "the database does not have the schema of this version of gastown"
            raise DatabaseUnavailable(what, hint="gastown db upgrade") from error
        raise


def _explained(error: DatabaseUnavailable) -> DatabaseUnavailable:
    """Why Postgres does not answer: ours is not started, or somebody else's is away."""
    settings = get_settings()
    if not settings.embedded_database:
        return DatabaseUnavailable(str(error), hint="start it, or correct database_url: gastown config show")
    now = control.read_status(settings)
    if now.alive:
        return DatabaseUnavailable(f"{error} (the stack is {now.state})", hint="gastown status")
    return DatabaseUnavailable(f"the stack of {settings.home} is not up", hint="gastown up")


def town_of(session: Session) -> int:
    """The id of the town that commands speak of; it is made on first use."""
    name = get_settings().town
    found = session.scalar(select(Town.id).where(Town.name == name))
    return towns.ensure_town(session, name) if found is None else found


def publish_after(effects: "Iterable[Effect]" = ()) -> None:
    """Tell the workers, after the commit. With the broker away nothing is lost, and one line says so."""
    from gastown.tasks.base import poke, publish

    with without_log_lines():
        told = all([*(publish(effect) for effect in effects), poke()])
    if not told:
        sys.stdout.flush()
        sys.stderr.write("note: the broker is away, so the next tick picks this up (gastown status)\n")


@contextmanager
def without_log_lines() -> Iterator[None]:
    """Log lines are for services; a command says what matters in its own words."""
    import structlog  # a read needs none of it, and it takes its time

    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    try:
        yield
    finally:
        structlog.configure(**before)
