"""`/metrics`: what the rest of the agent counts, in Prometheus' text format, or OpenMetrics where that is asked for.

Values are gathered on the loop, where they change; rendering, and the process's own figures from /proc, are a thread's
work. prometheus-client is imported there at the first scrape: an agent that nobody scrapes does not pay for it.
"""

import asyncio
import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from math import isinf
from typing import TYPE_CHECKING

from agent import catalogue
from agent.api.wire import WANTED, Response, error
from agent.clock import Clock
from agent.meters import Distribution, Family, Kind, merged
from agent.offload import in_daemon_thread

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric as Rendered

PATH = "/metrics"
_FRESH = 1.0
_TASKS = "/proc/self/task"


class Metrics:
    """Answers scrapes.

    One at a time, and for a second the same answer to all: whoever scrapes without end costs one rendering a second.

    Args:
        gather: everything that was counted so far; called on the loop.
    """

    def __init__(self, gather: Callable[[], Iterable[Family]], clock: Clock) -> None:
        self._gather = gather
        self._clock = clock
        self._turn = asyncio.Lock()
        self._last: dict[bool, tuple[float, Response]] = {}

    async def response(self, accept: bytes | None) -> Response:
        """All metrics, in the format that `accept` (an Accept header) asks for."""
        openmetrics = WANTED in (accept or b"").lower()
        async with self._turn:
            at, last = self._last.get(openmetrics, (float("-inf"), None))
            now = self._clock.now()
            if last is not None and 0 <= now - at < _FRESH:
                return last
            families = merged(self._gather())
            try:
                body, kind = await in_daemon_thread(lambda: render(families, openmetrics=openmetrics))
            except OSError as problem:
                return error(503, f"no metrics now: {problem.strerror}", ("Retry-After", "1"))
            response = Response(200, body, (("Content-Type", kind), ("Cache-Control", "no-store")))
            self._last[openmetrics] = (now, response)
            return response


def render(families: Iterable[Family], *, openmetrics: bool) -> tuple[bytes, str]:
    """`families` and the process's own figures as text, and its content type. Blocks: it reads /proc."""
    from prometheus_client.exposition import choose_encoder

    # Only these two words reach the library: it would repeat a client's version in its content type.
    encode, kind = choose_encoder(f"{WANTED.decode()}; version=1.0.0" if openmetrics else "")
    return encode(_Registry(families)), kind  # a registry is whatever can `collect`


class _Registry:
    """What prometheus-client asks for."""

    def __init__(self, families: Iterable[Family]) -> None:
        self._families = families

    def collect(self) -> "Iterator[Rendered]":
        """Each metric in the library's own classes."""
        from prometheus_client import ProcessCollector

        for family in self._families:
            yield _rendered(family)
        with contextlib.suppress(OSError):  # this system has no /proc
            yield _rendered(catalogue.THREADS.being(len(os.listdir(_TASKS))))
        yield from ProcessCollector(registry=None).collect()


def _rendered(family: Family) -> "Rendered":
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

    metric = family.metric
    if metric.kind is Kind.HISTOGRAM:
        histogram = HistogramMetricFamily(metric.name, metric.help, labels=metric.labels)
        for labels, value in family.rows:
            if isinstance(value, Distribution):
                buckets = [("+Inf" if isinf(bound) else str(bound), float(count)) for bound, count in value.buckets]
                histogram.add_metric(labels, buckets, value.total)
        return histogram
    kind = CounterMetricFamily if metric.kind is Kind.COUNTER else GaugeMetricFamily
    plain = kind(metric.name, metric.help, labels=metric.labels)
    for labels, value in family.rows:
        if not isinstance(value, Distribution):
            plain.add_metric(labels, value)
    return plain
