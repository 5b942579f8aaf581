"""Many roles at one upstream, some of them sick: nobody who is well waits behind those who try again and again."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from itertools import pairwise

import pytest

from agent.errors import AuthExpired, Unavailable
from agent.leases.cache import LeaseCache
from agent.leases.circuit import Circuit, First
from agent.leases.lease import Grant, Lease, Secret
from agent.leases.poller import Poller
from agent.leases.record import RoleRecord
from agent.leases.renewer import Renewer
from agent.leases.schedule import Policy
from tests.fakes import FakeClock, FakeEngine, settle
from tests.unit.leases.pollers import FakeSource
from tests.unit.leases.sessions import ROLES, Scene


async def well() -> bool:
    return True


class Sick(FakeEngine):
    """Its database answers nothing, to issues and renewals alike."""

    async def issue(self, role: str, proposed_id: str) -> Grant:
        """Hangs."""
        await self.clock.sleep(1000)
        raise AssertionError

    async def renew(self, lease: Lease, increment: float) -> Grant:
        """Hangs."""
        await self.clock.sleep(1000)
        raise AssertionError


def sicken(scene: Scene, count: int) -> None:
    names = tuple(f"sick-{n}" for n in range(count))
    cache, ill = LeaseCache(names), Sick(scene.clock)
    for name in names:
        scene.roles[name] = Renewer(
            name, engine=ill, cache=cache, policy=Policy(), clock=scene.clock, gate=scene.session, ties=scene.session
        )


def once(switch: list[int]) -> Exception | None:
    if not switch:
        return None
    switch.pop()
    return Unavailable("a hiccup")


@pytest.mark.parametrize("sick", [0, 40])
@pytest.mark.parametrize("whose", ["login", "lease"])
async def test_one_hiccup_puts_nobody_behind_the_sick(sick: int, whose: str) -> None:
    failing: list[int] = []

    def script(operation: str, n: int) -> Exception | float | None:
        return once(failing) if operation == "renew" else None

    scripts = {"login_script" if whose == "login" else "script": script}
    scene = Scene(token_ttl=120, lease_ttl=60, gate=Circuit("vault", alive=well), **scripts)  # type: ignore[arg-type]
    sicken(scene, sick)
    async with scene.running():
        await scene.clock.advance(150)
        failing.append(1)

        assert await scene.live_through(200, 1.0) == []


@pytest.mark.parametrize("sick", [0, 40])
async def test_a_lost_login_leaves_no_role_without_a_turn(sick: int) -> None:
    scene = Scene(token_ttl=3600, lease_ttl=60, gate=Circuit("vault", alive=well))
    sicken(scene, sick)
    async with scene.running():
        await scene.clock.advance(150)
        (lost,) = scene.login.live
        scene.login.revoked[lost] = scene.clock.now()
        await scene.clock.advance(90)

        assert await scene.live_through(60, 1.0) == []


@contextlib.asynccontextmanager
async def kept(*renewers: Renewer) -> AsyncIterator[None]:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(renewer.run()) for renewer in renewers]
        await settle()
        yield
        for task in tasks:
            task.cancel()


async def test_a_role_with_nothing_left_to_serve_keeps_its_place_among_those_who_wait() -> None:
    clock = FakeClock()
    circuit, cache = Circuit("v", limit=1), LeaseCache(["a"])
    role = Renewer("a", engine=FakeEngine(clock), cache=cache, policy=Policy(), clock=clock, gate=circuit)

    async def neighbour() -> None:
        async with circuit.turn():
            await clock.sleep(5)

    async with kept(role):
        first = cache.read("a", clock.now())
        assert first is not None
        others = [asyncio.create_task(neighbour()) for _ in range(3)]
        await settle()
        role.expired([first.lease.id])
        for _ in range(6):
            others.append(asyncio.create_task(neighbour()))
            await clock.advance(5)
        found = cache.read("a", clock.now())
        for each in others:
            each.cancel()

        assert found is not None
        assert found.generation != first.generation


async def test_a_role_that_waits_for_its_turn_serves_nothing_that_is_known_to_be_dead() -> None:
    clock = FakeClock()
    circuit, cache = Circuit("v", limit=1), LeaseCache(["a"])
    role = Renewer("a", engine=FakeEngine(clock), cache=cache, policy=Policy(), clock=clock, gate=circuit)

    async def hold() -> None:
        async with circuit.turn():
            await clock.sleep(50)

    async with kept(role):
        holding = asyncio.create_task(hold())
        await clock.advance(45)  # its renewal is due, and waits
        found = cache.read("a", clock.now())
        assert found is not None
        role.expired([found.lease.id])
        await clock.advance(0.1)

        assert cache.read("a", clock.now()) is None
        holding.cancel()


async def test_what_is_dead_is_let_go_when_the_budget_holds_its_replacement_back() -> None:
    """The seventh failure in a minute is the one that says that the login has ended."""
    hiccups: list[int] = []

    def script(operation: str, n: int) -> Exception | float | None:
        return once(hiccups) if operation == "issue" else None

    scene = Scene(token_ttl=3600, lease_ttl=600, script=script)
    async with scene.running():
        await scene.clock.advance(100)
        role = scene.roles[ROLES[0]]
        hiccups.extend([1] * 6)
        role.replace()
        while hiccups:
            role.retry()
            await scene.clock.advance(0.25)
        (login,) = scene.login.live
        scene.login.revoked[login] = scene.clock.now()
        role.retry()

        dead = 0.0
        for _ in range(160):
            await scene.clock.advance(0.5)
            found = scene.cache.read(ROLES[0], scene.clock.now())
            dead += 0.5 * (found is not None and found.lease.id not in scene.vault.live)
        assert dead <= 2.5


async def test_an_engine_that_goes_on_saying_that_the_login_has_ended_is_called_no_more_than_the_budget_allows() -> (
    None
):
    clock = FakeClock()
    engine = FakeEngine(clock, script=lambda operation, n: AuthExpired("x"))
    role = Renewer("a", engine=engine, cache=LeaseCache(["a"]), policy=Policy(), clock=clock)
    async with kept(role):
        await clock.advance(300)

    at = [when for when, _, _ in engine.calls]
    assert max(sum(begin <= each < begin + 60 for each in at) for begin in at) <= 7
    assert sum(each - begin < 0.5 for begin, each in pairwise(at)) <= 1, "at once only the first time"


@pytest.mark.parametrize("sick", [4, 40])
async def test_a_restart_among_the_sick_waits_three_seconds_for_word_of_what_was_left(sick: int) -> None:
    clock = FakeClock()
    circuit = Circuit("v", alive=well)
    cache = LeaseCache(["good", *(f"sick-{n}" for n in range(sick))])

    def left(name: str) -> RoleRecord:
        data = {"username": Secret("u"), "password": Secret("p")}
        grant = Grant(id=name, data=data, ttl=60.0, renewable=True)
        lease = Lease(first=grant, last=grant, issued_at=clock.now(), granted_at=clock.now(), jitter=0.0)
        return RoleRecord(current=lease, generation=1)

    fine, ill = FakeEngine(clock), Sick(clock)
    fine.born["good"], fine.ends["good"] = clock.now(), clock.now() + 60
    roles = [
        Renewer(
            name,
            engine=fine if name == "good" else ill,
            cache=cache,
            policy=Policy(),
            clock=clock,
            gate=circuit,
            adopted=left(name),
        )
        for name in reversed(cache.roles)
    ]
    async with kept(*roles):
        await clock.advance(4)

        assert cache.read("good", clock.now()) is not None


async def test_a_login_that_is_lost_while_a_record_is_written_publishes_nothing_dead() -> None:
    scene = Scene(token_ttl=600, lease_ttl=60)
    slow, seen, failing = [0.0], set[str](), [False]

    class Slow:
        async def save(self, role: str, record: RoleRecord) -> None:
            fresh = record.current is not None and not record.proposed and record.current.id not in seen
            if slow[0] and fresh:
                await scene.clock.sleep(slow[0])

    role = Renewer(
        ROLES[0],
        engine=scene.vault,
        cache=scene.cache,
        policy=Policy(),
        clock=scene.clock,
        gate=scene.session,
        ties=scene.session,
        recorder=Slow(),
    )
    scene.roles[ROLES[0]] = role
    scene.login.script = lambda operation, n: Unavailable("no") if failing[0] and operation == "issue" else None
    async with scene.running():
        await scene.clock.advance(20)
        seen.add(role.held()[0].lease_id)
        slow[0] = 1.5
        role.replace()
        await scene.clock.advance(0.5)
        failing[0] = True
        (login,) = scene.login.live
        scene.login.revoked[login] = scene.clock.now()
        scene.session.renewer.expired([login])

        assert await scene.dead_readings(40) <= 2.5


async def test_a_look_that_hangs_asks_first_whether_the_upstream_is_well() -> None:
    clock = FakeClock()
    circuit = Circuit("v", alive=well)
    source = FakeSource(clock, script=lambda n: 1000.0)
    poller = Poller("kv", source=source, cache=LeaseCache(["kv"]), clock=clock, interval=60, gate=circuit)
    task = asyncio.create_task(poller.run())
    await clock.advance(30)
    task.cancel()

    assert circuit.state == "closed"


async def test_calls_that_others_wait_for_stand_behind_nobody_who_tries_again(clock: FakeClock) -> None:
    circuit = Circuit("v", limit=2)
    inside: list[str] = []

    async def call(name: str, gate: Circuit | First) -> None:
        async with gate.turn(retrying=True):
            inside.append(name)
            await clock.sleep(10)

    calls = [asyncio.create_task(call(f"retry-{n}", circuit)) for n in range(3)]
    await clock.advance(0)
    calls.append(asyncio.create_task(call("login", First(circuit))))
    await clock.advance(1)

    assert inside == ["retry-0", "login"]
    for each in calls:
        each.cancel()


async def test_while_nothing_answers_those_who_try_again_wait_for_the_same_probe(clock: FakeClock) -> None:
    circuit = Circuit("v", limit=4)
    told: list[str] = []

    async def call(name: str) -> None:
        try:
            async with circuit.turn(retrying=True):
                await clock.sleep(10)
                raise Unavailable("no answer", unreachable=True)
        except Unavailable:
            told.append(name)

    calls = [asyncio.create_task(call(f"r{n}")) for n in range(40)]
    await clock.advance(21)

    assert len(told) == 40, "two of them were the first, and one more asked for all the others"
    assert all(each.done() for each in calls)
