import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import cast

import pytest

from agent.engines.postgres import PostgresEngine, Swept
from agent.errors import Unavailable
from agent.leases.circuit import Circuit
from agent.sweeper import Sweeper
from tests.fakes import FakeClock, settle


class Sweeps:
    """An engine that does nothing but sweep: `answer` is what it says, or raises, or the seconds it hangs."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.answer: Swept | Exception | float = swept()
        self.count = 0

    async def sweep(self) -> Swept:
        """One sweep."""
        self.count += 1
        if isinstance(self.answer, Exception):
            raise self.answer
        if isinstance(self.answer, float):
            await self.clock.sleep(self.answer)
            return swept()
        return self.answer


def swept(*expired: str) -> Swept:
    return Swept(reaped=len(expired), failed=(), strangers=0, expired=frozenset(expired))


@contextlib.asynccontextmanager
async def sweeping(
    clock: FakeClock, engine: Sweeps, circuit: Circuit, told: list[frozenset[str]]
) -> AsyncIterator[None]:
    """A sweeper at work, every ten seconds."""
    sweeper = Sweeper("db", cast(PostgresEngine, engine), circuit, clock, 10.0, expired=told.append)
    task = asyncio.create_task(sweeper.run())
    await settle()
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def test_what_has_expired_is_told_and_nothing_else(clock: FakeClock) -> None:
    engine, told = Sweeps(clock), list[frozenset[str]]()

    async with sweeping(clock, engine, Circuit("db"), told):
        await clock.advance(10)
        engine.answer = swept("a", "b")
        await clock.advance(10)

    assert engine.count == 2
    assert told == [{"a", "b"}]


@pytest.mark.parametrize("answer", [Unavailable("away", unreachable=True), 1000.0])
async def test_a_sweep_that_fails_is_followed_by_another(clock: FakeClock, answer: Exception | float) -> None:
    engine, told, circuit = Sweeps(clock), list[frozenset[str]](), Circuit("db")
    engine.answer = answer

    async with sweeping(clock, engine, circuit, told):
        await clock.advance(20)
        narrowed = circuit.state
        engine.answer = swept("a")
        await clock.advance(20)

    assert narrowed == "open"
    assert told[0] == {"a"}
    assert circuit.state == "closed"


async def test_a_sweep_waits_for_its_turn_as_long_as_it_takes(clock: FakeClock) -> None:
    engine, told, circuit = Sweeps(clock), list[frozenset[str]](), Circuit("db", limit=1)

    async with sweeping(clock, engine, circuit, told):
        async with circuit.turn():
            await clock.advance(60)
            waiting = engine.count
        await clock.advance(0)

    assert (waiting, engine.count) == (0, 1)
    assert circuit.state == "closed"
