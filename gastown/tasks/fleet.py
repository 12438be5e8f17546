"""A worker's place in the fleet: whether it may work on this database, of which node it is, and how it leaves.

What nodes are told is read only by workers that are of that node: another machine of the same name would start
attempts that nobody can look at, and would find absent those that run.
"""

import sys
import threading
import time
from functools import cache
from importlib.metadata import version as version_of
from typing import Any

import structlog
from celery.signals import celeryd_after_setup, worker_ready, worker_shutdown, worker_shutting_down
from sqlalchemy.orm import Session

from gastown import migrations, presets
from gastown.celery_app import NODE_MESSAGE_TTL_S, app, node_queue, watch_queue
from gastown.commands import membership, nodes
from gastown.commands.membership import Place, Standing
from gastown.containers import layered
from gastown.db import in_transaction
from gastown.errors import DatabaseUnavailable, GastownError, RuntimeUnavailable, SchemaTooNew, StartMisconfigured
from gastown.reconcile.actions import InspectContainers
from gastown.reconcile.fitting import ANY_PRESET, WITH_CONTAINERS
from gastown.runtimes import identity, registry
from gastown.settings import Settings, get_settings
from gastown.store import attempts, merges, upkeep
from gastown.store.workers import claimer
from gastown.tasks.base import poke, publish, send

log = structlog.get_logger()

NODE_BEAT_S = 10.0  # a node is lost after 45 s (policy.node_silence_s)
LEAVE_S = 5.0  # to say so, before the worker's process ends
DRAIN_S = 60.0  # for attempts to save their work when the last worker is stopped and they are to end
LOOK_S = 1.0


def this_place() -> Place:
    """This worker's runtime as it is now. Raises RuntimeUnavailable while nobody can say which engine it is."""
    settings = get_settings()
    contained = settings.runtime in WITH_CONTAINERS
    return Place(
        name=settings.node,
        runtime=settings.runtime,
        capacity=settings.node_capacity or _capacity(settings),
        identity=_identity(settings.runtime),
        version=_version(),
        labels=settings.node_labels,
        images=_images(settings) if contained else {},
    )


@cache
def _version() -> str:
    return f"{version_of('gastown')}, schema {migrations.head()}"


@cache
def _facts() -> dict[str, Any]:
    return identity.ask_engine(get_settings().docker.url)


def _identity(runtime: str) -> str | None:
    home = get_settings().home
    return identity.of_engine(_facts(), home) if runtime in WITH_CONTAINERS else identity.of_processes(home)


def identity_here() -> str | None:
    """Of this worker's node. None while nobody can say which engine it is."""
    try:
        return _identity(get_settings().runtime)
    except RuntimeUnavailable:
        return None


def _capacity(settings: Settings) -> int:
    most = upkeep.node_capacity()
    if settings.runtime not in WITH_CONTAINERS:
        return most
    return min(most, identity.room_for(_facts(), layered(settings.docker.container)))


def _images(settings: Settings) -> dict[str, str]:
    """By preset, what its attempts run in here when the rig says nothing. A preset's file may change at any time."""
    node = settings.docker.container
    found = {ANY_PRESET: str(node["image"])} if node.get("image") else {}
    for name in presets.list_presets(settings.home):
        try:
            image = layered(node, presets.load_preset(name, settings.home).layer).image
        except GastownError:
            continue  # its attempts fail with what is wrong
        if image is not None:
            found[name] = image
    return found


class Membership:
    """Of this worker in its node. It beats in a thread of its own, until the worker is asked to end."""

    def __init__(self, worker: str, queues: set[str]) -> None:
        self.worker, self.node = worker, get_settings().node
        self.queues = sorted(queues & {node_queue(self.node), watch_queue(self.node)})
        self.starts = node_queue(self.node) in queues
        self.refused: str | None = None
        self.consumer: Any = None
        self.stopping = threading.Event()
        self._rejoined, self._trouble = False, ""
        self._thread = threading.Thread(target=self.stay, name="fleet", daemon=True)

    def ask(self) -> bool:
        """Whether this worker is of its node at this moment. Raises GastownError when nobody can say."""
        place = this_place()
        standing = in_transaction(lambda session: self._stand(session, place))
        if standing.refused != self.refused:
            self.refused = standing.refused
            log.warning("node_refused" if self.refused else "node_joined", node=self.node, reason=self.refused)
        self._trouble = ""
        return self.refused is None

    def _stand(self, session: Session, place: Place) -> Standing:
        try:
            registry.check(place.runtime)
        except StartMisconfigured as error:
            return membership.refuse(session, place, self.worker, f"{error}; next: {error.hint}")
        return membership.beat(session, place, self.worker, starts=self.starts)

    def _note(self, error: GastownError) -> None:
        """Once for each trouble: it is asked again every second."""
        if str(error) != self._trouble:
            self._trouble = str(error)
            log.warning("node_beat_failed", node=self.node, error=str(error), hint=error.hint)

    def settle(self) -> bool:
        """The same before the worker reads anything. False, also when nobody can say: ask again."""
        try:
            return self.ask()
        except GastownError as error:
            self._note(error)
            return False

    def begin(self, consumer: Any) -> None:
        self.consumer = consumer
        self._thread.start()

    def stay(self) -> None:
        """Take up where this worker's predecessor left off, then show that the node is alive until the worker ends."""
        while not self.stopping.is_set() and not (self._rejoined and not self.queues):
            try:
                if self.queues:
                    self._read_queues(self.ask())
                if not self._rejoined and self.refused is None:
                    rejoin(self.worker, self.node if self.starts else None)
                    self._rejoined = True
            except GastownError as error:
                self._note(error)
            except Exception:  # without this thread the node is lost, and nothing starts on it any more
                log.exception("node_beat_raised", node=self.node)
            self.stopping.wait(NODE_BEAT_S if self._rejoined or self.refused else LOOK_S)
        if self.stopping.is_set() and self.starts and self.refused is None:
            self._leave()

    def _read_queues(self, admitted: bool) -> None:
        """As the broker's consumer has them now: it is made anew each time that the connection breaks."""
        reader: Any = None if self.consumer is None else self.consumer.task_consumer
        for name in self.queues if reader is not None else ():
            reading = reader.consuming_from(name)
            if admitted and not reading:
                self.consumer.call_soon(self.consumer.add_task_queue, name)
            elif reading and not admitted:
                self.consumer.call_soon(self.consumer.cancel_task_queue, name)

    def _leave(self) -> None:
        """Nothing more is placed on a node that has no other worker; what runs there goes on, unless told otherwise."""
        try:
            last = in_transaction(lambda session: membership.leave(session, self.node, self.worker))
            if last and get_settings().drain_on_stop:
                self._wind_down()
        except GastownError as error:
            log.warning("node_leave_failed", node=self.node, error=str(error))

    def _wind_down(self) -> None:
        """Attempts hear of it with their next heartbeat, save their work and say so."""
        deadline = time.monotonic() + DRAIN_S
        asked = in_transaction(
            lambda session: nodes.stop_attempts(session, self.node, actor=f"the end of {self.worker}")
        )
        log.info("node_drains", node=self.node, attempts=asked)
        while in_transaction(lambda session: nodes.count_live(session, self.node)):
            if time.monotonic() > deadline:
                log.warning("node_drain_unfinished", node=self.node)
                return
            time.sleep(LOOK_S)

    def end(self) -> None:
        """The worker's process ends after this."""
        self.stopping.set()
        if self._thread.is_alive():
            self._thread.join(LEAVE_S + (DRAIN_S if get_settings().drain_on_stop else 0.0))


_membership: Membership | None = None


@celeryd_after_setup.connect(weak=False)
def enter(sender: Any = None, **_: Any) -> None:
    """Before the worker reads a queue: those of a node that it is not of, or not yet, it does not read."""
    global _membership
    await_schema(sender)
    get_settings().home.mkdir(mode=0o700, parents=True, exist_ok=True)  # `celery worker` by hand made none yet
    _membership = Membership(sender, set(app.amqp.queues.consume_from))
    if _membership.queues and not _membership.settle():
        app.amqp.queues.deselect(_membership.queues)


@worker_ready.connect(weak=False)
def join_fleet(sender: Any = None, **_: Any) -> None:
    """A worker is there, perhaps again: nobody is at what it had claimed before. One that takes starts beats."""
    assert _membership is not None
    _membership.begin(sender)


@worker_shutting_down.connect(weak=False)
def leave_fleet(**_: Any) -> None:
    if _membership is not None:
        _membership.stopping.set()


@worker_shutdown.connect(weak=False)
def end_membership(**_: Any) -> None:
    if _membership is not None:
        _membership.end()


def await_schema(who: str) -> None:
    """Until the database is there and has the schema of this program. One that is too new for it ends the process."""
    said = ""
    while True:
        try:
            migrations.check()
        except SchemaTooNew as error:
            _note_refused(who, str(error))
            sys.stderr.write(f"gastown: {error} (next: {error.hint})\n")
            sys.exit(error.exit_code)
        except DatabaseUnavailable as error:
            if str(error) != said:
                said = str(error)
                log.warning("database_awaited", who=who, error=said, hint=error.hint)
            time.sleep(LOOK_S)
        else:
            return


def _note_refused(worker: str, why: str) -> None:
    """So that `gastown node list` and `why` say it too, if this program can still write that row."""
    try:
        in_transaction(lambda session: membership.note_refused(session, get_settings().node, worker, why))
    except Exception as error:  # noqa: BLE001 (it is a schema that nobody here knows)
        log.warning("refusal_not_noted", error=str(error))


def rejoin(worker: str, node: str | None) -> None:
    """A worker is back: nobody is inside the starts and merges that its earlier life had claimed."""
    doubted = in_transaction(lambda session: attempts.doubt_starts_of(session, claimer(worker)))
    in_transaction(lambda session: merges.expire_merges_of(session, claimer(worker)))
    if doubted and node is not None:
        publish(InspectContainers(node=node))
    poke()
    if node is not None:  # beat asks after an hour for the first time, and a laptop may never be up that long
        send("gastown.housekeeping", queue="upkeep", expires_s=NODE_BEAT_S)
        send("gastown.housekeeping", node, queue=watch_queue(node), expires_s=NODE_MESSAGE_TTL_S)
