"""The leases of all roles at one desk."""

import asyncio
import math
from typing import Any

from agent.leases.desk import Counts, Desk, below, counts, works_until
from agent.leases.held import Held
from tests.fakes import FakeClock, FakeEngine, settle
from tests.unit.leases.builders import ROLE, Rig
from tests.unit.leases.test_operator import DOWN
from tests.unit.leases.test_renewer import running


def held(state: str = "published", *, left: float = 1000.0, revoke_in: float = 1000.0, **keys: Any) -> Held:
    return Held(role=ROLE, lease_id="id", state=state, expires_at=left, revoke_at=revoke_in, **keys)


async def test_a_revoked_lease_is_withdrawn_before_its_upstream_is_asked(clock: FakeClock) -> None:
    """R003-063: the order, seen from the upstream."""
    seen: list[int] = []

    def script(operation: str, n: int) -> None:
        if operation == "revoke":
            seen.append(rig.generation)

    rig = Rig(clock, FakeEngine(clock, ttl=60, script=script))
    desk = Desk({ROLE: rig.renewer}, clock)

    async with running(rig):
        (lease,) = desk.held([ROLE])
        left = await desk.revoke([lease], 5.0)

        assert left == 0
        assert seen[0] == 0, "nothing was served when the upstream was asked"
        assert lease.lease_id in rig.engine.revoked


async def test_revocations_that_are_not_confirmed_in_time_are_counted_and_go_on(clock: FakeClock) -> None:
    down = True
    engine = FakeEngine(clock, ttl=600, script=lambda op, n: DOWN if op == "revoke" and down else None)
    rig = Rig(clock, engine)
    desk = Desk({ROLE: rig.renewer}, clock)

    async with running(rig):
        rig.renewer.replace()
        await settle()
        leases = desk.held([ROLE])
        revoking = asyncio.create_task(desk.revoke(leases, 5.0))
        await clock.advance(5.0)
        left = await revoking
        down = False
        await clock.advance(120.0)

        assert left == 2
        assert {each.lease_id for each in leases} <= set(engine.revoked)


async def test_a_lease_that_has_ended_meanwhile_is_done(clock: FakeClock) -> None:
    rig = Rig(clock, FakeEngine(clock, ttl=60))
    desk = Desk({ROLE: rig.renewer}, clock)

    async with running(rig):
        (lease,) = desk.held([ROLE])
        await desk.revoke([lease], 5.0)

        assert await desk.revoke([lease], 5.0) == 0


async def test_leases_are_found_in_the_callers_roles_only(clock: FakeClock) -> None:
    rig = Rig(clock, FakeEngine(clock, ttl=60))
    desk = Desk({ROLE: rig.renewer}, clock)

    async with running(rig):
        (lease,) = desk.held([ROLE, "unknown/creds/role"])

        assert desk.held(["unknown/creds/role"]) == []
        assert desk.find(lease.lease_id, [ROLE]) == lease
        assert desk.find(lease.lease_id, []) is None
        assert desk.find("another", [ROLE]) is None


async def test_a_lease_that_ends_while_it_is_served_is_told_once(clock: FakeClock) -> None:
    engine = FakeEngine(clock, ttl=60, script=lambda op, n: None if op == "issue" and n == 0 else DOWN)
    rig = Rig(clock, engine)

    async with running(rig):
        (lease,) = rig.renewer.held()
        await clock.advance(59.0)
        early = list(rig.expired)
        await clock.advance(120.0)

    assert (early, rig.expired) == ([], [lease.lease_id])


def test_each_kind_of_lease_is_counted() -> None:
    leases = [
        held(left=299.0),
        held(left=300.0),
        held("draining", left=10.0),
        held("draining", tried=True),
        held("doomed", tried=True),
    ]

    assert counts(leases, 0.0) == Counts(active=2, draining=2, doomed=1, expiring_soon=1, failed_revocations=2)


def test_a_credential_works_until_it_ends_or_is_revoked() -> None:
    assert works_until(held()) == 1000.0
    assert works_until(held("draining", revoke_in=5.0)) == 5.0
    assert works_until(held("draining", revoke_in=math.inf)) == 1000.0
    assert works_until(held("draining", revoke_in=5.0, tried=True)) == 1000.0
    assert works_until(held("doomed", revoke_in=5.0)) == 1000.0


def test_a_prefix_is_a_path() -> None:
    assert below("database/creds/app", "database/creds/app")
    assert below("database/creds/app", "database")
    assert not below("database/creds/app-2", "database/creds/app")
    assert not below("database/creds/app", "database/creds/app/x")
