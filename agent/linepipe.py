"""Lines to whoever reads our log, who may be slow, stuck or gone: the agent waits for nobody.

A line is written at once where there is room for it, and by a thread of its own where the reader is late. What a reader
leaves lying beyond 10,000 lines, and what cannot be written at all (a full disk, a reader that has gone), is lost and
counted. An ordinary stream would hold up the whole agent in the one case, and end it in the other.
"""

import atexit
import os
import select
import threading
from collections import deque

_MOST = 10_000
_PIECE = select.PIPE_BUF  # a pipe that can be written to takes as much without waiting


class LinePipe:
    """Writes to a file descriptor; a stand-in for a text stream where only `write` and `flush` are asked for.

    Constructing it does nothing; `drain` is called when the program ends.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._lock = threading.Lock()
        self._waiting: deque[bytes] = deque()
        self._late: threading.Thread | None = None
        self._lost = 0

    def __repr__(self) -> str:
        return f"LinePipe({self._descriptor}, {len(self._waiting)} waiting, {self._lost} lost)"

    def write(self, line: str) -> int:
        """Take a whole line; returns at once."""
        data = line.encode("utf-8", "replace")
        with self._lock:
            if self._late is None:
                data = self._write_now(data)
            if data and len(self._waiting) >= _MOST:
                self._lost += 1
            elif data:
                self._waiting.append(data)
                self._start_late()
        return len(line)

    def flush(self) -> None:
        """Nothing is held back."""

    def take_lost(self) -> int:
        """How many lines were lost since the last call; 0 while another would be lost, too."""
        with self._lock:
            if len(self._waiting) >= _MOST:
                return 0
            lost, self._lost = self._lost, 0
            return lost

    def drain(self, within: float) -> None:
        """Wait until everything is written, at most so many seconds."""
        late = self._late
        if late is not None:
            late.join(within)

    def _write_now(self, data: bytes) -> bytes:
        """What there is no room for."""
        ready = select.poll()
        ready.register(self._descriptor, select.POLLOUT)
        while data and ready.poll(0):
            try:
                data = data[os.write(self._descriptor, data[:_PIECE]) :]
            except BlockingIOError:
                break
            except OSError:
                self._lost += 1
                return b""
        return data

    def _start_late(self) -> None:
        if self._late is None:
            self._late = threading.Thread(target=self._write_late, name="log", daemon=True)
            self._late.start()
            atexit.register(self.drain, 1.0)

    def _write_late(self) -> None:
        ready = select.poll()
        ready.register(self._descriptor, select.POLLOUT)
        while True:
            with self._lock:
                if not self._waiting:
                    self._late = None
                    atexit.unregister(self.drain)
                    return
                data = self._waiting.popleft()
            try:
                while data:
                    ready.poll()
                    data = data[os.write(self._descriptor, data[:_PIECE]) :]
            except OSError:
                with self._lock:
                    self._lost += 1
