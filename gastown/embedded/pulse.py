"""Loaded by a beat that runs in a container: shows the health check that it still sends."""

from typing import Any

from celery.signals import after_task_publish

from gastown.embedded import health


@after_task_publish.connect  # type: ignore[untyped-decorator]  # Celery has no types
def sent(**_: Any) -> None:
    (health.FOLDER / health.SENT).touch()
