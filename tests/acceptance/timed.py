"""The agent on a clock that a test turns: `python -m tests.acceptance.timed CONTROL run -c FILE`.

What it runs is the agent itself; only where its clock reads the dial and Unix time is told from outside. CONTROL is a
file of three numbers, mapped into both processes, so that a turn takes effect at the next reading.
"""

import asyncio
import mmap
import os
import struct
import sys
import time
from pathlib import Path

_NUMBERS = struct.Struct("=ddd")


class Turned:
    """A clock's control, in the test and in the agent alike.

    Attributes:
        file: the control file.
    """

    def __init__(self, file: Path, *, rate: float | None = None) -> None:
        self.file = file
        self._began = time.clock_gettime(time.CLOCK_BOOTTIME), time.time()
        if rate is not None:
            file.write_bytes(_NUMBERS.pack(0.0, 0.0, rate))
        with file.open("r+b") as opened:
            self._numbers = mmap.mmap(opened.fileno(), _NUMBERS.size)

    def turn(self, *, dial: float = 0.0, wall: float = 0.0) -> None:
        """Move the dial and the wall clock by so many seconds, ahead or back."""
        at_dial, at_wall, rate = self._read()
        _NUMBERS.pack_into(self._numbers, 0, at_dial + dial, at_wall + wall, rate)

    def _read(self) -> tuple[float, float, float]:
        dial, wall, rate = _NUMBERS.unpack_from(self._numbers)
        return float(dial), float(wall), float(rate)

    def dial(self) -> float:
        """What the agent reads in place of CLOCK_BOOTTIME."""
        offset, _, rate = self._read()
        began = self._began[0]
        return began + (time.clock_gettime(time.CLOCK_BOOTTIME) - began) * rate + offset

    def wall(self) -> float:
        """What the agent reads in place of Unix time."""
        _, offset, rate = self._read()
        began = self._began[1]
        return began + (time.time() - began) * rate + offset


async def _serve(control: Path, config: Path) -> int:
    from agent.app import App
    from agent.cli import handle_signals
    from agent.clock import SystemClock
    from agent.config.load import load_file

    clock = Turned(control)
    stop, hurry = asyncio.Event(), asyncio.Event()
    handle_signals(stop, hurry)
    app = App(load_file(config, environ=dict(os.environ)), clock=SystemClock(dial=clock.dial, wall=clock.wall))
    ended = await app.run(stop, hurry=hurry)
    return 1 if ended.crashed else 6 if ended.left else 0


def main(argv: list[str]) -> int:
    """Run it; the exit codes of `leasehold run`."""
    from agent import log
    from agent.cli import run_loop

    control, _, _, config = argv
    log.configure(level="info", json=True)
    return run_loop(_serve(Path(control), Path(config)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
