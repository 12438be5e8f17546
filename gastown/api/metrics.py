"""Numbers for Prometheus, read from rows when they are asked for: they are those of all processes."""

from collections.abc import Iterator

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from gastown.db import transaction
from gastown.store import counters, resync
from gastown.store.gauges import COUNTED, Gauges, read_gauges

router = APIRouter()


@router.get("/metrics")
def metrics() -> Response:
    """503 by way of DatabaseUnavailable when Postgres is away."""
    with transaction() as session:
        now = read_gauges(session)
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Rows(now))
    return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)


class _Rows(Collector):
    def __init__(self, now: Gauges) -> None:
        self._now = now

    def collect(self) -> Iterator[Metric]:
        yield from _counted(self._now.counters)
        yield from _measured(self._now)


def _counted(found: dict[str, int]) -> Iterator[Metric]:
    """What ought to stay 0."""
    corrected = CounterMetricFamily(
        "gastown_resync_corrected", "Beads that no wake-up had reached, by what was forgotten.", labels=["reason"]
    )
    for reason in resync.REASONS:
        corrected.add_metric([reason], found.get(counters.RESYNC + reason, 0))
    yield corrected
    for name, meaning in (
        (counters.INVARIANTS_BROKEN, "Times that a resync found an invariant broken."),
        (counters.RULE_ERRORS, "Decisions that failed because a rule raised."),
        (counters.ROWS_UNREADABLE, "Beads that were put off because a row of theirs could not be read."),
    ):
        yield CounterMetricFamily(f"gastown_{name}", meaning, value=found.get(name, 0))


def _measured(now: Gauges) -> Iterator[Metric]:
    live = GaugeMetricFamily("gastown_live_attempts", "Attempts that are live.", labels=["status"])
    for status, number in now.live.items():
        live.add_metric([status], number)
    yield live
    for name, meaning, value in (
        ("ready_beads", f"Beads that only a slot is missing to; {COUNTED} stands for more.", now.ready),
        ("due_lag_seconds", "How long the bead that is due for longest has waited for a tick.", now.due_lag_s),
        ("open_escalations", "Requests that wait for a person.", now.escalations),
        ("breakers_open", "Towns whose breaker is open.", now.breakers_open),
        ("towns_paused", "Towns that somebody paused.", now.towns_paused),
        ("nodes_alive", "Nodes that have shown themselves of late.", now.nodes_alive),
    ):
        yield GaugeMetricFamily(f"gastown_{name}", meaning, value=value)
    if now.api_age_s is not None:
        meaning = "Since the API last wrote that it is alive: without that, no lease runs out."
        yield GaugeMetricFamily("gastown_api_alive_age_seconds", meaning, value=now.api_age_s)
