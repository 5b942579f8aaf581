"""The soak's verdict can be bad: half an hour that proves nothing is worse than none."""

import random
from dataclasses import replace

from bench.estate import Sample
from bench.soak import FEW, Moment, faults, slope

SAMPLE = Sample(cpu=0.0, rss=62.0, pss=45.0, descriptors=23, threads=3, tasks=14)


def half_an_hour(**growing: float) -> list[Moment]:
    """A row a minute; `growing` is what each field of the sample gains per minute, on top of what comes and goes."""
    noise = random.Random(7)  # noqa: S311 - a seed makes the test repeatable
    moments = []
    for minute in range(31):
        grown = {name: int(per * minute) for name, per in growing.items() if name != "rss"}
        busy = noise.choice((0, 0, 1))
        sample = replace(
            SAMPLE,
            rss=SAMPLE.rss + noise.random() * 0.05 + growing.get("rss", 0.0) * minute,
            descriptors=SAMPLE.descriptors + busy + grown.get("descriptors", 0),
            threads=SAMPLE.threads + busy + grown.get("threads", 0),
            tasks=SAMPLE.tasks + busy + grown.get("tasks", 0),
        )
        moments.append(Moment(at=minute * 60.0, sample=sample, users=3 + busy, reads=0, logins=0, failed=0))
    return moments


def test_what_comes_and_goes_is_flat() -> None:
    assert faults(half_an_hour(), []) == []


def test_memory_that_grows_by_two_mebibytes_an_hour_is_named() -> None:
    (line,) = faults(half_an_hour(rss=2 / 60), [])

    assert line.startswith("RSS grows by 1.98 ")


def test_what_leaks_one_in_five_minutes_is_named() -> None:
    lines = faults(half_an_hour(descriptors=0.2, threads=0.2, tasks=0.2), [])

    assert [line.split()[0] for line in lines] == ["descriptors", "threads", "tasks"]


def test_a_failed_login_and_users_that_pile_up_are_named() -> None:
    moments = [*half_an_hour(), replace(half_an_hour()[-1], users=FEW + 1)]

    lines = faults(moments, ["12.3 file: refused", "12.5 file: refused"])

    assert lines[0] == "2 reads or logins failed, the first: 12.3 file: refused"
    assert f"{FEW + 1} database users" in lines[1]


def test_a_run_too_short_for_a_slope_has_none() -> None:
    assert slope(half_an_hour()[:4]) == (0.0, 0.0)
