import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any, cast

import pytest
import structlog.testing

from agent.engines.postgres import PostgresEngine, Swept
from agent.engines.postgres.journal import Row, Tally
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


def piled(active: int, overdue: int = 0, role: str = "database/creds/app") -> Swept:
    return replace(
        swept(), tallies=(Tally(role="other/creds/role", active=9), Tally(role=role, active=active, overdue=overdue))
    )


async def test_a_role_whose_leases_pile_up_is_named_once_until_they_are_fewer(clock: FakeClock) -> None:
    """R000-035, R003-091: live ones, and those that have ended and keep their users."""
    engine = Sweeps(clock)
    limits = {"database/creds/app": 100}
    sweeper = Sweeper(
        *("db", cast(PostgresEngine, engine), Circuit("db"), clock, 10.0),
        expired=lambda ids: None,
        warn_beyond=lambda role: limits.get(role, 0),
    )
    named: list[int] = []

    with structlog.testing.capture_logs() as lines:
        task = asyncio.create_task(sweeper.run())
        for answer in (piled(100), piled(101), piled(91), piled(150), piled(90), piled(100), piled(3, 101), piled(0)):
            engine.answer = answer
            await clock.advance(10)
            named.append(sum(line["event"] == "leases-pile-up" for line in lines))
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    assert named == [0, 1, 1, 1, 1, 1, 2, 2]
    told = [(line["role"], line["count"], line["reason"].split(";")[0]) for line in lines]
    assert told == [
        ("database/creds/app", 101, "live"),
        ("database/creds/app", 101, "have ended and keep their users"),
    ]
    assert [each.active for each in sweeper.tallies] == [9, 0]
    assert sweeper.swept_at == clock.now()


async def test_the_counts_of_the_last_good_sweep_stand_while_the_server_is_away(clock: FakeClock) -> None:
    engine = Sweeps(clock)
    sweeper = Sweeper(*("db", cast(PostgresEngine, engine), Circuit("db"), clock, 10.0), expired=lambda ids: None)
    before = (sweeper.tallies, sweeper.swept_at)

    task = asyncio.create_task(sweeper.run())
    engine.answer = piled(5)
    await clock.advance(10)
    engine.answer = Unavailable("away", unreachable=True)
    await clock.advance(60)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)

    assert before == ((), float("-inf"))
    assert [each.active for each in sweeper.tallies] == [9, 5]
    assert sweeper.swept_at == clock.now() - 60


async def test_whose_leases_a_sweep_has_ended_is_told(clock: FakeClock) -> None:
    """R003-065."""
    row = Row(
        id="id-1",
        role="r",
        username="u",
        holder="web-1",
        incarnation=1,
        issued=0.0,
        expires=1.0,
        max_expires=2.0,
        requested_ttl=1.0,
        granted_ttl=1.0,
        revoked_at=None,
    )
    engine, told = Sweeps(clock), list[tuple[str, Any]]()
    sweeper = Sweeper(
        *("db", cast(PostgresEngine, engine), Circuit("db"), clock, 10.0),
        expired=lambda ids: None,
        ended=lambda name, rows: told.append((name, rows)),
    )

    task = asyncio.create_task(sweeper.run())
    await clock.advance(10)
    engine.answer = replace(swept("id-1"), ended=(row,))
    await clock.advance(10)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)

    assert told == [("db", (row,))]


async def test_a_sweep_waits_for_its_turn_as_long_as_it_takes(clock: FakeClock) -> None:
    engine, told, circuit = Sweeps(clock), list[frozenset[str]](), Circuit("db", limit=1)

    async with sweeping(clock, engine, circuit, told):
        async with circuit.turn():
            await clock.advance(60)
            waiting = engine.count
        await clock.advance(0)

    assert (waiting, engine.count) == (0, 1)
    assert circuit.state == "closed"
