"""Logins that end while something goes wrong: nothing dead is handed out, nobody is stuck, no neighbour pays."""

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import replace

import pytest

from agent.errors import NoIdentity, Unavailable
from agent.leases.cache import LeaseCache, RoleStatus
from agent.leases.lease import Grant, Lease, Secret
from agent.leases.record import RoleRecord
from tests.fakes import FakeClock
from tests.unit.leases.sessions import ROLES, Scene, Script


def only(operation: str, answer: Exception | float, switch: list[bool]) -> Script:
    """That operation is answered so while `switch` holds True."""
    return lambda name, n: answer if switch and switch[-1] and name == operation else None


@pytest.mark.parametrize("begin", range(60, 100, 4))
async def test_no_lease_outlives_the_login_that_it_hung_on_whatever_hangs(begin: int) -> None:
    """An old login that had ended was answered for like one that nobody knew, and its leases rose from the dead."""
    down = [False]

    def script(operation: str, n: int) -> Exception | float | None:
        return 30.0 if down[0] and operation in ("issue", "renew") else None

    slow_revoke: Script = lambda operation, n: 0.05 if operation == "revoke" else None  # noqa: E731
    scene = Scene(token_ttl=45, token_max=150, lease_ttl=3600, script=script, login_script=slow_revoke)
    async with scene.running():
        await scene.clock.advance(begin)
        down[0] = True

        assert await scene.dead_readings(300) == 0


async def test_a_lease_that_is_answered_after_its_login_has_ended_is_not_published() -> None:
    slow = [False]
    scene = Scene(
        token_ttl=60,
        token_max=60,
        renewable=False,
        lease_ttl=3600,
        script=only("issue", 9.0, slow),
        login_script=only("issue", Unavailable("x"), slow),
    )
    async with scene.running():
        await scene.clock.advance(51.5)
        slow[0] = True
        scene.roles[ROLES[0]].replace()

        assert await scene.dead_readings(80) == 0


async def test_what_is_known_to_be_dead_is_let_go_although_too_much_has_failed_lately() -> None:
    down, unbound = [False], [False]
    scene = Scene(
        token_ttl=3600,
        lease_ttl=3600,
        script=only("issue", Unavailable("500"), down),
        login_script=only("issue", NoIdentity("unbound"), unbound),
    )
    async with scene.running():
        await scene.clock.advance(10)
        down[0] = True
        for renewer in scene.roles.values():
            renewer.replace()
        await scene.clock.advance(300)
        (login,) = scene.login.live
        scene.login.revoked[login] = scene.clock.now()
        unbound[0] = True
        while scene.session.snapshot is not None:
            await scene.clock.advance(0.25)

        assert await scene.dead_readings(120, 0.25) <= 2.5, "from the moment in which it is known"


async def test_a_login_that_hangs_keeps_no_dead_credential_up() -> None:
    hanging = [False]
    scene = Scene(login_script=only("issue", 30.0, hanging))
    async with scene.running():
        await scene.clock.advance(20)
        (login,) = scene.login.live
        scene.login.revoked[login] = scene.clock.now()
        hanging[0] = True
        scene.roles[ROLES[0]].replace()
        await scene.clock.advance(1)

        assert await scene.dead_readings(60, 0.25) <= 2.5


def left_behind(clock: FakeClock, *, renewable: bool, own: float = 3600.0, login: float = 100.0) -> Scene:
    """What a killed agent left: a login that ends in `login` seconds, and leases with `own` seconds of their own."""
    token = Secret("token")
    at = clock.now()
    first = Grant(id="login-1", data={"token": token}, ttl=login, renewable=True, key=token)
    session = Lease(first=first, last=first, issued_at=at, granted_at=at, jitter=0.0)
    data = {"username": Secret("u"), "password": Secret("p")}
    grant = Grant(id="lease-1", data=data, ttl=own, renewable=renewable, parent="login-1")
    lease = Lease(first=grant, last=grant, issued_at=at, granted_at=at, jitter=0.0, parent_until=session.expires_at)
    return Scene(
        clock=clock,
        left=RoleRecord(current=session, generation=1),
        roles_left=RoleRecord(current=lease, generation=1),
        lease_ttl=own,
    )


async def test_a_restart_knows_from_the_first_instant_what_its_leases_hang_on() -> None:
    """Roles whose lease needs no call were adopted before the session was, and told an end that then fell."""
    clock = FakeClock()
    scene = left_behind(clock, renewable=False)
    scene.login.born["login-1"], scene.login.ends["login-1"] = clock.now(), clock.now() + 100
    async with scene.running():
        found = scene.cache.read(ROLES[0], clock.now())
        assert found is not None
        assert found.lease.id == "lease-1"
        told = found.lease.expires_at
        assert told <= clock.now() + 600

        for _ in range(20):
            await clock.advance(0.5)
            later = scene.cache.read(ROLES[0], clock.now())
            assert later is not None
            assert later.lease.id == "lease-1", "its login lives: it is not replaced"
            assert later.lease.expires_at >= told
            told = later.lease.expires_at


async def test_a_restart_while_the_upstream_hangs_serves_within_seconds_what_was_left() -> None:
    clock = FakeClock()
    scene = left_behind(clock, renewable=True, login=1800.0)
    scene.login.script = scene.vault.script = lambda operation, n: 1000.0
    async with scene.running():
        await clock.advance(7)

        assert all(scene.cache.read(role, clock.now()) for role in ROLES)


async def test_a_lease_of_a_login_that_nobody_remembers_ends_when_that_login_was_last_known_to() -> None:
    at = FakeClock().now()
    data = {"username": Secret("u"), "password": Secret("p")}
    grant = Grant(id="lease-1", data=data, ttl=3600.0, renewable=True, parent="forgotten")
    lease = Lease(first=grant, last=grant, issued_at=at, granted_at=at, jitter=0.0, parent_until=at + 100)
    scene = Scene(
        lease_ttl=3600,
        script=lambda operation, n: Unavailable("away", unreachable=True),
        roles_left=RoleRecord(current=lease, generation=1),
    )
    async with scene.running():
        await scene.clock.advance(60)
        assert scene.cache.read(ROLES[0], scene.clock.now()) is not None
        await scene.clock.advance(60)

        assert scene.cache.read(ROLES[0], scene.clock.now()) is None


@pytest.mark.parametrize("failing", [False, True])
async def test_a_changed_proof_that_binds_leads_to_a_new_login_although_the_old_one_can_be_renewed(
    failing: bool,
) -> None:
    down = [False]
    scene = Scene(token_ttl=60, binding=True, login_script=only("renew", Unavailable("x"), down))
    async with scene.running():
        if failing:
            down[0] = True
            await scene.clock.advance(41)
        scene.identity.touched.set()
        down[0] = False
        await scene.clock.advance(5)

        assert scene.login.count("issue") == 2


async def test_a_proof_that_changes_while_a_login_is_under_way_leads_to_another() -> None:
    scene = Scene(binding=True, login_script=lambda operation, n: 5.0 if operation == "issue" else None)
    async with scene.running():
        await scene.clock.advance(2)
        scene.identity.touched.set()
        await scene.clock.advance(20)

        assert scene.login.count("issue") == 2


async def test_a_stop_in_the_moment_of_a_lost_login_does_not_wait_for_another() -> None:
    hanging = [False]
    scene = Scene(login_script=only("issue", 1000.0, hanging))
    async with scene.running():
        await scene.clock.advance(20)
        (login,) = scene.login.live
        scene.login.revoked[login] = scene.clock.now()
        hanging[0] = True
        scene.roles[ROLES[0]].replace()
        await scene.clock.advance(1)
    began = scene.clock.now()

    closing = asyncio.gather(*(renewer.close(13.0) for renewer in scene.roles.values()))
    while not closing.done():
        await scene.clock.advance(0.5)

    assert scene.clock.now() - began < 8.0


async def test_wakes_by_new_logins_buy_no_calls_beyond_the_budget() -> None:
    """Promise 7: at most ten failed calls in any minute, whatever happens."""
    scene = Scene(script=lambda operation, n: Unavailable("500") if operation == "issue" else None)
    async with scene.running():
        for _ in range(60):
            await scene.clock.advance(2)
            scene.session.renewer.replace()

    for_one = sorted(at for at, operation, _ in scene.vault.calls if operation == "issue")
    assert max(sum(begin <= at < begin + 60 for at in for_one) for begin in for_one) <= 7 * len(ROLES)


async def test_a_shared_login_is_left_to_its_end() -> None:
    """Somebody else reads it from a token sink's file, and leases with it."""
    async with Scene(token_ttl=600, lease_ttl=60, release=False).running() as scene:
        (first,) = scene.login.live
        scene.session.renewer.replace()
        await scene.clock.advance(1)
        for renewer in scene.roles.values():
            renewer.replace(revoke_after=1.0)
        await scene.clock.advance(500)

        assert first not in scene.login.revoked


class OutOfTime(FakeClock):
    """Its timeouts fire in the very instant in which something else happens."""

    def __init__(self, happens: Callable[[], None]) -> None:
        super().__init__()
        self._happens = happens

    def timeout(self, delay: float | None) -> AbstractAsyncContextManager[object]:
        """See Clock."""
        return self._out()

    @contextlib.asynccontextmanager
    async def _out(self) -> AsyncIterator[object]:
        self._happens()
        raise TimeoutError
        yield


async def test_a_change_in_the_instant_in_which_the_time_is_up_is_a_change() -> None:
    cache = LeaseCache(["role"])
    clock = OutOfTime(lambda: cache.report("role", RoleStatus(failures=1)))
    with cache.subscribe(["role"]) as subscription:
        assert await subscription.next_within(clock, 5.0)


async def test_a_token_that_is_put_back_into_its_file_is_a_login_again() -> None:
    """It was refused once: by a stray server, say."""
    scene = Scene(binding=True)
    async with scene.running():
        await scene.clock.advance(20)
        (login,) = scene.login.live
        held = next(held for held in scene.session.renewer.held() if held.lease_id == login)
        scene.session.refused(login)
        await scene.clock.advance(1)
        again = scene.session.snapshot

        assert held.lease_id == login
        assert again is not None
        assert again.lease.id != login or again.lease.issued_at > 1000


def test_what_is_said_of_a_lease_that_has_ended_brings_it_not_back() -> None:
    from agent.leases.tying import tied

    class Late:
        def assured(self, login_id: str) -> float:
            return 500.0

        def hard(self, login_id: str) -> float:
            return math.inf

    grant = Grant(id="l", data={"username": Secret("u")}, ttl=3600.0, renewable=True, parent="p")
    lease = Lease(first=grant, last=grant, issued_at=0.0, granted_at=0.0, jitter=0.0, parent_until=100.0)

    assert tied(lease, Late(), 50.0).expires_at == 500.0
    assert tied(lease, Late(), 101.0).expires_at == 100.0
    assert replace(lease, parent_until=math.inf).expires_at == 3600.0
