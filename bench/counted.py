"""`python -m bench.counted FILE`: the agent itself, whose tasks can be counted: from outside nobody sees them.

SIGUSR1 makes it print their number on a line of standard output. Nothing else differs from `leasehold run -c FILE`.
"""

import asyncio
import os
import signal
import sys
from pathlib import Path

from agent import garbage, harden, log
from agent.app import App
from agent.cli import handle_signals, run_loop
from agent.clock import SystemClock
from agent.config.load import load_file


def _say_tasks() -> None:
    print(len(asyncio.all_tasks()), flush=True)


async def _serve(path: Path) -> int:
    stop, hurry = asyncio.Event(), asyncio.Event()
    handle_signals(stop, hurry)
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, _say_tasks)
    app = App(load_file(path, environ=dict(os.environ)), clock=SystemClock())
    ended = await app.run(stop, hurry=hurry, on_started=garbage.settle)
    return 1 if ended.crashed or ended.left else 0


def main() -> int:
    """Run it; the exit code: 1 where something was left behind."""
    harden.harden()
    harden.drop_ambient(os.environ)
    log.configure(level="info", json=True)
    return run_loop(_serve(Path(sys.argv[1])))


if __name__ == "__main__":
    sys.exit(main())
