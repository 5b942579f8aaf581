import asyncio
from collections.abc import Awaitable, Callable
from functools import partial

import pytest

from agent.errors import Forbidden, NotLoggedIn, Unavailable
from agent.leases.circuit import OPEN, Circuit
from tests.fakes import FakeClock, FakeEngine, settle
from tests.unit.leases.builders import ROLE, Rig

GONE = Unavailable("gone", unreachable=True)


async def through(circuit: Circuit, call: Callable[[], Awaitable[object]]) -> None:
    """One call in its turn."""
    async with circuit.turn():
        await call()


async def test_calls_at_once_are_bounded(clock: FakeClock) -> None:
    engine = FakeEngine(clock, script=lambda op, n: 10.0)
    circuit = Circuit("db", limit=2)

    tasks = [asyncio.create_task(through(circuit, partial(engine.issue, "r", str(n)))) for n in range(5)]
    await clock.advance(10)
    assert len(engine.ends) == 2
    await clock.advance(20)

    assert all(task.done() for task in tasks)


async def test_one_call_probes_for_all_while_nothing_answers(clock: FakeClock) -> None:
    engine = FakeEngine(clock, script=lambda op, n: GONE)
    circuit = Circuit("db")
    with pytest.raises(Unavailable):
        await through(circuit, engine.ping)
    assert circuit.state == "open"
    engine.script = lambda op, n: 5.0

    tasks = [asyncio.create_task(through(circuit, engine.ping)) for _ in range(10)]
    await clock.advance(1)
    waiting = len([task for task in tasks if not task.done()])
    engine.script = lambda op, n: None
    await clock.advance(10)

    assert waiting == 10
    assert all(task.exception() is None for task in tasks)
    assert circuit.state == "closed"


async def test_a_failed_probe_answers_all_who_waited_without_another_call(clock: FakeClock) -> None:
    engine = FakeEngine(clock, script=lambda op, n: GONE)
    circuit = Circuit("db")
    with pytest.raises(Unavailable):
        await through(circuit, engine.ping)

    async def slow_failure() -> None:
        await clock.sleep(3)
        raise Unavailable("still gone", unreachable=True)

    probes = [asyncio.create_task(through(circuit, slow_failure))]
    probes += [asyncio.create_task(through(circuit, engine.ping)) for _ in range(4)]
    await clock.advance(3)
    results = await asyncio.gather(*probes, return_exceptions=True)

    assert {str(result) for result in results} == {"still gone"}
    assert engine.count("ping") == 1


async def test_who_waits_for_a_place_when_the_upstream_falls_silent_makes_no_call_of_its_own(clock: FakeClock) -> None:
    """A thousand queued calls must not each find out for themselves, ten seconds long."""
    engine = FakeEngine(clock, script=lambda op, n: 10.0)
    circuit = Circuit("db", limit=2)

    async def patient() -> None:
        async with circuit.turn(), clock.timeout(4.0):
            await engine.ping()

    tasks = [asyncio.create_task(patient()) for _ in range(20)]
    await clock.advance(9)

    assert all(task.done() and task.exception() is not None for task in tasks)
    assert engine.count("ping") == 3  # two that found out, one that probed for the rest


async def test_a_place_is_given_back_whatever_the_gate_has_found(clock: FakeClock) -> None:
    answers = [GONE, None, Forbidden("no"), None]
    engine = FakeEngine(clock, script=lambda op, n: answers[0])
    circuit = Circuit("db", limit=1)
    while len(answers) > 1:
        await asyncio.gather(*(through(circuit, engine.ping) for _ in range(3)), return_exceptions=True)
        answers.pop(0)

    await through(circuit, engine.ping)

    assert circuit.state == "closed"


async def test_success_that_tells_nothing_leaves_the_gate_as_narrow_as_it_was(clock: FakeClock) -> None:
    """Revoking what was only proposed asks no server that names its leases itself: it is no sign of life."""
    engine = FakeEngine(clock, script=lambda op, n: GONE)
    circuit = Circuit("db")
    with pytest.raises(Unavailable):
        await through(circuit, engine.ping)

    async with circuit.turn(telling=False):
        pass
    with pytest.raises(NotLoggedIn):
        async with circuit.turn():
            raise NotLoggedIn("nobody was asked")

    assert circuit.state == "open"


async def test_whoever_waits_for_a_probe_that_tells_nothing_is_next_to_find_out(clock: FakeClock) -> None:
    engine = FakeEngine(clock, script=lambda op, n: GONE)
    circuit = Circuit("db")
    with pytest.raises(Unavailable):
        await through(circuit, engine.ping)
    engine.script = lambda op, n: None

    async def nothing() -> None:
        async with circuit.turn(telling=False):
            await clock.sleep(1)

    first = asyncio.create_task(nothing())
    await settle()
    waiting = [asyncio.create_task(through(circuit, engine.ping)) for _ in range(3)]
    await settle()
    calls = engine.count("ping")
    await clock.advance(1)
    await asyncio.gather(first, *waiting)

    assert calls == 1
    assert circuit.state == "closed"


async def test_a_refusal_holds_nobody_else_up(clock: FakeClock) -> None:
    engine = FakeEngine(clock, script=lambda op, n: Forbidden("no"))
    circuit = Circuit("db")

    with pytest.raises(Forbidden):
        await through(circuit, engine.ping)

    assert circuit.state == "closed"


async def test_a_caller_that_is_cancelled_says_nothing_about_the_upstream_and_frees_its_place(clock: FakeClock) -> None:
    """A stop cancels calls in flight, and then needs every place for its revocations."""
    engine = FakeEngine(clock, script=lambda op, n: 100.0)
    circuit = Circuit("db", limit=1)

    task = asyncio.create_task(through(circuit, engine.ping))
    await settle()
    task.cancel()
    await settle()
    engine.script = lambda op, n: None
    await through(circuit, engine.ping)

    assert circuit.state == "closed"


async def test_a_call_whose_deadline_passes_narrows_the_gate_and_frees_its_place(clock: FakeClock) -> None:
    engine = FakeEngine(clock, script=lambda op, n: 100.0)
    circuit = Circuit("db", limit=1)

    async def bounded() -> None:
        async with clock.timeout(1.0):
            await engine.ping()

    task = asyncio.create_task(through(circuit, bounded))
    await clock.advance(2.0)
    assert isinstance(task.exception(), TimeoutError)
    assert circuit.state == "open"
    engine.script = lambda op, n: None
    await through(circuit, engine.ping)

    assert circuit.state == "closed"
    assert "closed" in repr(circuit)


async def test_a_caller_that_leaves_the_queue_says_nothing_about_the_upstream(clock: FakeClock) -> None:
    engine = FakeEngine(clock, script=lambda op, n: 5.0)
    circuit = Circuit("db", limit=1)
    first, second = (asyncio.create_task(through(circuit, engine.ping)) for _ in range(2))
    await settle()

    second.cancel()
    await clock.advance(5)

    assert first.done()
    assert first.exception() is None
    assert circuit.state == "closed"
    assert engine.count("ping") == 1


async def test_a_role_waits_for_its_turn_as_long_as_it_takes_and_loses_no_life_by_it(clock: FakeClock) -> None:
    """A thousand roles that start at once: the last one's turn comes after more than a call's deadline."""
    circuit = Circuit("db", limit=1)
    rig = Rig(clock, FakeEngine(clock, ttl=60), gate=circuit)
    taken = asyncio.create_task(through(circuit, lambda: clock.sleep(30.0)))
    await settle()
    task = asyncio.create_task(rig.renewer.run())

    await clock.advance(29)
    before = rig.engine.count("issue")
    await clock.advance(1)
    snapshot = rig.cache.read(ROLE, clock.now())
    task.cancel()
    await settle()

    assert taken.done()
    assert before == 0
    assert snapshot is not None
    assert snapshot.remaining(clock.now()) == 60.0
    assert rig.engine.count("issue", ok=False) == 0


async def test_the_stop_keeps_its_deadline_although_others_hold_every_place(clock: FakeClock) -> None:
    circuit = Circuit("db", limit=1)
    rig = Rig(clock, FakeEngine(clock, ttl=60), gate=circuit)
    task = asyncio.create_task(rig.renewer.run())
    await settle()
    task.cancel()
    await settle()
    taken = asyncio.create_task(through(circuit, lambda: clock.sleep(1000.0)))
    await settle()

    closing = asyncio.create_task(rig.renewer.close(8.0))
    await clock.advance(8)

    assert closing.done()
    assert "not revoked" in closing.result()[0]
    taken.cancel()


async def test_the_open_gate_lets_everybody_through_at_once() -> None:
    async with OPEN.turn(), OPEN.turn():
        pass


async def test_calls_that_end_together_in_vain_ask_once_whether_the_upstream_is_well(clock: FakeClock) -> None:
    asked: list[float] = []

    async def alive() -> bool:
        asked.append(clock.now())
        await clock.sleep(0.3)
        return True

    circuit = Circuit("vault", alive=alive)

    async def hang() -> None:
        async with circuit.turn():
            await clock.sleep(1.0)
            raise Unavailable("no answer", unreachable=True, timed_out=True)

    calls = [asyncio.create_task(hang()) for _ in range(4)]
    await clock.advance(2.0)

    assert len(asked) == 1
    assert all(isinstance(call.exception(), Unavailable) for call in calls)
    assert circuit.state == "closed"


async def test_one_who_is_cancelled_while_asking_leaves_the_question_to_the_next(clock: FakeClock) -> None:
    async def alive() -> bool:
        await clock.sleep(0.3)
        return True

    circuit = Circuit("vault", alive=alive)

    async def hang() -> None:
        async with circuit.turn():
            await clock.sleep(1.0)
            raise Unavailable("no answer", unreachable=True, timed_out=True)

    first, second = asyncio.create_task(hang()), asyncio.create_task(hang())
    await clock.advance(1.1)
    first.cancel()
    await clock.advance(1.0)

    assert first.cancelled()
    assert isinstance(second.exception(), Unavailable)
    assert circuit.state == "closed"


async def test_tries_after_a_failure_leave_half_the_places_to_others(clock: FakeClock) -> None:
    circuit = Circuit("vault", limit=4)
    inside: list[str] = []

    async def call(name: str, *, retrying: bool) -> None:
        async with circuit.turn(retrying=retrying):
            inside.append(name)
            await clock.sleep(10)

    calls = [asyncio.create_task(call(f"retry-{n}", retrying=True)) for n in range(6)]
    await clock.advance(0)
    calls += [asyncio.create_task(call(f"first-{n}", retrying=False)) for n in range(2)]
    await clock.advance(1)

    assert sorted(inside) == ["first-0", "first-1", "retry-0", "retry-1"]
    for each in calls:
        each.cancel()
