"""A Renewer that does not act when it is due shows (R003-110); one that waits for its upstream does not."""

from agent.errors import Unavailable
from tests.fakes import FakeClock, FakeEngine
from tests.unit.leases.builders import ROLE, Rig
from tests.unit.leases.test_renewer import running

DOWN = Unavailable("down", unreachable=True)


async def test_a_renewer_that_sleeps_past_its_next_step_is_overdue(clock: FakeClock) -> None:
    rig = Rig(clock, FakeEngine(clock, ttl=60))

    async with running(rig):
        due_at = rig.cache.status(ROLE).next_at
        assert rig.renewer.overdue(due_at) == 0.0
        clock.suspend(due_at - clock.now() + 100)  # no timer fires

        assert round(rig.renewer.overdue(clock.now()), 3) == 100.0

        rig.renewer.recheck()
        await clock.advance(0)
        assert rig.renewer.overdue(clock.now()) == 0.0


async def test_an_upstream_that_does_not_answer_makes_no_renewer_overdue(clock: FakeClock) -> None:
    silent = False
    rig = Rig(clock, FakeEngine(clock, ttl=60, script=lambda op, n: 1e6 if silent else None))

    async with running(rig):
        silent = True
        for _ in range(600):
            await clock.advance(1)
            assert rig.renewer.overdue(clock.now()) == 0.0


async def test_a_renewer_that_has_ended_is_not_overdue(clock: FakeClock) -> None:
    rig = Rig(clock, FakeEngine(clock, ttl=60))

    async with running(rig):
        pass
    await clock.advance(3600)

    assert rig.renewer.overdue(clock.now()) == 0.0


async def test_a_lease_whose_revocation_failed_says_so(clock: FakeClock) -> None:
    rig = Rig(clock, FakeEngine(clock, ttl=60, script=lambda op, n: DOWN if op == "revoke" else None))

    async with running(rig):
        rig.renewer.replace(revoke_after=5.0)
        await clock.advance(1)
        assert [(held.state, held.tried) for held in rig.renewer.held()] == [("published", False), ("draining", False)]
        await clock.advance(6)

        assert [(held.state, held.tried) for held in rig.renewer.held()] == [("published", False), ("draining", True)]
