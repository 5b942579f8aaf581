import asyncio

import pytest

from agent.errors import Forbidden, Unavailable
from agent.leases.circuit import Circuit
from agent.leases.lease import Lease
from tests.fakes import FakeClock, FakeEngine, settle


async def test_calls_at_once_are_bounded(clock: FakeClock) -> None:
    engine = FakeEngine(clock, script=lambda op, n: 10.0)
    circuit = Circuit("db", engine, limit=2)

    tasks = [asyncio.create_task(circuit.issue("r", str(n))) for n in range(5)]
    await clock.advance(10)
    assert len(engine.ends) == 2
    await clock.advance(20)

    assert all(task.done() for task in tasks)


async def test_one_call_probes_for_all_while_nothing_answers(clock: FakeClock) -> None:
    engine = FakeEngine(clock, script=lambda op, n: Unavailable("gone", unreachable=True))
    circuit = Circuit("db", engine)
    with pytest.raises(Unavailable):
        await circuit.ping()
    assert circuit.state == "open"
    engine.script = lambda op, n: 5.0

    tasks = [asyncio.create_task(circuit.ping()) for _ in range(10)]
    await clock.advance(1)
    waiting = len([task for task in tasks if not task.done()])
    engine.script = lambda op, n: None
    await clock.advance(10)

    assert waiting == 10
    assert all(task.exception() is None for task in tasks)
    assert circuit.state == "closed"


async def test_a_failed_probe_answers_all_who_waited_without_another_call(clock: FakeClock) -> None:
    engine = FakeEngine(clock, script=lambda op, n: Unavailable("gone", unreachable=True))
    circuit = Circuit("db", engine)
    with pytest.raises(Unavailable):
        await circuit.ping()

    async def slow_failure() -> None:
        await clock.sleep(3)
        raise Unavailable("still gone", unreachable=True)

    engine.ping = slow_failure  # type: ignore[method-assign]
    tasks = [asyncio.create_task(circuit.ping()) for _ in range(5)]
    await clock.advance(3)
    results = await asyncio.gather(*tasks, return_exceptions=True)

    assert {str(result) for result in results} == {"still gone"}
    assert engine.count("ping") == 1


async def test_renewals_and_revocations_pass_the_same_gate(clock: FakeClock) -> None:
    engine = FakeEngine(clock)
    circuit = Circuit("db", engine)

    grant = await circuit.issue("r", "1")
    held = Lease(first=grant, last=grant, issued_at=0.0, granted_at=0.0, jitter=0.0)
    await circuit.renew(held, 60.0)
    await circuit.revoke("1")

    assert [operation for _, operation, _ in engine.calls] == ["issue", "renew", "revoke"]


async def test_a_refusal_holds_nobody_else_up(clock: FakeClock) -> None:
    circuit = Circuit("db", FakeEngine(clock, script=lambda op, n: Forbidden("no")))

    with pytest.raises(Forbidden):
        await circuit.issue("r", "1")

    assert circuit.state == "closed"


async def test_a_caller_whose_deadline_passes_narrows_the_gate_and_frees_its_place(clock: FakeClock) -> None:
    engine = FakeEngine(clock, script=lambda op, n: 100.0)
    circuit = Circuit("db", engine, limit=1)

    task = asyncio.create_task(circuit.ping())
    await settle()
    task.cancel()
    await settle()
    assert circuit.state == "open"
    engine.script = lambda op, n: None
    await circuit.ping()

    assert circuit.state == "closed"
    assert "closed" in repr(circuit)
