"""Ends a throwaway PostgreSQL and removes its directory when the process that started it is gone, however it went.

Runs as a program of its own (`python -I -S watchdog.py DIRECTORY…`): only the standard library, nothing of `agent`. Its
standard input is a pipe whose other end only the starter holds. Each line there is the process to end, 0 for none; the
end of input means that the starter is gone. `agent.dev.cluster` uses the same functions on its own server.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

_PROC = Path("/proc")
_STEP = 0.01  # seconds between two looks


def _table() -> Iterator[tuple[int, int, str]]:
    """Every process: its id, its parent's, its state's letter."""
    if not (_PROC / "self" / "stat").exists():  # macOS
        argv = ["/bin/ps", "-A", "-o", "pid=,ppid=,state="]
        for line in subprocess.run(argv, capture_output=True, text=True, check=False).stdout.splitlines():  # noqa: S603 - fixed
            pid, parent, state = line.split(maxsplit=2)
            yield int(pid), int(parent), state[0]
        return
    for name in os.listdir(_PROC):
        if name.isdigit():
            with contextlib.suppress(OSError):  # it has ended since
                # The name in parentheses may hold anything, so the fields are counted from its last parenthesis.
                state, parent = (_PROC / name / "stat").read_text(errors="replace").rpartition(")")[2].split()[:2]
                yield int(name), int(parent), state


def descendants(pid: int) -> list[int]:
    """Children of `pid`, their children and so on; those that have ended but were not waited for are left out."""
    children: dict[int, list[int]] = {}
    for child, parent, state in _table():
        if state != "Z":
            children.setdefault(parent, []).append(child)
    found, left = [], [pid]
    while left:
        more = children.get(left.pop(), [])
        found += more
        left += more
    return found


def living(pids: Iterable[int]) -> list[int]:
    """Those of `pids` that still run."""
    wanted = set(pids)
    return [pid for pid, _, state in _table() if pid in wanted and state != "Z"]


def send(pids: Iterable[int], number: signal.Signals) -> None:
    """Send a signal to each that is still there."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def freeze(pid: int) -> list[int]:
    """Stop `pid`, then all its descendants, until no new one is found; returns the descendants."""
    send([pid], signal.SIGSTOP)
    frozen: list[int] = []
    while new := [child for child in descendants(pid) if child not in frozen]:
        send(new, signal.SIGSTOP)
        frozen += new
    return frozen


def gone(pids: Iterable[int], patience: float) -> bool:
    """Wait up to `patience` seconds for all of `pids` to end; True if they did."""
    left, end = list(pids), time.monotonic() + patience
    while (left := living(left)) and time.monotonic() < end:
        time.sleep(_STEP)
    return not left


def _end(pid: int) -> None:
    """PostgreSQL's immediate shutdown, which clears its shared memory; then the hard way."""
    send([*descendants(pid), pid], signal.SIGCONT)
    send([pid], signal.SIGQUIT)
    if not gone([pid], 5.0):
        family = [*freeze(pid), pid]
        send(family, signal.SIGKILL)
        gone(family, 5.0)


def _remove(directory: str) -> None:
    end = time.monotonic() + 10.0
    while os.path.lexists(directory) and time.monotonic() < end:
        # What was still writing there a moment ago may have added a file behind rmtree's back.
        shutil.rmtree(directory, ignore_errors=True)
        time.sleep(_STEP)


def main() -> None:
    """Wait for the starter's end, then tidy up."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    pid = 0
    for line in sys.stdin:
        pid = int(line)
    if pid:
        _end(pid)
    for directory in sys.argv[1:]:
        _remove(directory)


if __name__ == "__main__":
    main()
