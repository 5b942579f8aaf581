"""Static roles: the upstream rotates them, and says when; the old password is dead from that instant on."""

from itertools import pairwise

import pytest

from agent.errors import CredentialRefused, Forbidden, Unavailable
from agent.leases.cache import Phase
from agent.leases.polling import PATIENCE
from tests.fakes import FakeClock
from tests.unit.leases.pollers import ROLE, FakeSource, Rig

DAY = 86_400.0
DOWN = Unavailable("down", unreachable=True)


def static(clock: FakeClock, source: FakeSource, **fields: object) -> Rig:
    return Rig(clock, source, kind="static", **fields)  # type: ignore[arg-type]


async def test_each_rotation_is_published_within_two_seconds(clock: FakeClock) -> None:
    rig = static(clock, FakeSource(clock, period=3600))

    async with rig.running():
        for n in range(1, 24):
            await clock.advance(3600 - (clock.now() - rig.source.born) % 3600 - 0.5)
            assert rig.password == f"password 1.{n - 1}"
            await clock.advance(2.6)
            assert rig.password == f"password 1.{n}"

    assert rig.cache.counts(ROLE).published == 24


async def test_a_fleet_does_not_ask_in_the_same_second(clock: FakeClock) -> None:
    asked = []
    for n in range(60):
        rig = static(clock, FakeSource(clock, period=3600), interval=DAY, seed=n)
        async with rig.running():
            await clock.advance(3600 + 3)
        asked.append(rig.source.looks[1][0] - rig.source.born - 3600)

    assert 0.1 <= min(asked) < 0.4
    assert 1.6 < max(asked) <= 2.0


async def test_a_reader_is_told_of_the_time_to_the_rotation(clock: FakeClock) -> None:
    rig = static(clock, FakeSource(clock, period=3600), interval=300)

    async with rig.running():
        for _ in range(300):
            left = 3600 - (clock.now() - rig.source.born) % 3600
            if 10 < left < 3590:
                assert abs(rig.remaining - left) < 1e-6
            assert 1 < rig.remaining <= 3600 + 2 * PATIENCE
            await clock.advance(35.9)


@pytest.mark.parametrize("lag", [1.0, 5.0, 20.0, 50.0])
@pytest.mark.parametrize("resets_early", [False, True])
async def test_a_rotation_that_comes_late_is_awaited(clock: FakeClock, lag: float, resets_early: bool) -> None:
    """hashicorp/vault#31918: the ttl may begin anew before the password has changed."""
    rig = static(clock, FakeSource(clock, period=3600, lag=lag, resets_early=resets_early), interval=DAY)

    async with rig.running():
        await clock.advance(3600 + lag + 10.1)
        assert rig.password == "password 1.1"
        assert rig.served is not None
        assert not rig.served.stale
        edge = rig.source.born + 3600
        asked = [at for at, _ in rig.source.looks if at > edge]
        assert len(asked) <= 11
        gaps = [later - earlier for earlier, later in pairwise(asked)]
        assert gaps[:5] == pytest.approx([0.5, 1, 2, 4, 8][: len(gaps)])
        assert max(gaps, default=0.0) <= 10
        await clock.advance(3600)
        assert rig.password == "password 1.2"

    assert rig.failed == []


async def test_while_it_is_awaited_the_old_one_is_served_for_a_few_seconds_at_a_time(clock: FakeClock) -> None:
    rig = static(clock, FakeSource(clock, period=3600, lag=50.0))

    async with rig.running():
        await clock.advance(3600)
        for _ in range(45):
            assert 1 < rig.remaining <= 10 + PATIENCE
            await clock.advance(1)


async def test_a_rotation_that_does_not_come_is_a_failure_that_says_so(clock: FakeClock) -> None:
    rig = static(clock, FakeSource(clock, period=600, lag=400.0))

    async with rig.running():
        await clock.advance(655)
        assert rig.cache.status(ROLE).phase is Phase.FRESH
        await clock.advance(20)
        assert rig.cache.status(ROLE).phase is Phase.STALE
        assert "was to change it" in rig.cache.status(ROLE).error
        await clock.advance(240)
        assert rig.failed, "on_failed"
        asked = [at for at, _ in rig.source.looks if at > rig.source.born + 700]
        assert min(later - earlier for earlier, later in pairwise(asked)) >= 1
        await clock.advance(150)
        assert rig.password == "password 1.1"
        assert rig.cache.status(ROLE).phase is Phase.FRESH


async def test_a_period_that_was_lengthened_is_believed_after_a_minute(clock: FakeClock) -> None:
    rig = static(clock, FakeSource(clock, period=600), interval=DAY)

    async with rig.running():
        await clock.advance(500)
        rig.source.period = 7200
        await clock.advance(300)
        looks = len(rig.source.looks)
        assert looks <= 12
        assert rig.served is not None
        assert not rig.served.stale
        assert abs(rig.remaining - 6400) < 1
        await clock.advance(6390)
        assert len(rig.source.looks) == looks
        await clock.advance(15)
        assert rig.password == "password 1.1"


async def test_a_rotation_by_hand_is_found_within_an_interval(clock: FakeClock) -> None:
    rig = static(clock, FakeSource(clock, period=30 * DAY), interval=300)

    async with rig.running():
        await clock.advance(1000)
        rig.source.put()
        await clock.advance(300)
        assert rig.password == "password 2.0"


async def test_an_upstream_that_is_down_over_the_edge_takes_nothing_away(clock: FakeClock) -> None:
    """While it is down nothing rotates there: what was found last may well be good."""
    rig = static(clock, FakeSource(clock, period=600, lag=900.0))

    async with rig.running():
        await clock.advance(500)
        rig.source.script = lambda n: DOWN
        for _ in range(800):
            await clock.advance(1)
            assert rig.password == "password 1.0"
        assert rig.served is not None
        assert rig.served.stale
        rig.source.script = lambda n: None
        await clock.advance(300)
        assert rig.password == "password 1.1"


async def test_back_after_the_edge_a_reset_ttl_is_not_believed_at_once(clock: FakeClock) -> None:
    source = FakeSource(clock, period=3600, lag=1000.0, resets_early=True)
    rig = static(clock, source, interval=DAY)

    async with rig.running():
        await clock.advance(3590)
        source.script = lambda n: DOWN
        await clock.advance(960)
        source.script = lambda n: None
        await clock.advance(120)
        assert rig.password == "password 1.1"


async def test_a_short_period_is_followed(clock: FakeClock) -> None:
    rig = static(clock, FakeSource(clock, period=5))
    late = 0.0

    async with rig.running():
        for _ in range(1200):
            await clock.advance(0.1)
            if rig.password != f"password {rig.source.version}":
                late += 0.1

    assert late < 120 / 5 * 2.0
    assert len(rig.source.looks) < 60


async def test_an_upstream_that_talks_nonsense_is_asked_every_other_second_at_most(clock: FakeClock) -> None:
    """Always due, and another version at every look."""
    source = FakeSource(clock, says=0.0)
    source.script = lambda n: source.put()
    rig = static(clock, source)

    async with rig.running():
        await clock.advance(600)

    assert len(source.looks) <= 301


@pytest.mark.parametrize("says", [0.0, -5.0, float("nan"), 1e-9, 1e300])
async def test_any_number_of_seconds_is_taken(clock: FakeClock, says: float) -> None:
    rig = static(clock, FakeSource(clock, says=says))

    async with rig.running():
        for _ in range(300):
            await clock.advance(1)
            assert 1 < rig.remaining <= 10 * 366 * DAY

    assert len(rig.source.looks) <= 25


async def test_a_password_that_the_database_refuses_is_fetched_and_tried_again(clock: FakeClock) -> None:
    tried = []

    async def replica(data: object, until: float) -> bool:
        tried.append(clock.now())
        if clock.now() < 1000 + 3600 + 30 and len(tried) > 1:
            raise CredentialRefused("the replica lags")
        return True

    rig = static(clock, FakeSource(clock, period=3600), interval=DAY, verify=replica)

    async with rig.running():
        await clock.advance(3610)
        assert rig.password == "password 1.0"
        assert rig.served is not None
        assert rig.served.stale
        await clock.advance(60)
        assert rig.password == "password 1.1"
        assert rig.served.verified


async def test_a_right_that_is_missing_at_the_edge_keeps_the_old_password_and_says_so(clock: FakeClock) -> None:
    rig = static(clock, FakeSource(clock, period=600))

    async with rig.running():
        rig.source.script = lambda n: Forbidden("read on database/static-creds/app is missing")
        await clock.advance(700)
        assert rig.password == "password 1.0"
        assert rig.cache.status(ROLE).error == "read on database/static-creds/app is missing"
        assert rig.failed
