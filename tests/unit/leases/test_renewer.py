import asyncio
import contextlib
import itertools
import math
from collections.abc import AsyncIterator, Callable

import pytest

from agent.errors import (
    CredentialRefused,
    Forbidden,
    LeaseGone,
    MaxTtlReached,
    NotFound,
    NotRenewable,
    RateLimited,
    Unavailable,
)
from agent.failpoints import Failpoint, armed
from agent.leases.cache import LeaseCache, Phase
from agent.leases.circuit import Circuit
from agent.leases.lease import Grant
from agent.leases.schedule import Policy
from tests.fakes import FakeClock, FakeEngine, settle
from tests.unit.leases.builders import ROLE, Rig

DAY = 86_400.0
DOWN = Unavailable("down", unreachable=True)


@contextlib.asynccontextmanager
async def running(rig: Rig) -> AsyncIterator[asyncio.Task[None]]:
    """The Renewer at work inside this block."""
    task = asyncio.create_task(rig.renewer.run())
    await settle()
    try:
        yield task
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def while_(operation: str, condition: Callable[[], bool], answer: Exception | float):
    return lambda op, n: answer if op == operation and condition() else None


async def test_a_day_of_renewals_costs_one_issue(clock: FakeClock) -> None:
    rig = Rig(clock, FakeEngine(clock, ttl=3600))

    async with running(rig):
        await clock.advance(DAY)

    assert rig.engine.count("issue") == 1
    assert 35 <= rig.engine.count("renew") <= 43
    assert rig.engine.count("revoke") == 0
    assert all(ok for _, _, ok in rig.engine.calls)


async def test_a_renewal_keeps_the_credential_and_moves_its_end(clock: FakeClock) -> None:
    rig = Rig(clock, FakeEngine(clock, ttl=60))

    async with running(rig):
        first = rig.cache.read(ROLE, clock.now())
        await clock.advance(45)
        second = rig.cache.read(ROLE, clock.now())

    assert first is not None
    assert second is not None
    assert second.generation == first.generation
    assert second.lease.data == first.lease.data
    assert second.lease.expires_at > first.lease.expires_at + 30


async def test_at_the_max_ttl_a_successor_is_published_with_overlap_and_the_old_lease_drains(clock: FakeClock) -> None:
    """R001-018, D-33."""
    rig = Rig(clock, FakeEngine(clock, ttl=20, max_ttl=60))

    async with running(rig):
        old = rig.cache.read(ROLE, clock.now())
        assert old is not None
        old_end = clock.now() + 60
        await clock.advance(55)
        new = rig.cache.read(ROLE, clock.now())
        both = len(rig.engine.live)
        await clock.advance(old_end - clock.now() - 0.5)
        still_live = old.lease.id in rig.engine.live
        await clock.advance(1.0)

    assert new is not None
    assert new.generation > old.generation
    assert both == 2
    assert still_live, "what was served stays valid until its end"
    assert old.lease.id in rig.engine.revoked


async def test_a_shrinking_renewal_starts_the_replacement(clock: FakeClock) -> None:
    """D-10: the answer counts, not what was asked for."""
    rig = Rig(clock, FakeEngine(clock, ttl=60))

    async with running(rig):
        rig.engine.ttl = 20
        await clock.advance(45)

    assert rig.engine.count("renew") == 1
    assert rig.engine.count("issue") == 2


async def test_a_configured_drain_shortens_the_old_lease(clock: FakeClock) -> None:
    rig = Rig(clock, FakeEngine(clock, ttl=60), policy=Policy(drain=5.0))

    async with running(rig):
        rig.renewer.replace()
        await clock.advance(4.9)
        assert len(rig.engine.live) == 2
        await clock.advance(0.2)
        assert len(rig.engine.live) == 1


async def test_rotate_now_with_revoke_after_ends_the_old_lease_then(clock: FakeClock) -> None:
    rig = Rig(clock, FakeEngine(clock, ttl=60))

    async with running(rig):
        before = rig.generation
        rig.renewer.replace(revoke_after=2.0)
        await clock.advance(0.1)
        assert rig.generation > before
        await clock.advance(2.0)

    assert rig.engine.count("revoke") == 1


@pytest.mark.parametrize("error", [LeaseGone("gone"), NotRenewable("no"), MaxTtlReached("end"), Forbidden("no right")])
async def test_a_lease_that_cannot_be_renewed_is_replaced_at_once(clock: FakeClock, error: Exception) -> None:
    rig = Rig(clock, FakeEngine(clock, ttl=60, script=lambda op, n: error if op == "renew" and n == 0 else None))

    async with running(rig):
        await clock.advance(45)

    renewed_at = next(at for at, op, _ in rig.engine.calls if op == "renew")
    issued_at = [at for at, op, _ in rig.engine.calls if op == "issue"][1]
    assert issued_at == renewed_at
    assert rig.cache.status(ROLE).phase is Phase.FRESH


async def test_a_renewal_that_is_always_forbidden_costs_few_calls(clock: FakeClock) -> None:
    """Measured elsewhere: 17,256 calls in 20 s."""
    rig = Rig(clock, FakeEngine(clock, ttl=120, script=lambda op, n: Forbidden("no") if op == "renew" else None))

    async with running(rig):
        await clock.advance(120)

    assert rig.engine.count("renew") <= 2
    assert rig.engine.count("issue") <= 3


async def test_a_gone_lease_is_served_no_more_when_its_successor_cannot_be_had(clock: FakeClock) -> None:
    rig = Rig(clock, FakeEngine(clock, ttl=60))
    rig.engine.script = lambda op, n: LeaseGone("gone") if op == "renew" else (DOWN if n else None)

    async with running(rig):
        await clock.advance(45)

    assert rig.generation == 0
    assert rig.cache.status(ROLE).phase is Phase.FAILING


async def test_an_outage_is_survived_until_the_margin_and_then_refused(clock: FakeClock) -> None:
    """Promise 3."""
    rig = Rig(clock, FakeEngine(clock, ttl=100))
    down = [False]
    rig.engine.script = lambda op, n: DOWN if down[0] else None

    async with running(rig):
        await clock.advance(1)
        down[0] = True
        started = clock.now() - 1
        served = []
        while clock.now() < started + 120:
            await clock.advance(1)
            served.append((clock.now() - started, rig.generation != 0))

    assert all(ok for at, ok in served if at < 95)
    assert not any(ok for at, ok in served if at >= 95)


async def test_a_stale_credential_says_so(clock: FakeClock) -> None:
    rig = Rig(clock, FakeEngine(clock, ttl=100))
    rig.engine.script = lambda op, n: DOWN if n else None

    async with running(rig):
        rig.engine.script = lambda op, n: DOWN
        await clock.advance(80)
        snapshot = rig.cache.read(ROLE, clock.now())

    assert snapshot is not None
    assert snapshot.stale
    assert rig.cache.status(ROLE).phase is Phase.STALE


async def test_recovery_comes_within_the_delay_in_force(clock: FakeClock) -> None:
    rig = Rig(clock, FakeEngine(clock, ttl=30, script=lambda op, n: DOWN))

    async with running(rig):
        await clock.advance(400)
        status = rig.cache.status(ROLE)
        rig.engine.script = lambda op, n: None
        await clock.advance(status.retry_at - clock.now())

    assert rig.generation != 0


async def test_failed_calls_stay_few_whatever_happens(clock: FakeClock) -> None:
    rig = Rig(clock, FakeEngine(clock, ttl=5, script=lambda op, n: DOWN))

    async with running(rig):
        await clock.advance(3600)

    starts = [at for at, _, _ in rig.engine.calls]
    gaps = [b - a for a, b in itertools.pairwise(starts)]
    assert all(0.5 <= gap <= 60 for gap in gaps)
    assert max(sum(1 for s in starts if t - 60 < s <= t) for t in starts) <= 10


async def test_on_failed_fires_once_after_five_attempts_and_trying_goes_on(clock: FakeClock) -> None:
    """R003-059, R003-060, R003-061."""
    rig = Rig(clock, FakeEngine(clock, script=lambda op, n: DOWN))

    async with running(rig):
        await clock.advance(600)

    assert rig.failed == ["down"]
    assert rig.engine.count("issue") > 8


async def test_an_unknown_role_is_reported_at_once_and_tried_slowly(clock: FakeClock) -> None:
    rig = Rig(clock, FakeEngine(clock, script=lambda op, n: NotFound("no such role")))

    async with running(rig):
        assert rig.failed == ["no such role"]
        await clock.advance(60)

    assert rig.engine.count("issue") <= 7


async def test_retry_after_is_honoured(clock: FakeClock) -> None:
    """D-07."""
    rig = Rig(
        clock, FakeEngine(clock, script=lambda op, n: RateLimited("slow down", retry_after=200) if not n else None)
    )

    async with running(rig):
        await clock.advance(199)
        assert rig.engine.count("issue") == 1
        await clock.advance(2)

    assert rig.generation != 0


async def test_an_issue_without_an_answer_is_revoked_by_its_proposed_id(clock: FakeClock) -> None:
    rig = Rig(clock, FakeEngine(clock, script=lambda op, n: 1000.0 if op == "issue" and n == 0 else None))

    async with running(rig):
        await clock.advance(15)

    assert len(rig.engine.revoked) == 1
    assert len(rig.engine.live) == 1
    assert rig.generation != 0


async def test_a_refused_credential_is_revoked_and_never_published(clock: FakeClock) -> None:
    """Promise 5."""
    tries: list[float] = []

    async def verify(data, until: float) -> bool:
        tries.append(clock.now())
        if len(tries) == 1:
            raise CredentialRefused("refused", code="28P01")
        return True

    rig = Rig(clock, FakeEngine(clock), verify=verify)

    async with running(rig):
        assert rig.generation == 0
        assert rig.engine.count("revoke") == 1
        await clock.advance(2)
        snapshot = rig.cache.read(ROLE, clock.now())

    assert snapshot is not None
    assert snapshot.verified
    assert len(rig.engine.live) == 1


async def test_an_inconclusive_verification_is_published_as_such(clock: FakeClock) -> None:
    async def verify(data, until: float) -> bool:
        await clock.sleep(1e9)
        return True

    rig = Rig(clock, FakeEngine(clock, ttl=100), verify=verify)

    async with running(rig):
        await clock.advance(30)
        snapshot = rig.cache.read(ROLE, clock.now())

    assert snapshot is not None
    assert not snapshot.verified


async def test_a_credential_refused_later_is_replaced(clock: FakeClock) -> None:
    refuse = [False]

    async def verify(data, until: float) -> bool:
        if refuse[0]:
            refuse[0] = False
            raise CredentialRefused("somebody changed the password", code="28P01")
        return True

    rig = Rig(clock, FakeEngine(clock, ttl=1000), verify=verify, verify_every=30)

    async with running(rig):
        before = rig.generation
        await clock.advance(31)
        assert rig.generation == before
        refuse[0] = True
        await clock.advance(30)
        assert rig.generation > before


async def test_a_lease_that_has_ended_by_its_upstreams_clock_is_replaced_at_once(clock: FakeClock) -> None:
    """Somebody has set that clock ahead; the next renewal would tell no sooner than in 400 s."""
    rig = Rig(clock, FakeEngine(clock, ttl=1000))

    async with running(rig):
        before = rig.cache.read(ROLE, clock.now())
        assert before is not None
        rig.renewer.expired({"another"})
        await clock.advance(1)
        assert rig.engine.count("issue") == 1
        rig.renewer.expired({"another", before.lease.id})
        rig.renewer.expired({before.lease.id})
        await clock.advance(1)
        after = rig.cache.read(ROLE, clock.now())

    assert after is not None
    assert after.generation != before.generation
    assert rig.engine.count("issue") == 2
    assert list(rig.engine.revoked) == [before.lease.id]


async def test_a_lease_that_has_ended_there_is_served_no_more_when_its_successor_cannot_be_had(
    clock: FakeClock,
) -> None:
    rig = Rig(clock, FakeEngine(clock, ttl=1000, script=while_("issue", lambda: clock.now() > 1005, DOWN)))

    async with running(rig):
        held = rig.cache.read(ROLE, clock.now())
        await clock.advance(10)
        assert held is not None
        rig.renewer.expired({held.lease.id})
        await clock.advance(1)

    assert rig.generation == 0


async def test_a_grant_too_short_to_keep_is_refused_and_revoked(clock: FakeClock) -> None:
    rig = Rig(clock, FakeEngine(clock, ttl=4))

    async with running(rig):
        assert rig.generation == 0
        assert len(rig.engine.live) == 0
        assert "raise the role's TTL" in rig.failed[0]


async def test_a_lazy_role_is_obtained_for_its_first_reader_and_let_go_after_an_idle_ttl(clock: FakeClock) -> None:
    rig = Rig(clock, FakeEngine(clock, ttl=60), lazy=True)

    async with running(rig):
        await clock.advance(100)
        assert rig.engine.calls == []
        assert rig.cache.status(ROLE).phase is Phase.IDLE
        rig.cache.demand(ROLE, clock.now())
        assert rig.cache.status(ROLE).phase is Phase.STARTING
        await settle()
        assert rig.generation != 0
        await clock.advance(59)
        assert rig.generation != 0
        await clock.advance(2)
        assert rig.generation == 0
        assert rig.engine.live == []
        assert rig.cache.status(ROLE).phase is Phase.IDLE


async def test_a_lazy_role_of_short_leases_is_not_obtained_again_after_it_was_let_go(clock: FakeClock) -> None:
    rig = Rig(clock, FakeEngine(clock, ttl=5), lazy=True)

    async with running(rig):
        rig.cache.demand(ROLE, clock.now())
        await clock.advance(60)
        assert rig.engine.count("issue") == 1
        rig.cache.demand(ROLE, clock.now())
        await settle()
        assert rig.generation != 0


async def test_the_status_counts_no_lease_that_is_revoked(clock: FakeClock) -> None:
    rig = Rig(clock, FakeEngine(clock, ttl=3600))

    async with running(rig):
        rig.renewer.replace(revoke_after=5.0)
        await settle()
        assert rig.cache.status(ROLE).draining == 1
        await clock.advance(6)
        assert rig.cache.status(ROLE).draining == 0


async def test_a_reader_who_asked_before_the_renewer_was_there_is_not_forgotten(clock: FakeClock) -> None:
    """The socket listens first: an app that starts beside the agent asks within the first 100 ms."""
    cache = LeaseCache([ROLE])
    cache.demand(ROLE, clock.now())
    await clock.advance(0.2)
    rig = Rig(clock, FakeEngine(clock), lazy=True, cache=cache)

    async with running(rig):
        assert rig.generation != 0


async def test_rotating_an_idle_lazy_role_obtains_it(clock: FakeClock) -> None:
    rig = Rig(clock, FakeEngine(clock), lazy=True)

    async with running(rig):
        rig.renewer.replace()
        await settle()
        assert rig.generation != 0


async def test_the_soonest_revocation_that_was_asked_for_holds(clock: FakeClock) -> None:
    rig = Rig(clock, FakeEngine(clock, ttl=600))

    async with running(rig):
        rig.engine.script = lambda op, n: DOWN
        rig.renewer.replace(revoke_after=0.0)
        await clock.advance(2)
        rig.renewer.replace()
        rig.engine.script = lambda op, n: None
        await clock.advance(10)

    assert len(rig.engine.revoked) == 1


@pytest.mark.parametrize(
    "point",
    [
        Failpoint.ISSUE_PROPOSED,
        Failpoint.ISSUE_ANSWERED,
        Failpoint.VERIFY_DONE,
        Failpoint.PUBLISH_RECORDED,
        Failpoint.PUBLISH_DONE,
        Failpoint.RENEW_ANSWERED,
        Failpoint.DRAIN_BEGUN,
    ],
)
async def test_a_bug_on_any_edge_leaves_nothing_behind(clock: FakeClock, point: Failpoint) -> None:
    """ADR 1: the part crashes, and the stop revokes whatever was minted."""
    rig = Rig(clock, FakeEngine(clock, ttl=60, max_ttl=120))

    def bug() -> None:
        raise RuntimeError("a bug")

    with armed(point, bug):
        task = asyncio.create_task(rig.renewer.run())
        await clock.advance(200)
    assert isinstance(task.exception(), ExceptionGroup)
    left = await rig.renewer.close(5.0)

    assert left == []
    assert rig.engine.live == []


async def test_a_bug_in_an_engine_leaves_nothing_behind(clock: FakeClock) -> None:
    rig = Rig(clock, FakeEngine(clock))
    honest = rig.engine.issue

    async def issue(role: str, proposed_id: str) -> Grant:
        await honest(role, proposed_id)
        raise RuntimeError("after the commit")

    rig.engine.issue = issue  # type: ignore[method-assign]
    task = asyncio.create_task(rig.renewer.run())
    await settle()
    assert task.done()
    await rig.renewer.close(5.0)

    assert task.exception() is not None
    assert rig.engine.live == []


async def test_a_lease_never_tried_is_revoked_although_others_use_up_the_budget(clock: FakeClock) -> None:
    """`rotate --revoke-after 0s` after a leak must not wait for a lease that somebody keeps alive."""
    rig = Rig(clock, FakeEngine(clock, ttl=1000))
    stuck: list[str] = []
    honest = rig.engine.revoke

    async def revoke(lease_id: str) -> None:
        if lease_id in stuck:
            raise Unavailable("kept")
        await honest(lease_id)

    rig.engine.revoke = revoke  # type: ignore[method-assign]

    async with running(rig):
        stuck += rig.engine.live
        rig.renewer.replace(revoke_after=0.0)
        await clock.advance(30)
        rig.renewer.replace(revoke_after=0.0)
        await clock.advance(2)

    assert len(rig.engine.revoked) == 1


async def test_a_lazy_role_in_use_is_kept(clock: FakeClock) -> None:
    rig = Rig(clock, FakeEngine(clock, ttl=60), lazy=True)

    async with running(rig):
        for _ in range(20):
            rig.cache.demand(ROLE, clock.now())
            await clock.advance(30)

    assert rig.engine.count("issue") == 1


async def test_splay_delays_the_first_call(clock: FakeClock) -> None:
    rig = Rig(clock, FakeEngine(clock), splay=7.0)

    async with running(rig):
        await clock.advance(6.9)
        assert rig.engine.calls == []
        await clock.advance(0.2)
        assert rig.engine.count("issue") == 1


async def test_revocations_that_fail_are_repeated_at_a_bounded_pace(clock: FakeClock) -> None:
    rig = Rig(clock, FakeEngine(clock, ttl=100, script=while_("revoke", lambda: True, DOWN)))

    async with running(rig):
        rig.renewer.replace(revoke_after=0.0)
        await clock.advance(600)

    starts = [at for at, op, _ in rig.engine.calls if op == "revoke"]
    assert len(starts) >= 10
    assert max(sum(1 for s in starts if t - 60 < s <= t) for t in starts) <= 3


async def test_a_lease_that_cannot_be_revoked_holds_up_no_other(clock: FakeClock) -> None:
    rig = Rig(clock, FakeEngine(clock, ttl=100))
    stuck: list[str] = []
    honest = rig.engine.revoke

    async def revoke(lease_id: str) -> None:
        if lease_id in stuck:
            raise Unavailable("prepared transactions keep it")
        await honest(lease_id)

    rig.engine.revoke = revoke  # type: ignore[method-assign]

    async with running(rig):
        stuck += rig.engine.live
        rig.renewer.replace(revoke_after=0.0)
        await clock.advance(1)
        rig.renewer.replace(revoke_after=0.0)
        await clock.advance(60)

    assert len(rig.engine.revoked) == 1
    assert stuck[0] not in rig.engine.revoked


async def test_a_hanging_revocation_delays_no_renewal(clock: FakeClock) -> None:
    rig = Rig(clock, FakeEngine(clock, ttl=10, script=while_("revoke", lambda: True, 1e9)))

    async with running(rig):
        rig.renewer.replace(revoke_after=0.0)
        await clock.advance(100)
        assert rig.generation != 0

    assert rig.engine.count("issue") == 2
    assert rig.engine.count("renew", ok=False) == 0


async def test_close_revokes_what_is_current_draining_and_half_issued(clock: FakeClock) -> None:
    """D-34."""
    rig = Rig(clock, FakeEngine(clock, ttl=60))

    async with running(rig):
        rig.renewer.replace()
        await clock.advance(1)
        rig.engine.script = lambda op, n: 1e9 if op == "issue" else None
        rig.renewer.replace()
        await settle()
    rig.engine.script = lambda op, n: None
    left = await rig.renewer.close(5.0)

    assert left == []
    assert rig.engine.live == []
    assert len(rig.engine.revoked) == 3
    assert rig.generation == 0


async def test_close_names_what_it_could_not_revoke_and_keeps_its_deadline(clock: FakeClock) -> None:
    rig = Rig(clock, FakeEngine(clock, ttl=60))
    async with running(rig):
        pass
    rig.engine.script = lambda op, n: 1e9

    closing = asyncio.create_task(rig.renewer.close(5.0))
    await clock.advance(5.0)

    assert closing.done()
    (line,) = closing.result()
    assert line.startswith(f"{ROLE}: lease ")
    assert "ends by itself in 55 s" in line
    lease_ids = list(rig.engine.ends)
    assert not any(id_ in line for id_ in lease_ids)


async def test_a_stop_while_waiting_for_a_turn_leaves_nothing_since_nobody_was_asked(clock: FakeClock) -> None:
    """A login that never came: there is no lease to revoke, and none to be named."""
    circuit = Circuit("db", limit=1)
    rig = Rig(clock, FakeEngine(clock, ttl=60), gate=circuit)

    async with circuit.turn():
        async with running(rig):
            await clock.advance(1)
        closing = asyncio.create_task(rig.renewer.close(5.0))
        await settle()

        assert closing.done()
        assert closing.result() == []
    assert rig.engine.count("issue") == 0


async def test_close_tries_again_while_there_is_time(clock: FakeClock) -> None:
    rig = Rig(clock, FakeEngine(clock, ttl=60))
    async with running(rig):
        assert repr(rig.renewer).startswith(f"Renewer({ROLE}, ")
    rig.engine.script = lambda op, n: DOWN if n < 2 else None

    closing = asyncio.create_task(rig.renewer.close(10.0))
    await clock.advance(5.0)

    assert closing.result() == []
    assert rig.engine.count("revoke") == 3
    assert rig.engine.live == []


async def test_close_gives_up_after_three_tries_and_says_when_it_ends(clock: FakeClock) -> None:
    rig = Rig(clock, FakeEngine(clock, ttl=60))
    async with running(rig):
        pass
    rig.engine.script = lambda op, n: DOWN

    closing = asyncio.create_task(rig.renewer.close(100.0))
    await clock.advance(10.0)

    (line,) = closing.result()
    assert rig.engine.count("revoke") == 3
    assert "(published) not revoked (down); it ends by itself in" in line


async def test_a_suspended_machine_causes_one_recheck(clock: FakeClock) -> None:
    rig = Rig(clock, FakeEngine(clock, ttl=100))

    async with running(rig):
        clock.suspend(70)
        rig.renewer.recheck()
        await settle()

    assert rig.engine.count("renew") == 1


async def test_a_hundred_readers_cost_one_issue_and_those_who_leave_cancel_nobody(clock: FakeClock) -> None:
    """R004-026."""
    rig = Rig(clock, FakeEngine(clock, script=lambda op, n: 2.0))

    async with running(rig):
        readers = [asyncio.create_task(rig.cache.settled(ROLE)) for _ in range(100)]
        await settle()
        for reader in readers[:50]:
            reader.cancel()
        await clock.advance(3)
        assert all(reader.done() and not reader.cancelled() for reader in readers[50:])

    assert rig.engine.count("issue") == 1


@pytest.mark.parametrize("ttl", [5, 10, 30, 300, 900])
async def test_short_leases_are_renewed_in_time(clock: FakeClock, ttl: float) -> None:
    """R003-113, D-13."""
    rig = Rig(clock, FakeEngine(clock, ttl=ttl))

    async with running(rig):
        for _ in range(60):
            await clock.advance(ttl / 10)
            assert rig.generation != 0

    assert rig.engine.count("issue") == 1


async def test_an_upstream_that_renews_for_ever_meets_our_ceiling(clock: FakeClock) -> None:
    """D-11."""
    rig = Rig(clock, FakeEngine(clock, ttl=60, max_ttl=math.inf), policy=Policy(max_lifetime=300))

    async with running(rig):
        await clock.advance(1000)

    assert 4 <= rig.engine.count("issue") <= 5


async def test_fifty_agents_spread_their_renewals() -> None:
    """D-08: jitter drawn once per lease; over a tenth of the window."""
    at = []
    for seed in range(50):
        clock = FakeClock()
        rig = Rig(clock, FakeEngine(clock, ttl=1000), seed=seed)
        async with running(rig):
            await clock.advance(700)
        at.append(next(t for t, op, _ in rig.engine.calls if op == "renew"))

    assert max(at) - min(at) >= 70
