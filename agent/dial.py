"""The dial and a pause, without asyncio, for the commands that ask a running agent; `agent.clock` stands on it.

Importing asyncio takes longer than all else that they do. An exec probe starts a process every second: what it does not
need it does not load.
"""

import time

# macOS has no CLOCK_BOOTTIME; its CLOCK_MONOTONIC counts suspend already.
_DIAL = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def now() -> float:
    """Seconds on the dial: monotonic, suspend included."""
    return time.clock_gettime(_DIAL)


def pause(delay: float) -> None:
    """Block for `delay` seconds: for commands that poll a running agent; never inside the loop."""
    time.sleep(delay)
