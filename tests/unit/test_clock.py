import asyncio
import time

import pytest

from agent.clock import Dials, Jump, SystemClock, wait_for
from tests.fakes import FakeClock, settle


def test_the_dial_and_the_wall_clock_are_the_machines() -> None:
    clock = SystemClock()

    assert abs(clock.wall() - time.time()) < 5.0
    assert clock.now() <= clock.now()


def test_a_dial_that_goes_back_stands_still_and_goes_on_from_there() -> None:
    """A restored checkpoint: a lease must not live an hour longer because the dial lost one."""
    readings = iter([100.0, 160.0, 40.0, 50.0, 45.0, 100.0])
    clock = SystemClock(dial=lambda: next(readings))

    assert [clock.now() for _ in range(6)] == [100.0, 160.0, 160.0, 170.0, 170.0, 225.0]


async def test_dials_that_agree_have_not_jumped(clock: FakeClock) -> None:
    look = asyncio.create_task(Dials(clock).look(5.0))

    await clock.advance(5)

    assert await look == Jump()


async def test_a_suspended_machine_shows_by_how_much_the_dial_ran_ahead(clock: FakeClock) -> None:
    look = asyncio.create_task(Dials(clock).look(5.0))
    await settle()

    clock.suspend(3600)
    await clock.advance(5)

    assert (await look).slept == pytest.approx(3600, abs=5.0)
    assert (await look).set_by == 0.0


async def test_a_loop_that_is_a_little_late_has_not_slept(clock: FakeClock) -> None:
    look = asyncio.create_task(Dials(clock).look(5.0))
    await settle()

    clock.suspend(6.9)
    await clock.advance(0)

    assert await look == Jump()


@pytest.mark.parametrize("step", [-86400.0, -3600.0, 3600.0, 86400.0])
async def test_a_wall_clock_that_was_set_is_told_once(clock: FakeClock, step: float) -> None:
    dials = Dials(clock)
    jumps = []
    for move in (0.0, step, 0.0):
        look = asyncio.create_task(dials.look(5.0))
        await settle()
        clock.step_wall(move)
        await clock.advance(5)
        jumps.append(await look)

    assert [jump.slept for jump in jumps] == [0.0, 0.0, 0.0]
    assert [jump.set_by for jump in jumps] == [0.0, pytest.approx(step), 0.0]


async def test_small_moves_of_the_wall_clock_add_up_until_a_second_shows(clock: FakeClock) -> None:
    dials = Dials(clock)
    moved = []
    for _ in range(4):
        look = asyncio.create_task(dials.look(5.0))
        await settle()
        clock.step_wall(0.4)
        await clock.advance(5)
        moved.append((await look).set_by)

    assert moved == [0.0, 0.0, pytest.approx(1.2), 0.0]


async def test_waiting_for_an_event_ends_with_it_or_with_time(clock: FakeClock) -> None:
    event = asyncio.Event()
    late = asyncio.create_task(wait_for(clock, event, 3.0))
    await clock.advance(3)
    event.set()

    assert await late is False
    assert await wait_for(clock, event, None) is True
