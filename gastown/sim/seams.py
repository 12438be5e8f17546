"""Where the simulation takes the place of the outside, for as long as it runs. Everything else is the product."""

from collections.abc import Iterator
from contextlib import contextmanager
from random import Random
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import structlog

from gastown import db
from gastown.celery_app import app
from gastown.commands import reviews
from gastown.refinery import merging
from gastown.runtimes import registry
from gastown.sim.workers import SimLease
from gastown.store import draws
from gastown.tasks import mending, merge, reconcile, shutdown

if TYPE_CHECKING:
    from gastown.sim.world import World


@contextmanager
def replaced(changes: list[tuple[Any, str, Any]]) -> Iterator[None]:
    """Each attribute has another value, until the end."""
    before = [(owner, name, getattr(owner, name)) for owner, name, _value in changes]
    for owner, name, value in changes:
        setattr(owner, name, value)
    try:
        yield
    finally:
        for owner, name, value in reversed(before):
            setattr(owner, name, value)


@contextmanager
def installed(world: "World") -> Iterator[None]:
    """The product runs in this world."""
    stage, targets = world.stage, world.targets

    def engine_of(_pid: int) -> Any:
        """Before each transaction, something else may happen; and a machine that is cut off reaches nothing."""
        actor = stage.current
        if actor is not None:
            world.before_transaction(actor)
        return world.server.engine

    changes: list[tuple[Any, str, Any]] = [
        (db, "_engine_of", engine_of),
        (app, "send_task", world.broker.send_task),
        (app.amqp, "send_task_message", world.broker.send_task_message),
        (app, "producer_or_acquire", world.broker.producer_or_acquire),
        (registry, "FACTORIES", dict.fromkeys(registry.FACTORIES, lambda: world.runtime)),
        (merging, "prepare", targets.prepare),
        (merging, "prepare_batch", targets.prepare_batch),
        (merging, "push", targets.push),
        (merging, "land", targets.land),
        (merging, "contains", targets.contains),
        (merging, "stage", targets.stage_commit),
        (merging, "release", targets.release),
        (merge, "Lease", lambda order: SimLease(world, order)),
        (mending, "reads", lambda preset, home: world.chances.mood.mends),
        (reviews, "reads", lambda preset, home: world.chances.mood.mends),
        (shutdown, "is_near", world.is_shutting_down),
        (draws, "source", Random(world.seed)),
    ]
    if hasattr(reconcile, "time"):
        seconds = SimpleNamespace(monotonic=lambda: world.now.timestamp())
        changes.append((reconcile, "time", seconds))
    config = structlog.get_config()
    with replaced(changes):
        registry.get.cache_clear()
        structlog.configure(processors=[world.on_log], cache_logger_on_first_use=False)
        try:
            yield
        finally:
            structlog.configure(**config)
            registry.get.cache_clear()
