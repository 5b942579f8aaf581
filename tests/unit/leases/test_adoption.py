"""What the last incarnation left is taken over: the same credential goes on, what nobody saw is revoked."""

import asyncio
import contextlib
from dataclasses import dataclass, field

import pytest

from agent.errors import (
    CredentialRefused,
    Forbidden,
    LeaseGone,
    MaxTtlReached,
    NotRenewable,
    Unavailable,
    UpstreamError,
)
from agent.leases.cache import LeaseCache
from agent.leases.engine import Verify
from agent.leases.record import Memory, RoleRecord
from agent.leases.renewer import Renewer
from agent.leases.retire import HANDED_OVER
from agent.leases.schedule import Policy
from tests.fakes import FakeClock, FakeEngine, settle
from tests.unit.leases.builders import ROLE


@dataclass
class Disk:
    """Keeps the newest record, and what readers saw at the moment it was kept."""

    records: list[RoleRecord] = field(default_factory=list)

    async def save(self, role: str, record: RoleRecord) -> None:
        """Remember."""
        self.records.append(record)

    @property
    def left(self) -> RoleRecord:
        """What a crash now would leave."""
        return self.records[-1] if self.records else RoleRecord()


class Life:
    """One incarnation."""

    def __init__(
        self, clock: FakeClock, engine: FakeEngine, disk: Disk, verify: Verify | None = None, *, lazy: bool = False
    ) -> None:
        self.clock, self.engine, self.disk = clock, engine, disk
        self.cache = LeaseCache([ROLE])
        self.renewer = Renewer(
            ROLE,
            engine=engine,
            cache=self.cache,
            policy=Policy(),
            clock=clock,
            verify=verify,
            recorder=disk,
            adopted=disk.left,
            lazy=lazy,
        )
        self.task: asyncio.Task[None] | None = None

    async def start(self) -> "Life":
        """Begin."""
        self.task = asyncio.create_task(self.renewer.run())
        await settle()
        return self

    async def crash(self) -> None:
        """End as kill -9 would: nothing is revoked, nothing more is recorded."""
        assert self.task is not None
        kept = list(self.disk.records)
        self.task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self.task
        self.disk.records[:] = kept

    @property
    def user(self) -> str | None:
        """What a reader gets."""
        snapshot = self.cache.read(ROLE, self.clock.now())
        return snapshot.lease.data["username"].reveal() if snapshot else None


async def test_a_restarted_agent_goes_on_with_the_same_user_and_generation(clock: FakeClock) -> None:
    engine, disk = FakeEngine(clock, ttl=60), Disk()
    first = await Life(clock, engine, disk).start()
    user, before = first.user, first.cache.read(ROLE, clock.now())
    await clock.advance(50)
    await first.crash()
    await clock.advance(5)

    second = await Life(clock, engine, disk).start()

    after = second.cache.read(ROLE, clock.now())
    assert second.user == user
    assert before is not None
    assert after is not None
    assert after.generation == before.generation
    assert after.verified == before.verified
    assert engine.count("issue") == 1
    await clock.advance(600)
    assert engine.count("issue") == 1
    await second.crash()


async def test_the_credential_is_recorded_before_it_is_published(clock: FakeClock) -> None:
    engine = FakeEngine(clock, ttl=60)
    seen: list[tuple[bool, bool]] = []

    class Watching(Disk):
        async def save(self, role: str, record: RoleRecord) -> None:
            await super().save(role, record)
            seen.append((record.current is not None, life.user is not None))

    life = Life(clock, engine, Watching())
    await life.start()

    # The first record that holds the credential was kept while readers still had none.
    assert next(published for recorded, published in seen if recorded) is False
    assert life.user is not None
    await life.crash()


async def test_what_was_issued_and_never_published_is_revoked(clock: FakeClock) -> None:
    engine, disk = FakeEngine(clock, ttl=60), Disk()

    async def hang(data: object, until: float) -> bool:
        await clock.sleep(1e9)
        return True

    first = await Life(clock, engine, disk, verify=hang).start()
    assert len(engine.live) == 1
    assert first.user is None
    await first.crash()

    second = await Life(clock, engine, disk).start()
    await clock.advance(1)

    assert len(engine.revoked) == 1
    assert len(engine.live) == 1
    assert second.user is not None
    await second.crash()


async def test_a_lease_that_drained_when_the_agent_died_drains_on_and_is_revoked(clock: FakeClock) -> None:
    engine, disk = FakeEngine(clock, ttl=60), Disk()
    first = await Life(clock, engine, disk).start()
    first.renewer.replace()
    await clock.advance(5)
    assert len(engine.live) == 2
    await first.crash()

    second = await Life(clock, engine, disk).start()
    await clock.advance(54)
    assert len(engine.live) == 2, "readers were told that it lives"
    await clock.advance(2)

    assert len(engine.live) == 1
    assert len(engine.revoked) == 1
    await second.crash()


async def test_a_lease_that_is_gone_is_replaced_and_never_served_again(clock: FakeClock) -> None:
    engine, disk = FakeEngine(clock, ttl=60), Disk()
    first = await Life(clock, engine, disk).start()
    user = first.user
    await first.crash()
    engine.script = lambda op, n: LeaseGone("gone") if op == "renew" else None

    second = Life(clock, engine, disk)
    await second.start()

    assert second.user not in (None, user)
    assert engine.count("issue") == 2
    await second.crash()


async def test_a_lease_found_dead_is_not_asked_after_again(clock: FakeClock) -> None:
    """Killed between finding that out and replacing it, the next run issues at once."""
    engine, disk = FakeEngine(clock, ttl=60), Disk()
    first = await Life(clock, engine, disk).start()
    await first.crash()
    engine.script = lambda op, n: LeaseGone("gone") if op == "renew" else 1e9 if op == "issue" else None
    second = await Life(clock, engine, disk).start()
    await second.crash()
    tried = []

    async def verify(data: object, until: float) -> bool:
        tried.append(until)
        return True

    engine.script = lambda op, n: None
    third = await Life(clock, engine, disk, verify=verify).start()

    assert third.user == "user-2"
    assert len(tried) == 1, "only the new one"
    await clock.advance(HANDED_OVER + 1)
    assert len(engine.live) == 1
    await third.crash()


async def test_an_outage_at_the_restart_takes_nothing_away(clock: FakeClock) -> None:
    """Promise 3: valid until it really ends."""
    engine, disk = FakeEngine(clock, ttl=60), Disk()
    first = await Life(clock, engine, disk).start()
    user = first.user
    await first.crash()
    engine.script = lambda op, n: Unavailable("down", unreachable=True)

    second = await Life(clock, engine, disk).start()

    assert second.user == user
    await clock.advance(58)
    assert second.user is None
    await second.crash()


@pytest.mark.parametrize("answer", ["shortened", Forbidden("no"), MaxTtlReached("end"), NotRenewable("no")])
async def test_a_living_lease_is_served_until_its_successor_can_be_had(
    clock: FakeClock, answer: str | UpstreamError
) -> None:
    """Near its max TTL, or with renewing forbidden, it is to be replaced; that fails, and it still works."""
    engine, disk = FakeEngine(clock, ttl=60), Disk()
    first = await Life(clock, engine, disk).start()
    user = first.user
    await first.crash()
    engine.ttl = 30.0
    renewed = answer if isinstance(answer, UpstreamError) else None
    engine.script = lambda op, n: Unavailable("down") if op == "issue" else renewed if op == "renew" else None

    second = await Life(clock, engine, disk).start()

    assert second.user == user
    await second.crash()


@pytest.mark.parametrize("refused", [False, True])
async def test_a_lease_that_cannot_be_renewed_is_tried_instead(clock: FakeClock, refused: bool) -> None:
    engine, disk = FakeEngine(clock, ttl=60, renewable=False), Disk()
    first = await Life(clock, engine, disk).start()
    user = first.user
    await first.crash()
    tries: list[int] = []

    async def verify(data: object, until: float) -> bool:
        assert tries or until <= clock.now(), "nothing is served meanwhile: one try"
        tries.append(1)
        if refused and len(tries) == 1:
            raise CredentialRefused("no", code="28P01")
        return True

    second = await Life(clock, engine, disk, verify=verify).start()

    assert (second.user != user) == refused
    assert second.user is not None
    await second.crash()


async def test_a_lease_that_ended_meanwhile_is_revoked_and_replaced(clock: FakeClock) -> None:
    engine, disk = FakeEngine(clock, ttl=60), Disk()
    first = await Life(clock, engine, disk).start()
    await first.crash()
    await clock.advance(100)

    second = await Life(clock, engine, disk).start()
    await clock.advance(1)

    assert second.user is not None
    assert len(engine.revoked) == 1
    await second.crash()


async def test_a_lazy_role_that_was_in_use_goes_on(clock: FakeClock) -> None:
    engine, disk = FakeEngine(clock, ttl=60), Disk()
    first = Life(clock, engine, disk, lazy=True)
    first.cache.demand(ROLE, clock.now())
    await first.start()
    user = first.user
    await first.crash()

    second = await Life(clock, engine, disk, lazy=True).start()
    assert second.user == user is not None
    await clock.advance(200)

    assert engine.live == [], "and is let go after an idle TTL, like any other"
    await second.crash()


async def test_a_stop_before_the_first_step_revokes_what_was_left(clock: FakeClock) -> None:
    """Nothing may be forgotten that was not revoked."""
    engine, disk = FakeEngine(clock, ttl=60), Disk()
    first = await Life(clock, engine, disk).start()
    first.renewer.replace()
    await clock.advance(5)
    assert len(engine.live) == 2
    await first.crash()

    assert await Life(clock, engine, disk).renewer.close(5.0) == []

    assert engine.live == []
    assert disk.left.empty


async def test_what_drained_is_not_revoked_before_files_can_hold_its_successor(clock: FakeClock) -> None:
    """The agent may have died between publishing the successor and writing the app's file."""
    engine, disk = FakeEngine(clock, ttl=60), Disk()
    first = await Life(clock, engine, disk).start()
    first.renewer.replace(revoke_after=1.0)
    await clock.advance(0.5)
    await first.crash()
    await clock.advance(1.0)

    second = await Life(clock, engine, disk).start()
    await clock.advance(HANDED_OVER - 0.5)
    assert len(engine.live) == 2
    await clock.advance(1)

    assert len(engine.live) == 1
    await second.crash()


async def test_a_save_that_is_cancelled_counts_as_done(clock: FakeClock) -> None:
    """The thread that writes goes on; a later record equal to the one before must be written again."""
    saved: list[RoleRecord] = []

    class Slow:
        async def save(self, role: str, record: RoleRecord) -> None:
            saved.append(record)
            await clock.sleep(1.0)

    memory = Memory(ROLE, Slow(), None, clock)
    saving = asyncio.create_task(memory.keep(None, (), proposed="p"))
    await settle()
    saving.cancel()
    await settle()

    last = asyncio.create_task(memory.keep(None, ()))
    await clock.advance(2.0)
    await last

    assert [one.proposed for one in saved] == ["p", ""]


async def test_an_orderly_end_leaves_no_record(clock: FakeClock) -> None:
    engine, disk = FakeEngine(clock, ttl=60), Disk()
    first = await Life(clock, engine, disk).start()
    await first.crash()

    assert await first.renewer.close(5.0) == []

    assert disk.left.empty
    assert engine.live == []
