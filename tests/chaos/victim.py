"""Runs the agent's command line in a process that kills itself, with SIGKILL, when it comes to a failpoint.

    python -m tests.chaos.victim POINT NTH -- run -c FILE

What dies so tidies up nothing: no `finally`, no farewell to the server. The NTH time that POINT is reached is meant.
"""

import itertools
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence

from agent import cli
from agent.failpoints import Failpoint, armed

MOMENT = 0.15


def fatal(nth: int) -> Callable[[], None]:
    """The action that ends this process the `nth` time it is called, from whatever thread.

    Beside the loop (files are written there) it takes a moment: if the loop does not wait for what is being written, as
    it must for a record, readers will see what comes too early.
    """
    times = itertools.count(1)

    def die() -> None:
        if next(times) == nth:
            if threading.current_thread() is not threading.main_thread():
                time.sleep(MOMENT)
            os.kill(os.getpid(), signal.SIGKILL)

    return die


def main(argv: Sequence[str]) -> int:
    """Run `argv` with its point armed; the exit code of an agent that never came to it."""
    point, nth, dashes, *command = argv
    if dashes != "--":
        raise SystemExit("usage: python -m tests.chaos.victim POINT NTH -- run -c FILE")
    with armed(Failpoint(point), fatal(int(nth))):
        return cli.main(command)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
