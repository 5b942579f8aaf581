"""What an operator may do to one lease of a role (R001-019, R003-062, R003-063)."""

import asyncio

from agent.errors import Unavailable
from agent.leases.desk import Desk
from agent.leases.record import RoleRecord
from agent.leases.renewer import Renewer
from tests.fakes import FakeClock, FakeEngine, settle
from tests.unit.leases.builders import ROLE, Rig
from tests.unit.leases.test_renewer import running

DOWN = Unavailable("down", unreachable=True)


async def test_a_revoked_lease_is_served_no_more_from_that_instant_and_is_replaced(clock: FakeClock) -> None:
    rig = Rig(clock, FakeEngine(clock, ttl=60))

    async with running(rig):
        (held,) = rig.renewer.held()
        before = rig.generation
        confirmed = rig.renewer.revoke(held.lease_id)
        served_after = rig.generation
        await settle()

        assert held.state == "published"
        assert (before > 0, served_after) == (True, 0), "withdrawn before anything else happens"
        assert confirmed is not None
        assert confirmed.is_set()
        assert list(rig.engine.revoked) == [held.lease_id]
        assert rig.generation > before


async def test_a_draining_lease_is_revoked_before_its_time(clock: FakeClock) -> None:
    rig = Rig(clock, FakeEngine(clock, ttl=60))

    async with running(rig):
        rig.renewer.replace()
        await settle()
        published, draining = rig.renewer.held()
        generation = rig.generation
        confirmed = rig.renewer.revoke(draining.lease_id)
        await settle()

        assert (published.state, draining.state) == ("published", "draining")
        assert confirmed is not None
        assert confirmed.is_set()
        assert list(rig.engine.revoked) == [draining.lease_id]
        assert rig.generation == generation, "the published credential is not touched"


async def test_a_lease_of_another_role_is_not_found(clock: FakeClock) -> None:
    rig = Rig(clock, FakeEngine(clock, ttl=60))

    async with running(rig):
        assert rig.renewer.revoke("somebody else's") is None
        assert rig.generation


async def test_a_revocation_that_fails_is_tried_again_until_it_is_confirmed(clock: FakeClock) -> None:
    down = True
    engine = FakeEngine(clock, ttl=60, script=lambda op, n: DOWN if op == "revoke" and down else None)
    rig = Rig(clock, engine)

    async with running(rig):
        (held,) = rig.renewer.held()
        confirmed = rig.renewer.revoke(held.lease_id)
        await settle()
        assert confirmed is not None
        assert not confirmed.is_set()
        down = False
        await clock.advance(10)
        assert confirmed.is_set()


async def test_a_lease_revoked_while_its_renewal_is_under_way_stays_revoked(clock: FakeClock) -> None:
    """The renewal's late success must not bring it back before readers."""
    asked: list[str] = []

    def slow_renewals(operation: str, _: int) -> float | None:
        asked.append(operation)
        return {"renew": 2.0, "revoke": 4.0}.get(operation)

    rig = Rig(clock, FakeEngine(clock, ttl=60, script=slow_renewals))

    async with running(rig):
        (held,) = rig.renewer.held()
        while "renew" not in asked:
            await clock.advance(0.5)
        rig.renewer.revoke(held.lease_id)
        await clock.advance(8)

        assert held.lease_id not in {each.lease_id for each in rig.renewer.held()}
        snapshot = rig.cache.read(ROLE, clock.now())
        assert snapshot is not None
        assert snapshot.lease.id != held.lease_id
        assert rig.engine.count("renew", ok=True) == 1


async def test_what_is_held_tells_no_password(clock: FakeClock) -> None:
    rig = Rig(clock, FakeEngine(clock, ttl=60))

    async with running(rig):
        snapshot = rig.cache.read(ROLE, clock.now())
        assert snapshot is not None
        shown = repr(rig.renewer.held())

    assert all(value.reveal() not in shown for value in snapshot.lease.data.values())


async def test_the_cache_counts_what_was_published_and_what_expired(clock: FakeClock) -> None:
    """R003-087."""
    down = False
    rig = Rig(clock, FakeEngine(clock, ttl=60, script=lambda op, n: DOWN if down else None))

    async with running(rig):
        rig.renewer.replace()
        await settle()
        down = True
        await clock.advance(70)

    counts = rig.cache.counts(ROLE)
    assert (counts.published, counts.expired) == (2, 1)


class Disk:
    """Keeps the newest record; hangs where it is told to."""

    def __init__(self, clock: FakeClock, hangs: float = 0.0) -> None:
        self.record = RoleRecord()
        self.hangs = hangs
        self._clock = clock

    async def save(self, role: str, record: RoleRecord) -> None:
        self.record = record
        if self.hangs:
            await self._clock.sleep(self.hangs)


async def test_a_revocation_is_remembered_before_it_is_confirmed(clock: FakeClock) -> None:
    """Else a restart meanwhile would go on with the very lease that an operator has ended."""
    engine = FakeEngine(clock, ttl=60, script=lambda op, n: 1e6 if op in ("renew", "revoke") else None)
    rig, disk = Rig(clock, engine), Disk(clock)
    rig.renewer = Renewer(ROLE, engine=engine, cache=rig.cache, policy=rig.policy, clock=clock, recorder=disk)

    async with running(rig):
        await clock.advance(41)  # a renewal hangs: the loop itself can record nothing now
        held = rig.renewer.held()
        assert disk.record.current is not None
        asked_at = clock.now()
        asked = asyncio.create_task(Desk({ROLE: rig.renewer}, clock).revoke(held, patience=1.0))
        await settle()

        assert disk.record.current is None
        assert [(one.lease_id, one.revoke_at) for one in disk.record.retired] == [(held[0].lease_id, asked_at)]
        await clock.advance(1)
        assert await asked == 1, "not confirmed yet"


async def test_a_draining_lease_that_is_revoked_is_remembered_as_due_now(clock: FakeClock) -> None:
    engine, disk = FakeEngine(clock, ttl=60, script=lambda op, n: 1e6 if op == "revoke" else None), Disk(clock)
    rig = Rig(clock, engine)
    rig.renewer = Renewer(ROLE, engine=engine, cache=rig.cache, policy=rig.policy, clock=clock, recorder=disk)

    async with running(rig):
        rig.renewer.replace()
        await settle()
        _, draining = rig.renewer.held()
        asked_at = clock.now()
        asked = asyncio.create_task(Desk({ROLE: rig.renewer}, clock).revoke([draining], patience=1.0))
        await settle()

        assert disk.record.current is not None
        assert [one.revoke_at for one in disk.record.retired] == [asked_at]
        await clock.advance(1)
        await asked


async def test_a_record_that_cannot_be_written_takes_no_credential_away(clock: FakeClock) -> None:
    """ADR 1: a file system that hangs is said, and readers go on being served across renewals."""
    engine, disk = FakeEngine(clock, ttl=60), Disk(clock, hangs=1e6)
    rig = Rig(clock, engine)
    rig.renewer = Renewer(ROLE, engine=engine, cache=rig.cache, policy=rig.policy, clock=clock, recorder=disk)

    async with running(rig):
        await clock.advance(300)
        assert rig.generation
        assert engine.count("renew", ok=True) >= 5


async def test_readers_who_come_and_go_buy_no_more_failed_calls(clock: FakeClock) -> None:
    """Promise 7: a role that is let go forgets its failures' hold no sooner than one that is kept."""
    began: list[float] = []

    def down(operation: str, _: int) -> Exception:
        began.append(clock.now())
        return DOWN

    rig = Rig(clock, FakeEngine(clock, ttl=60, script=down), lazy=True)

    async with running(rig):
        for _ in range(240):
            rig.cache.demand(ROLE, clock.now())
            await clock.advance(10.5 if len(began) % 3 else 0.6)

    assert len(began) > 10
    assert max(sum(at <= other < at + 60.0 for other in began) for at in began) <= 7
