"""Starting, stopping and inspecting attempts. The hooks make recovery fast; inspection and leases make it certain."""

from typing import Any
from uuid import UUID

import structlog
from celery import Task
from celery.signals import task_failure

from gastown.agent import credentials
from gastown.beat_schedule import EVERYWHERE
from gastown.celery_app import app, node_queue, watch_queue
from gastown.commands import described
from gastown.db import in_transaction, transaction
from gastown.errors import GastownError, NotFound, RuntimeUnavailable, StartMisconfigured, StartRefused, UsageError
from gastown.reconcile.actions import InspectContainers
from gastown.refinery.repository import local_path
from gastown.runtimes import RunSpec, Runtime, Status, registry
from gastown.settings import get_settings
from gastown.states import FailureCode
from gastown.store import attempts, claims, reads, sightings
from gastown.store.attempts import StartOrder
from gastown.store.workers import claimer
from gastown.tasks.base import id_of, poke, publish, send, uuid_of
from gastown.tasks.fleet import identity_here

log = structlog.get_logger()

STOP_GRACE_S = 20.0  # the supervisor gives its agent 10 s, then saves WIP and pushes it for up to 8 s


def describe(error: BaseException) -> str:
    words = str(error).strip()
    said = f"{type(error).__name__}: {words}" if words else type(error).__name__
    hint = error.hint if isinstance(error, GastownError) else ""
    return f"{said}; next: {hint}" if hint else said


class StartTask(Task):  # type: ignore[misc]
    """A start that reports its own failure. Whether to try again is for the rules to say (L9)."""

    max_retries = 0

    def on_failure(self, exc: Exception, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        """In the child when the body raised; in the parent when the hard time limit struck."""
        dispatch_id = uuid_of(id_of(args, kwargs))
        if isinstance(exc, StartRefused):
            unusable = isinstance(exc, StartMisconfigured)
            give_up(dispatch_id, FailureCode.CONTAINER_UNUSABLE if unusable else FailureCode.START_ERROR, describe(exc))
        else:
            doubt(dispatch_id)

    def on_success(self, retval: Any, task_id: str, args: Any, kwargs: Any) -> None:
        if not retval:
            give_up(uuid_of(id_of(args, kwargs)), FailureCode.START_REFUSED, "the runtime did not take it")


@task_failure.connect(weak=False)
def start_died(sender: Any = None, exception: Any = None, args: Any = None, kwargs: Any = None, **_: Any) -> None:
    """A pool child was killed inside a start: Celery calls no on_failure for that, only this, in the parent."""
    if isinstance(sender, StartTask) and not isinstance(exception, StartRefused):
        doubt(uuid_of(id_of(tuple(args or ()), dict(kwargs or {}))))


def give_up(dispatch_id: UUID, code: FailureCode, message: str) -> None:
    """Nothing started, for certain: rolled back, and the next tick is asked for at once."""
    if in_transaction(lambda session: attempts.roll_back(session, dispatch_id, code, message)):
        poke()


def doubt(dispatch_id: UUID) -> None:
    """Nobody knows whether it started: its node is asked."""
    node = in_transaction(lambda session: attempts.doubt_start(session, dispatch_id))
    if node is not None:
        publish(InspectContainers(node=node))


@app.task(name="gastown.start_container", base=StartTask, bind=True, soft_time_limit=60, time_limit=90)
def start_container(self: Any, dispatch_id: str) -> bool:
    """Start the attempt, if nobody else has and it is still wanted. Falsy: the runtime refused it.

    Raises StartRefused when nothing started for certain, StartMisconfigured when nothing will. An unknown outcome stays
    `starting` and is settled by inspection, because a start reported as failed has sometimes succeeded.
    """
    key = uuid_of(dispatch_id)
    worker, identity = claimer(self.request.hostname or ""), identity_here()
    order = in_transaction(lambda session: attempts.claim_start(session, key, worker, identity))
    if order is None:
        log.info("start_not_ours", dispatch=dispatch_id)
        return True
    runtime = _runtime(order)
    spec = _spec(order)
    try:
        handle = runtime.start(spec)
    except StartRefused:
        raise
    except Exception as error:
        log.warning("start_raised", dispatch=dispatch_id, error=describe(error))
        if not _is_present(runtime, key, error):
            raise StartRefused(f"the start raised {describe(error)}") from error
        handle = None
    else:
        if handle is None:
            return False
    if not in_transaction(lambda session: attempts.end_start_call(session, key, handle.pid if handle else None)):
        log.info("start_fenced", dispatch=dispatch_id)
        runtime.stop(str(key), grace_s=STOP_GRACE_S)
    return True


def _runtime(order: StartOrder) -> Runtime:
    try:
        return registry.get(order.runtime)
    except NotFound as error:
        raise StartMisconfigured(str(error), hint=error.hint) from error


def _spec(order: StartOrder) -> RunSpec:
    try:
        container = described.container(order.preset, order.container)
    except UsageError as error:
        raise StartMisconfigured(str(error), hint=error.hint) from error
    path = local_path(order.repository)
    return RunSpec(
        name=str(order.dispatch_id),
        bead_id=order.bead_id,
        epoch=order.epoch,
        api_url=get_settings().agent_url_from(order.runtime, get_settings().network_of(container.network)),
        token=order.token,
        git_token=_git_token(),
        rig_id=order.rig_id,
        reads=() if path is None else (path,),
        container=container,
    )


def _git_token() -> str:
    path = get_settings().git_token_file
    try:
        return "" if path is None else credentials.token_in(path)
    except (OSError, ValueError) as error:
        raise StartMisconfigured(f"there is no token for git: {error}", hint=f"mend {path} on this node") from error


def _is_present(runtime: Runtime, dispatch_id: UUID, error: Exception) -> bool:
    """Whether a start that raised is there after all. Where nobody can look, it stays in doubt: the caller raises."""
    try:
        return runtime.inspect(str(dispatch_id)).present
    except RuntimeUnavailable:
        raise error from None


@app.task(name="gastown.stop_container", max_retries=0, soft_time_limit=60, time_limit=90)
def stop_container(dispatch_id: str) -> None:
    """End an attempt that is fenced. One that is live or may be adopted is never touched."""
    key = uuid_of(dispatch_id)
    with transaction() as session:
        runtime_name = reads.runtime_of_fenced(session, key)
    if runtime_name is not None:
        registry.get(runtime_name).stop(dispatch_id, grace_s=STOP_GRACE_S)


@app.task(name="gastown.inspect_containers", max_retries=0, soft_time_limit=30, time_limit=40)
def inspect_containers(node: str | None = None, sweep: bool = False) -> None:
    """Write down what is there of a node's live attempts; with `sweep`, end what is fenced.

    None: a message for each node with work. "*": one with `sweep` for every node, since what is fenced may be all that
    runs there. Not more often: each stop can hold a process of the pool for STOP_GRACE_S, and starts need them too.
    """
    if node is None or node == EVERYWHERE:
        with transaction() as session:
            nodes = reads.busy_nodes(session) if node is None else reads.beating_nodes(session)
        for each in nodes:
            if node is None:
                publish(InspectContainers(node=each))
            else:
                send("gastown.inspect_containers", each, True, queue=watch_queue(each), expires_s=STOP_GRACE_S)
        return
    identity = identity_here()
    with transaction() as session:
        began = claims.clock(session)
        live = sightings.inspectable(session, node, identity)
    news, gone = [], False
    for sought in live:
        status = _look(registry.get(sought.runtime), sought.dispatch_id)
        if status is not None and not status.present:
            gone |= _note(sought.dispatch_id, began, status)
        elif status is not None and not sought.known_present:
            news.append(sought.dispatch_id)
    if news:
        in_transaction(lambda session: sightings.note_present(session, news, began))
    if gone:
        poke()
    if sweep:
        _sweep(node)


def _look(runtime: Runtime, dispatch_id: UUID) -> Status | None:
    try:
        return runtime.inspect(str(dispatch_id))
    except GastownError as error:
        log.warning("inspect_failed", dispatch=str(dispatch_id), error=str(error))
        return None


def _note(dispatch_id: UUID, began: Any, status: Status) -> bool:
    return in_transaction(
        lambda session: attempts.note_seen(session, dispatch_id, began, status.present, status.exit_code, status.oom)
    )


def _sweep(node: str) -> None:
    """Stop messages are hints; this makes them certain: what runs here and is fenced is ended."""
    with transaction() as session:
        runtime_name = reads.runtime_of_node(session, node)
    if runtime_name is None:
        return
    names = registry.get(runtime_name).list_names()
    ours = {key: name for name in names if (key := _dispatch_of(name)) is not None}
    with transaction() as session:
        fenced = reads.named_beads(session, reads.fenced_among(session, ours))
    for key, bead in fenced.items():
        send("gastown.stop_container", ours[key], queue=node_queue(node), expires_s=60, about=bead)


def _dispatch_of(name: str) -> UUID | None:
    """A name is what a process says of itself: one that is no dispatch of ours is left alone."""
    try:
        return uuid_of(name)
    except UsageError:
        return None
