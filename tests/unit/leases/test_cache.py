import asyncio

import pytest

from agent.leases.cache import LeaseCache, Phase, RoleStatus
from tests.fakes import settle
from tests.unit.leases.builders import ROLE, grant, lease


def published(cache: LeaseCache, *, ttl: float = 60.0, now: float = 0.0, wall: float = 1e9, id: str = "a"):
    held = lease(ttl=ttl, at=now, id=id)
    return cache.publish(ROLE, held, until=now + ttl - 3, verified=True, now=now, wall=wall)


def test_what_was_published_is_read_until_its_margin() -> None:
    cache = LeaseCache([ROLE])
    published(cache)

    assert cache.read(ROLE, 56.9) is not None
    assert cache.read(ROLE, 57.0) is None


def test_an_unknown_role_is_an_error_of_the_caller() -> None:
    with pytest.raises(KeyError):
        LeaseCache([ROLE]).read("other", 0.0)


def test_generations_grow_even_when_the_wall_clock_does_not() -> None:
    cache = LeaseCache([ROLE])

    first, second, third = published(cache), published(cache, wall=5.0), published(cache, wall=2e9)

    assert first.generation < second.generation < third.generation == 2_000_000_000_000


def test_a_renewal_keeps_the_generation_and_moves_the_end() -> None:
    cache = LeaseCache([ROLE])
    first = published(cache)
    renewed = first.lease.renewed(grant(ttl=60, id="a"), granted_at=40.0, answered_at=40.1, jitter=0.0)

    cache.renewed(ROLE, renewed, until=97.0, now=40.1, wall=1e9 + 40.1)

    snapshot = cache.read(ROLE, 90.0)
    assert snapshot is not None
    assert snapshot.generation == first.generation
    assert snapshot.remaining(90.0) == pytest.approx(10.0)
    assert snapshot.expires_wall == pytest.approx(1e9 + 100)
    assert snapshot.request_id != first.request_id


def test_the_end_told_in_wall_time_does_not_fall_by_what_two_clocks_part_in_a_while() -> None:
    cache = LeaseCache([ROLE])
    first = published(cache)

    cache.renewed(ROLE, first.lease, until=57.0, now=10.0, wall=1e9 + 9.2)

    snapshot = cache.read(ROLE, 11.0)
    assert snapshot is not None
    assert snapshot.expires_wall == first.expires_wall


def test_a_renewal_tells_the_end_by_a_wall_clock_that_was_set_back() -> None:
    """An end of yesterday's clock would be a day too late today."""
    cache = LeaseCache([ROLE])
    first = published(cache)

    cache.renewed(ROLE, first.lease, until=57.0, now=10.0, wall=1e9 + 10 - 86400)

    snapshot = cache.read(ROLE, 11.0)
    assert snapshot is not None
    assert snapshot.expires_wall == pytest.approx(first.expires_wall - 86400)
    assert snapshot.generation == first.generation


@pytest.mark.parametrize("step", [-86400.0, -3600.0, 3600.0, 86400.0])
def test_a_wall_clock_that_was_set_moves_the_end_told_and_nothing_else(step: float) -> None:
    cache = LeaseCache([ROLE, "other"])
    first = published(cache)
    seen = cache.version(ROLE)

    cache.wall_set(10.0, 1e9 + 10 + step)

    snapshot = cache.read(ROLE, 10.0)
    assert snapshot is not None
    assert snapshot.expires_wall == pytest.approx(first.expires_wall + step)
    assert snapshot.request_id != first.request_id
    assert (snapshot.generation, snapshot.lease, snapshot.until) == (first.generation, first.lease, first.until)
    assert cache.version(ROLE) > seen
    assert cache.version("other") == 0


def test_a_wall_clock_that_agrees_changes_nothing() -> None:
    cache = LeaseCache([ROLE])
    first = published(cache)

    cache.wall_set(10.0, 1e9 + 10.4)

    assert cache.read(ROLE, 10.0) == first


def test_a_withdrawn_role_serves_nothing() -> None:
    cache = LeaseCache([ROLE])
    published(cache)

    cache.withdraw(ROLE)

    assert cache.read(ROLE, 1.0) is None


def test_a_served_credential_turns_stale_and_fresh_with_the_status() -> None:
    cache = LeaseCache([ROLE])
    published(cache)

    cache.report(ROLE, RoleStatus(phase=Phase.STALE))
    stale = cache.read(ROLE, 1.0)
    cache.report(ROLE, RoleStatus(phase=Phase.FRESH))
    fresh = cache.read(ROLE, 1.0)

    assert stale is not None
    assert stale.stale
    assert fresh is not None
    assert not fresh.stale


def test_the_version_changes_with_everything_a_reader_could_see() -> None:
    cache = LeaseCache([ROLE])
    seen = [cache.version(ROLE)]

    published(cache)
    seen.append(cache.version(ROLE))
    cache.report(ROLE, RoleStatus(phase=Phase.STALE))
    seen.append(cache.version(ROLE))
    cache.withdraw(ROLE)
    seen.append(cache.version(ROLE))

    assert len(set(seen)) == 4


async def test_a_waiter_gets_the_next_generation() -> None:
    cache = LeaseCache([ROLE])
    old = published(cache)
    waiter = asyncio.create_task(cache.changed(ROLE, old.generation))
    await settle()
    assert not waiter.done()

    new = published(cache, id="b")

    assert await waiter is new


async def test_a_waiter_who_leaves_disturbs_nobody() -> None:
    cache = LeaseCache([ROLE])
    waiters = [asyncio.create_task(cache.changed(ROLE, 0)) for _ in range(100)]
    await settle()

    for waiter in waiters[::2]:
        waiter.cancel()
    await settle()
    snapshot = published(cache)

    assert await asyncio.gather(*waiters[1::2]) == [snapshot] * 50


async def test_a_reader_waits_only_while_the_first_attempt_runs() -> None:
    cache = LeaseCache([ROLE])
    reader = asyncio.create_task(cache.settled(ROLE))
    await settle()
    assert not reader.done()

    cache.report(ROLE, RoleStatus(phase=Phase.FAILING, failures=1))
    await settle()

    assert reader.done()


async def test_changes_between_two_looks_count_as_one() -> None:
    cache = LeaseCache([ROLE])
    with cache.subscribe([ROLE]) as subscription:
        published(cache)
        published(cache)
        await subscription.next()
        again = asyncio.create_task(subscription.next())
        await settle()
        assert not again.done()
        cache.withdraw(ROLE)
        await again


def test_demand_is_noted_and_passed_on() -> None:
    cache = LeaseCache([ROLE])
    woken: list[int] = []
    cache.on_demand(ROLE, lambda: woken.append(1))

    cache.demand(ROLE, 7.0)

    assert cache.read_at(ROLE) == 7.0
    assert woken == [1]
