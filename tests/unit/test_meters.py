"""Numbers that are counted, and how they are handed out."""

import math

from agent import catalogue
from agent.meters import Distribution, Histogram, Kind, Metric, Peak, Tally, merged

CALLS = Metric(name="calls_total", kind=Kind.COUNTER, help="Calls.", labels=("upstream", "outcome"))
TOOK = Metric(name="took_seconds", kind=Kind.HISTOGRAM, help="How long.", labels=("upstream",))


def test_a_tally_counts_known_labels_from_zero_on() -> None:
    tally = Tally(CALLS, known=[("a", "ok"), ("a", "failed")])

    tally.add("a", "ok")
    tally.add("a", "ok")
    tally.add("b", "ok")

    assert dict(tally.family().rows) == {("a", "ok"): 2, ("a", "failed"): 0, ("b", "ok"): 1}


def test_a_family_does_not_change_once_it_was_gathered() -> None:
    tally, histogram = Tally(CALLS), Histogram(TOOK, (1.0,))
    tally.add("a", "ok")
    histogram.observe(0.5, "a")
    before = (tally.family(), histogram.family())

    tally.add("a", "ok")
    histogram.observe(0.5, "a")

    assert before != (tally.family(), histogram.family())
    assert dict(before[0].rows) == {("a", "ok"): 1}


def test_a_histogram_counts_what_is_not_above_each_bound() -> None:
    histogram = Histogram(TOOK, (0.1, 1.0), known=[("idle",)])

    for value in (0.05, 0.1, 0.5, 30.0):
        histogram.observe(value, "a")

    rows = dict(histogram.family().rows)
    assert rows["a",] == Distribution(buckets=((0.1, 2), (1.0, 3), (math.inf, 4)), total=30.65)
    assert rows["idle",] == Distribution(buckets=((0.1, 0), (1.0, 0), (math.inf, 0)), total=0.0)


def test_a_peak_is_kept_for_one_to_two_windows_and_by_asking_nobody_takes_it_away() -> None:
    peak = Peak(60.0)

    peak.note(3.0, 1000.0)
    peak.note(1.0, 1030.0)

    assert [peak.largest(at) for at in (1030.0, 1059.9, 1060.0, 1119.9)] == [3.0] * 4
    peak.note(2.0, 1119.9)
    assert peak.largest(1120.0) == 2.0
    peak.note(9.0, 1121.0)
    assert peak.largest(1120.0 + 120.0) == 0.0, "nobody asked in between, and it is forgotten all the same"


def test_several_sources_of_one_metric_become_one_family() -> None:
    one, other = CALLS.of([(("a", "ok"), 1)]), CALLS.of([(("b", "ok"), 2)])
    between = catalogue.READY.being(1)

    families = merged([one, between, other])

    assert [family.metric for family in families] == [CALLS, catalogue.READY]
    assert families[0].rows == ((("a", "ok"), 1), (("b", "ok"), 2))


def test_the_catalogue_names_each_metric_once_as_prometheus_wants_it() -> None:
    """Units at the end, `_total` for counters alone (prometheus.io, metric and label naming)."""
    names = [metric.name for metric in catalogue.ALL]

    assert len(set(names)) == len(names)
    for metric in catalogue.ALL:
        assert metric.name.startswith("leasehold_")
        assert metric.name.endswith("_total") == (metric.kind is Kind.COUNTER)
        assert metric.help.endswith(".")
        assert not {"uid", "lease", "lease_id", "user", "username"} & set(metric.labels)
