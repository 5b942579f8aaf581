"""Counters, histograms and peaks: numbers that cost next to nothing to move. No library, no clock, no I/O.

Every label's values are bounded by the configuration or by the code (roles, upstreams, outcomes); never a uid, a lease
id or a user name. What is exposed is described once, in `agent.catalogue`, and rendered by `agent.api.metrics`.
"""

import bisect
import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

Labels = tuple[str, ...]


class Kind(StrEnum):
    """What a metric's values mean, in Prometheus' words."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, kw_only=True)
class Metric:
    """The description of a metric.

    Attributes:
        name: with its unit at the end, counters with `_total` after it.
        help: one sentence for people.
        labels: names, in the order of every row's values.
    """

    name: str
    kind: Kind
    help: str
    labels: Labels = ()

    def of(self, rows: Iterable["Row"]) -> "Family":
        """The metric with these values."""
        return Family(metric=self, rows=tuple(rows))

    def being(self, value: float) -> "Family":
        """A metric without labels with this value."""
        return Family(metric=self, rows=(((), value),))


@dataclass(frozen=True, kw_only=True)
class Distribution:
    """What a histogram has seen.

    Attributes:
        buckets: upper bound and how many values were not above it; the last bound is infinite.
        total: sum of all values.
    """

    buckets: tuple[tuple[float, int], ...]
    total: float


Row = tuple[Labels, float | Distribution]


@dataclass(frozen=True, kw_only=True)
class Family:
    """A metric with its values at one moment."""

    metric: Metric
    rows: tuple[Row, ...]


def merged(families: Iterable[Family]) -> list[Family]:
    """The same values with one family per metric: several listeners count the same things."""
    rows: dict[Metric, tuple[Row, ...]] = {}
    for family in families:
        rows[family.metric] = rows.get(family.metric, ()) + family.rows
    return [Family(metric=metric, rows=each) for metric, each in rows.items()]


class Tally:
    """A counter per set of labels.

    Args:
        known: label values that count from zero on, so that the first event is seen as an increase.
    """

    def __init__(self, metric: Metric, known: Iterable[Labels] = ()) -> None:
        self._metric = metric
        self._counts: dict[Labels, int] = dict.fromkeys(known, 0)

    def add(self, *labels: str) -> None:
        """Count one event."""
        self._counts[labels] = self._counts.get(labels, 0) + 1

    def family(self) -> Family:
        """All counts as they are now."""
        return self._metric.of(self._counts.items())


class Histogram:
    """A distribution per set of labels.

    Args:
        bounds: upper bounds of the buckets, growing; an infinite one comes after them.
        known: label values that are shown from the start.
    """

    def __init__(self, metric: Metric, bounds: tuple[float, ...], known: Iterable[Labels] = ()) -> None:
        self._metric = metric
        self._bounds = bounds
        self._counts: dict[Labels, list[int]] = {}
        self._totals: dict[Labels, float] = {}
        for labels in known:
            self._begin(labels)

    def _begin(self, labels: Labels) -> list[int]:
        self._totals[labels] = 0.0
        self._counts[labels] = counts = [0] * (len(self._bounds) + 1)
        return counts

    def observe(self, value: float, *labels: str) -> None:
        """Take one value in."""
        counts = self._counts.get(labels) or self._begin(labels)
        counts[bisect.bisect_left(self._bounds, value)] += 1
        self._totals[labels] += value

    def family(self) -> Family:
        """All distributions as they are now."""
        bounds = (*self._bounds, float("inf"))
        return self._metric.of(
            (
                labels,
                Distribution(
                    buckets=tuple(zip(bounds, itertools.accumulate(counts), strict=True)), total=self._totals[labels]
                ),
            )
            for labels, counts in self._counts.items()
        )


class Peak:
    """The largest value of the last one to two windows: however often it is asked, nobody takes it from another.

    Args:
        window: seconds.
    """

    def __init__(self, window: float) -> None:
        self._window = window
        self._began_at = float("-inf")
        self._present = 0.0
        self._last = 0.0

    def note(self, value: float, now: float) -> None:
        """Take one value in."""
        self._turn(now)
        self._present = max(self._present, value)

    def largest(self, now: float) -> float:
        """The largest value lately; 0.0 where there was none."""
        self._turn(now)
        return max(self._present, self._last)

    def _turn(self, now: float) -> None:
        age = now - self._began_at
        if age < self._window:
            return
        self._last = self._present if age < 2 * self._window else 0.0
        self._present = 0.0
        self._began_at = now
