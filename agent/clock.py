"""The only file that reads time or sleeps (with `agent.dial` beneath it), so that a test can move time by hand.

Two dials, never mixed in one expression: `now()` is the dial of every decision, monotonic and counting suspend
(CLOCK_BOOTTIME on Linux); `wall()` is Unix time, only for what people and clients read.
"""

import asyncio
import math
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from agent import dial as machine

SUSPENDED = 2.0
"""Seconds by which the dial may run ahead of the timers before that means something: a busy machine does it too."""

SET = 1.0
"""Seconds by which the wall clock may part from the dial: less is nothing that a whole second would show."""


class Clock(Protocol):
    """What the rest of the program knows of time."""

    def now(self) -> float:
        """Seconds on the dial: monotonic, suspend included."""
        ...

    def wall(self) -> float:
        """Unix time in seconds."""
        ...

    async def sleep(self, delay: float) -> None:
        """Return after `delay` seconds."""
        ...

    def timeout(self, delay: float | None) -> AbstractAsyncContextManager[object]:
        """A block that is cancelled and raises TimeoutError after `delay` seconds; None never ends it."""
        ...


class SystemClock:
    """The machine's clock.

    Its timers are the event loop's, which do not count suspend; `agent.app` compares the dials and wakes whoever
    waits when the machine was suspended. Its dial never goes back: should the machine's do so (a restored checkpoint),
    it stands still for that one reading and goes on from there, since every instant in memory is on the old count.

    Args:
        dial: where the dial is read; for tests, like the next one.
        wall: where Unix time is read.
    """

    def __init__(self, *, dial: Callable[[], float] = machine.now, wall: Callable[[], float] = time.time) -> None:
        self._dial = dial
        self._wall = wall
        self._latest = -math.inf
        self._lost = 0.0

    def now(self) -> float:
        """Seconds on the dial."""
        read = self._dial() + self._lost
        if read < self._latest:
            self._lost += self._latest - read
            return self._latest
        self._latest = read
        return read

    def wall(self) -> float:
        """Unix time in seconds."""
        return self._wall()

    async def sleep(self, delay: float) -> None:
        """Return after `delay` seconds."""
        await asyncio.sleep(delay)

    def timeout(self, delay: float | None) -> AbstractAsyncContextManager[object]:
        """A block that is cancelled and raises TimeoutError after `delay` seconds."""
        return asyncio.timeout(delay)


@dataclass(frozen=True, kw_only=True)
class Jump:
    """What no timer tells.

    Attributes:
        slept: seconds by which the dial ran ahead of the timers: the machine was suspended, or the loop was stuck.
        set_by: seconds by which somebody has moved the wall clock.
    """

    slept: float = 0.0
    set_by: float = 0.0


class Dials:
    """Compares the timers, the dial and the wall clock, look by look."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._offset = clock.wall() - clock.now()

    async def look(self, after: float) -> Jump:
        """What has jumped in the next `after` seconds; zeros where nothing has."""
        began = self._clock.now()
        await self._clock.sleep(after)
        now = self._clock.now()
        slept = now - began - after
        offset = self._clock.wall() - now
        moved = offset - self._offset
        if abs(moved) <= SET:
            moved = 0.0  # and added up over the looks: the next one compares with the same offset
        else:
            self._offset = offset
        return Jump(slept=slept if slept > SUSPENDED else 0.0, set_by=moved)


async def wait_for(clock: Clock, event: asyncio.Event, delay: float | None) -> bool:
    """Wait until `event` is set or `delay` seconds have passed; True if it was set."""
    try:
        async with clock.timeout(delay):
            await event.wait()
    except TimeoutError:
        return False
    return True
