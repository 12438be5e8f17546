"""Structured logs: one line an event on standard error, static event names, ids as fields."""

import logging
import sys

import structlog

# Each says something every few seconds when nothing is going on. What matters of it, our own events and Flower say.
CHATTY = {
    "celery.worker.strategy": logging.WARNING,  # "Task received"
    "celery.app.trace": logging.WARNING,  # "Task succeeded"
    "celery.beat": logging.WARNING,  # "Sending due task"
    "alembic": logging.WARNING,
    "httpx": logging.WARNING,
    "uvicorn.access": logging.WARNING,
}


def configure(level: str) -> None:
    """For this process: ours and the libraries' lines in one form. `level` is a name such as INFO."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                structlog.processors.LogfmtRenderer(key_order=["timestamp", "level", "event"], bool_as_flag=False),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for name, quiet in CHATTY.items():
        logging.getLogger(name).setLevel(max(quiet, logging.getLevelName(level)))
