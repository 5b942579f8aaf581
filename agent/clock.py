"""The only file that reads time or sleeps, so that a test can move time by hand.

Two dials, never mixed in one expression: `now()` is the dial of every decision, monotonic and counting suspend
(CLOCK_BOOTTIME on Linux); `wall()` is Unix time, only for what people and clients read.
"""

import asyncio
import time
from contextlib import AbstractAsyncContextManager
from typing import Protocol

# macOS has no CLOCK_BOOTTIME; its CLOCK_MONOTONIC counts suspend already.
_DIAL = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


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
    waits when the machine was suspended.
    """

    def now(self) -> float:
        """Seconds on the dial."""
        return time.clock_gettime(_DIAL)

    def wall(self) -> float:
        """Unix time in seconds."""
        return time.time()

    async def sleep(self, delay: float) -> None:
        """Return after `delay` seconds."""
        await asyncio.sleep(delay)

    def timeout(self, delay: float | None) -> AbstractAsyncContextManager[object]:
        """A block that is cancelled and raises TimeoutError after `delay` seconds."""
        return asyncio.timeout(delay)


def pause(delay: float) -> None:
    """Block for `delay` seconds: for commands that poll a running agent; never inside the loop."""
    time.sleep(delay)


async def wait_for(clock: Clock, event: asyncio.Event, delay: float | None) -> bool:
    """Wait until `event` is set or `delay` seconds have passed; True if it was set."""
    try:
        async with clock.timeout(delay):
            await event.wait()
    except TimeoutError:
        return False
    return True
