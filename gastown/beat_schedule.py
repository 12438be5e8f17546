"""What beat asks for, and how often. Each message expires after one period: a backlog would only ask the same again."""

from typing import Any

EVERYWHERE = "*"  # instead of a node's name


def every(period_s: float, task: str, *args: str, queue: str = "control") -> dict[str, Any]:
    return {"task": task, "schedule": period_s, "args": args, "options": {"expires": period_s, "queue": queue}}


BEAT_SCHEDULE = {
    "reconcile": every(5, "gastown.reconcile"),
    "inspect": every(5, "gastown.inspect_containers"),
    "sweep": every(60, "gastown.inspect_containers", EVERYWHERE),
    "resync": every(300, "gastown.resync", queue="upkeep"),
    "housekeeping": every(3600, "gastown.housekeeping", queue="upkeep"),
    "tidying": every(3600, "gastown.housekeeping", EVERYWHERE, queue="upkeep"),
}
