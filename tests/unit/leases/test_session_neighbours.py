"""What stands beside or behind an upstream: a cache in front, a sick database, a server that is silent."""

import pytest

from agent.errors import Unavailable
from agent.leases.cache import LeaseCache
from agent.leases.circuit import Circuit
from agent.leases.lease import Grant
from agent.leases.renewer import Renewer
from agent.leases.schedule import Policy
from tests.fakes import FakeEngine
from tests.unit.leases.sessions import ROLES, FakeVault, Scene


class Same(FakeVault):
    """A cache in front of the upstream: every issue is answered with the first one's lease."""

    def __init__(self, scene: Scene) -> None:
        super().__init__(scene.clock, scene.login, ttl=60, script=lambda operation, n: None)
        self.session = scene.session
        self.kept: Grant | None = None

    async def issue(self, role: str, proposed_id: str) -> Grant:
        """The same as ever."""
        self.kept = self.kept or await super().issue(role, proposed_id)
        return self.kept


async def test_a_lease_that_comes_a_second_time_is_neither_published_again_nor_revoked() -> None:
    scene = Scene()
    same = Same(scene)
    alone = Renewer(
        ROLES[0],
        engine=same,
        cache=scene.cache,
        policy=Policy(),
        clock=scene.clock,
        gate=scene.session,
        ties=scene.session,
    )
    scene.roles[ROLES[0]] = alone
    async with scene.running():
        first = scene.cache.read(ROLES[0], scene.clock.now())
        alone.replace(revoke_after=1.0)
        await scene.clock.advance(20)
        found = scene.cache.read(ROLES[0], scene.clock.now())

        assert first is not None
        assert found is not None
        assert found.lease.id in same.live
        assert found.generation == first.generation
        assert "cache" in scene.cache.status(ROLES[0]).error


class Sick(FakeEngine):
    """Roles whose database, behind a server that is well, answers nothing."""

    async def issue(self, role: str, proposed_id: str) -> Grant:
        """Hangs."""
        await self.clock.sleep(1000)
        raise AssertionError


@pytest.mark.parametrize("sick", [1, 6, 40])
async def test_a_database_that_hangs_behind_a_server_costs_its_other_roles_nothing(sick: int) -> None:
    async def alive() -> bool:
        return True

    circuit = Circuit("vault", alive=alive)
    scene = Scene(token_ttl=120, token_max=600, lease_ttl=60, gate=circuit, login_script=lambda operation, n: 0.05)
    names = tuple(f"sick-{n}" for n in range(sick))
    cache = LeaseCache(names)
    ill = Sick(scene.clock)
    for name in names:
        scene.roles[name] = Renewer(
            name, engine=ill, cache=cache, policy=Policy(), clock=scene.clock, gate=scene.session, ties=scene.session
        )
    async with scene.running():
        await scene.clock.advance(200)
        wrong = await scene.live_through(600, 1.0)

    assert wrong == []
    assert circuit.state == "closed"


async def test_a_server_that_is_silent_itself_still_narrows_the_gate() -> None:
    async def alive() -> bool:
        return False

    circuit = Circuit("vault", alive=alive)
    with pytest.raises(Unavailable):
        async with circuit.turn():
            raise Unavailable("no answer", unreachable=True, timed_out=True)

    assert circuit.state == "open"
