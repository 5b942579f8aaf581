"""When a secret that nobody leases is looked at, as properties of the pure decisions."""

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.leases.polling import (
    CHASE,
    CHASE_CAP,
    CHASE_FLOOR,
    LEAD,
    LONGEST,
    PATIENCE,
    SETTLED,
    Look,
    Watch,
    chase_delay,
    seen,
    told_end,
)

U = st.floats(0, 1, exclude_max=True)
SECONDS = st.floats(0, 1e6) | st.sampled_from([math.inf, math.nan, -1.0, 0.0])
INTERVAL = st.floats(1, 1e5)


def look(version: str = "1", *, at: float, changes_in: float = math.inf, took: float = 0.0) -> Look:
    return Look(version=version, changes_in=changes_in, began=at, now=at + took)


@st.composite
def watches(draw: st.DrawFn, now: float = 1000.0) -> Watch:
    """What may be known at `now`."""
    missed = draw(st.just(math.inf) | st.floats(now - 300, now))
    return Watch(
        version=draw(st.sampled_from([None, "1", "2"])),
        edge=draw(st.floats(now - 1000, now + 1000) | st.just(math.inf)),
        missed=missed,
        tries=0 if missed == math.inf else draw(st.integers(1, 20)),
        look_at=draw(st.floats(now - 100, now + 100)),
    )


@given(watches(), SECONDS, INTERVAL, U, st.floats(0, 10))
def test_the_next_look_is_never_at_once_and_never_later_than_an_interval(
    before: Watch, changes_in: float, interval: float, u: float, took: float
) -> None:
    now = 1000.0 + took

    after = seen(before, look(at=1000.0, changes_in=changes_in, took=took), interval=interval, u=u)

    assert after.version == "1"
    if after.overdue:
        assert after.look_at == now, "its failure's backoff decides"
    else:
        assert not math.isnan(after.edge)
        assert now + CHASE_FLOOR <= after.look_at <= now + max(interval, CHASE_CAP)


@given(watches(), SECONDS, INTERVAL, U)
def test_a_change_ends_every_waiting(before: Watch, changes_in: float, interval: float, u: float) -> None:
    after = seen(before, look("new", at=1000.0, changes_in=changes_in), interval=interval, u=u)

    assert (after.missed, after.tries, after.overdue) == (math.inf, 0, False)
    assert after.look_at >= 1000.0 + min(SETTLED, 0.9 * interval)


@given(st.floats(0.1, 1e5), INTERVAL, U)
def test_an_edge_is_met_just_after_it_comes(changes_in: float, interval: float, u: float) -> None:
    after = seen(Watch(), look(at=0.0, changes_in=changes_in), interval=interval, u=u)

    assert 0.9 * interval <= after.look_at or changes_in + 0.1 <= after.look_at <= max(changes_in, 0.1) + SETTLED


@given(U)
def test_a_kv_is_looked_at_in_the_last_tenth_of_its_interval(u: float) -> None:
    after = seen(Watch(version="1"), look(at=0.0, took=3.0), interval=300.0, u=u)

    assert after.look_at == pytest.approx(3.0 + 270.0 + 30.0 * u)


@given(INTERVAL, U, st.booleans())
def test_a_change_that_stays_away_is_asked_for_at_growing_distances_for_a_minute(
    interval: float, u: float, announced: bool
) -> None:
    watch = Watch(version="1", edge=100.0, look_at=101.0)
    asked = [101.0]

    while True:
        at = watch.look_at
        says = 0.0 if announced else 5000.0
        watch = seen(watch, look(at=at, changes_in=says), interval=interval, u=u)
        if watch.missed == math.inf or watch.overdue:
            break
        asked.append(watch.look_at)

    assert [b - a for a, b in pairwise(asked)] == [0.5, 1, 2, 4, 8, 10, 10, 10, 10, 10]
    assert asked[-1] - asked[0] >= CHASE
    assert watch.overdue == announced


def test_after_a_long_absence_a_change_is_awaited_like_any_other() -> None:
    """The minute begins with the first look that misses it: over the edge nobody may have been able to look."""
    watch = Watch(version="1", edge=100.0)

    after = seen(watch, look(at=9000.0, changes_in=5000.0), interval=300.0, u=0.5)

    assert after.missed == 9000.0
    assert after.look_at == 9000.5


@given(st.integers(1, 10**6))
def test_the_delay_between_two_asks_is_bounded(tries: int) -> None:
    assert CHASE_FLOOR <= chase_delay(tries) <= CHASE_CAP
    assert chase_delay(tries) <= chase_delay(tries + 1)


@given(watches(), SECONDS, INTERVAL, U, st.none() | st.floats(0, 1e300))
def test_whatever_happens_readers_have_seconds_left(
    before: Watch, changes_in: float, interval: float, u: float, next_at: float | None
) -> None:
    after = seen(before, look(at=1000.0, changes_in=changes_in), interval=interval, u=u)

    end = told_end(after, 1000.0, next_at=next_at)

    assert LEAD < end - 1000.0 <= LONGEST + PATIENCE


def test_readers_are_told_of_the_edge_while_it_is_ahead_and_of_the_next_look_once_it_has_come() -> None:
    watch = Watch(version="1", edge=500.0, look_at=300.0)

    assert told_end(watch, 100.0) == 500.0
    assert told_end(watch, 500.0 - LEAD, next_at=501.0) == 501.0 + PATIENCE
    assert told_end(watch, 800.0, next_at=600.0) == 800.0 + PATIENCE
    assert told_end(Watch(version="1", look_at=300.0), 100.0) == 300.0 + PATIENCE
