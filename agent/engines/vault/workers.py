"""A few daemon threads for calls that block: kept while there is work, never waited for at the end."""

import asyncio
import contextlib
import errno
import queue
import threading
from collections import deque
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from agent.clock import Clock, wait_for

MOST = 4
"""Threads per upstream."""

IDLE = 30.0
"""Seconds without work after which a thread ends, and closes its connections: no server has closed them by then."""

_MOMENT = 1.0
"""Seconds for what was cut to end."""


class Closable(Protocol):
    """What a thread works with, and keeps from one piece of work to the next."""

    def close(self) -> None:
        """Close its connections."""
        ...


Tool = TypeVar("Tool", bound=Closable)
Tool_contra = TypeVar("Tool_contra", contravariant=True)


class Work(Protocol[Tool_contra]):
    """One call. It raises nothing."""

    def do(self, tool: Callable[[], Tool_contra]) -> Callable[[], None]:
        """Do it, in a thread; `tool` gives what the thread works with, and may raise.

        Returns:
            What tells the caller, called once the thread is free again: so the next call finds it.
        """
        ...

    def refuse(self) -> None:
        """It will not be done: the pool is closed."""
        ...

    @property
    def deserted(self) -> bool:
        """Whether nobody waits for it any more."""
        ...

    def cut(self) -> None:
        """Bring it to its end within a moment."""
        ...


class _Thread(Generic[Tool]):
    """One thread: where its next work is put, and what it does now."""

    def __init__(self) -> None:
        self.inbox: queue.SimpleQueue[Work[Tool] | None] = queue.SimpleQueue()
        self.now: Work[Tool] | None = None


class Workers(Generic[Tool]):
    """At most MOST threads. Whoever was used last is used next, so that few connections do most of the work.

    Args:
        name: of the threads.
        tool: makes what a thread works with; called in the thread, at its first work.
        idle: seconds without work after which a thread ends.
    """

    def __init__(self, name: str, tool: Callable[[], Tool], *, idle: float = IDLE) -> None:
        self._name = name
        self._idle_time = idle
        self._tool = tool
        self._lock = threading.Lock()
        self._threads: list[_Thread[Tool]] = []
        self._idle: list[_Thread[Tool]] = []
        self._queue: deque[Work[Tool]] = deque()
        self._closed = False
        self._ended: Callable[[], None] = lambda: None

    def __repr__(self) -> str:
        busy = len(self._threads) - len(self._idle)
        return f"Workers({self._name}, {busy} busy, {len(self._idle)} idle, {len(self._queue)} waiting)"

    def submit(self, work: Work[Tool]) -> None:
        """Have `work` done by the next free thread.

        Raises:
            OSError: EAGAIN: there is no thread to be had, and none there already.
        """
        with self._lock:
            closed = self._closed
            if not closed:
                self._hand_over(work)
        if closed:
            work.refuse()

    def _hand_over(self, work: Work[Tool]) -> None:
        if self._idle:
            thread = self._idle.pop()
            thread.now = work
            thread.inbox.put(work)
        elif len(self._threads) >= MOST or not self._start(work):
            self._queue.append(work)
            self._make_room()

    def _start(self, work: Work[Tool]) -> bool:
        thread = _Thread[Tool]()
        thread.now = work
        thread.inbox.put(work)
        try:
            threading.Thread(target=self._run, args=(thread,), name=self._name, daemon=True).start()
        except RuntimeError as error:  # CPython's word for pthread_create's EAGAIN
            if self._threads:
                return False
            raise OSError(errno.EAGAIN, "no thread to be had (pids limit?)") from error
        self._threads.append(thread)
        return True

    def make_room(self) -> None:
        """Somebody has deserted a call: if others wait for a thread, it need not go on."""
        with self._lock:
            self._make_room()

    def _make_room(self) -> None:
        deserted = [thread.now for thread in self._threads if thread.now is not None and thread.now.deserted]
        for work in deserted[: len(self._queue)]:
            work.cut()

    def _run(self, thread: _Thread[Tool]) -> None:
        made: list[Tool] = []

        def tool() -> Tool:
            if not made:
                made.append(self._tool())
            return made[0]

        try:
            while (work := self._next(thread)) is not None:
                tell = work.do(tool)
                del work  # what it holds is not kept until the next one comes
                self._free(thread)
                tell()
                del tell
        finally:
            with contextlib.suppress(Exception):  # a connection that will not close is no reason to keep the thread
                for one in made:
                    one.close()
            with self._lock:
                self._threads.remove(thread)
                ended = self._ended if not self._threads else None
            if ended is not None:
                ended()

    def _free(self, thread: _Thread[Tool]) -> None:
        with self._lock:
            thread.now = self._queue.popleft() if self._queue else None
            if thread.now is not None or self._closed:
                thread.inbox.put(thread.now)
            else:
                self._idle.append(thread)

    def _next(self, thread: _Thread[Tool]) -> Work[Tool] | None:
        try:
            return thread.inbox.get(timeout=self._idle_time)
        except queue.Empty:
            with self._lock:
                if thread in self._idle:
                    self._idle.remove(thread)
                    return None
        return thread.inbox.get()  # it was put there at the last moment

    async def close(self, clock: Clock, *, linger: float = _MOMENT) -> None:
        """Take no more work, refuse what waits, cut short what runs, and wait for its end.

        Args:
            linger: seconds to wait at most. Work that was deserted is not cut: it may have an answer to see to.
        """
        loop = asyncio.get_running_loop()
        ended = asyncio.Event()

        def tell() -> None:
            with contextlib.suppress(RuntimeError):  # the loop has closed
                loop.call_soon_threadsafe(ended.set)

        with self._lock:
            self._closed = True
            self._ended = tell
            waiting, running = list(self._queue), [thread.now for thread in self._threads if thread.now is not None]
            self._queue.clear()
            for thread in self._idle:
                thread.inbox.put(None)
            self._idle.clear()
            gone = not self._threads
        for work in waiting:
            work.refuse()
        for work in running:
            if not work.deserted:
                work.cut()
        if not gone:
            await wait_for(clock, ended, linger)
