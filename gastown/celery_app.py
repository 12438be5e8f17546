"""The Celery app. Its broker carries hints only; each setting says why it is as it is (figures: docs/architecture.md).

How the commands of Celery itself behave with it: docs/celery.md.
"""

from typing import Any

import structlog
from celery import Celery
from celery.signals import setup_logging, task_postrun, task_prerun
from kombu import Queue

from gastown import brokers, logs
from gastown.beat_schedule import BEAT_SCHEDULE
from gastown.settings import settings_of_a_process

START_EXPIRES_S = 120  # a start that nobody took by then is rolled back (policy.queued_timeout_s)
SHARED_QUEUES = ("control", "upkeep", "merge")
NODE_QUEUE_TTL_S = 86_400  # RabbitMQ drops the queue of a node whose workers are gone for that long
NODE_MESSAGE_TTL_S = 300  # and what waits in it after this: longer than any message for a node is worth while
CONSUMER_TIMEOUT_S = 86_400  # a merge that a worker holds ready waits out the gates before it; RabbitMQ gives it 1800

settings = settings_of_a_process()
broker = brokers.parse(settings.broker)
app = Celery("gastown", broker=broker.url)


def node_queue(node: str) -> str:
    return f"node.{node}"


def watch_queue(node: str) -> str:
    """Of inspections: a start that hangs must keep nobody from asking the node what is there."""
    return f"watch.{node}"


def queue(name: str) -> Queue:
    """A queue bound to a key of its own: without one, Celery binds it to the default key.

    Whoever sends to it has to declare it in the same words as whoever reads it: RabbitMQ refuses others.
    """
    if broker.is_redis:
        return Queue(name, routing_key=name)
    if name.startswith((node_queue(""), watch_queue(""))):
        return Queue(name, routing_key=name, expires=NODE_QUEUE_TTL_S, message_ttl=NODE_MESSAGE_TTL_S)
    return Queue(name, routing_key=name, queue_arguments={"x-consumer-timeout": CONSUMER_TIMEOUT_S * 1000})


app.conf.update(
    # JSON only: a message can be made by hand, and can run no code
    accept_content=["json"],
    task_serializer="json",
    # nobody waits for results, and with a backend that is down the failure hooks are skipped
    result_backend=None,
    task_ignore_result=True,
    # acknowledged when taken, taken when a process is free: nothing waits in `unacked` for the visibility timeout, and
    # nothing runs twice when a connection breaks. What is lost, the reconciler sees in the rows.
    task_acks_late=False,
    worker_disable_prefetch=broker.is_redis,  # kombu can do it there only
    worker_prefetch_multiplier=1,
    # reconnecting never gives up while the stack restarts its broker
    broker_connection_retry_on_startup=True,
    broker_connection_retry=True,
    broker_connection_max_retries=None,
    broker_transport_options=broker.transport_options,
    broker_use_ssl=broker.tls,
    broker_connection_timeout=brokers.PUBLISH_TIMEOUT_S,
    # redis-py mends a connection that its server closed; one to RabbitMQ stays broken, for beat for ever, without this
    task_publish_retry=not broker.is_redis,
    task_publish_retry_policy={"max_retries": 1, "interval_start": 0, "interval_step": 0, "interval_max": 0},
    task_create_missing_queues=True,
    task_default_queue="control",
    task_queues=[queue(name) for name in (*SHARED_QUEUES, node_queue(settings.node), watch_queue(settings.node))],
    task_routes={"gastown.merge": {"queue": "merge", "routing_key": "merge"}},
    beat_schedule=BEAT_SCHEDULE,
    beat_max_loop_interval=5,
    beat_enable_remote_control=True,  # so that somebody can ask whether it is there
    # events are for Flower alone, which switches them on
    worker_send_task_events=False,
    worker_redirect_stdouts=False,
    timezone="UTC",
    imports=[
        "gastown.tasks.reconcile",
        "gastown.tasks.containers",
        "gastown.tasks.merge",
        "gastown.tasks.housekeeping",
        "gastown.tasks.fleet",
    ],
)

app.amqp.queues.new_missing = queue  # of another node, named by `-Q` or `--queue`: the broker holds who made it to it


@setup_logging.connect(weak=False)
def _set_up_logs(**_: Any) -> None:
    logs.configure(settings.log_level)


@task_prerun.connect(weak=False)
def _bind(task_id: str = "", task: Any = None, args: Any = (), **_: Any) -> None:
    """Every line that a task logs says which task it was, and what about."""
    structlog.contextvars.bind_contextvars(task=task.name, task_id=task_id, subject=next(iter(args or ()), None))


@task_postrun.connect(weak=False)
def _unbind(**_: Any) -> None:
    structlog.contextvars.clear_contextvars()
