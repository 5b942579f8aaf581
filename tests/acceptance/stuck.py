"""The agent, with a loop that gets stuck when it is told to: SIGRTMIN blocks it for six seconds, as a bug would.

Stopping the process from outside (SIGSTOP) would be another thing: here everything but the loop goes on.
"""

import signal
import sys
import time

from agent.cli import main


def _block(number: int, frame: object) -> None:
    time.sleep(6.0)


if __name__ == "__main__":
    signal.signal(signal.SIGRTMIN, _block)
    sys.exit(main(sys.argv[1:]))
