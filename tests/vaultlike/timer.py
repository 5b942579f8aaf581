"""The one timer of a server: whatever happens at a time happens through it."""

import asyncio
import heapq
import itertools
import time
from collections.abc import Awaitable, Callable, Hashable

Action = Callable[[], Awaitable[None]]


class Timer:
    """Runs actions when they are due; setting a key again moves it."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Hashable]] = []
        self._due: dict[Hashable, tuple[float, Action]] = {}
        self._changed = asyncio.Event()
        self._count = itertools.count()
        self._running: set[asyncio.Task[None]] = set()

    def set(self, key: Hashable, at: float, action: Action) -> None:
        """At this Unix time."""
        self._due[key] = (at, action)
        heapq.heappush(self._heap, (at, next(self._count), key))
        self._changed.set()

    def drop(self, key: Hashable) -> None:
        """Not any more."""
        self._due.pop(key, None)

    def start(self, action: Action) -> None:
        """Now, behind the answer of the request that asks for it."""
        task = asyncio.get_running_loop().create_task(self._guarded(action))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def run(self) -> None:
        """Until cancelled."""
        self._changed = asyncio.Event()  # an event belongs to the loop that has waited on it
        try:
            while True:
                self._changed.clear()
                wait = self._fire()
                try:
                    async with asyncio.timeout(wait):
                        await self._changed.wait()
                except TimeoutError:
                    continue
        finally:
            for task in self._running:
                task.cancel()
            await asyncio.gather(*self._running, return_exceptions=True)

    def _fire(self) -> float | None:
        """Start what is due; how long until the next."""
        while self._heap:
            at, _, key = self._heap[0]
            known = self._due.get(key)
            if known is None or known[0] != at:
                heapq.heappop(self._heap)  # moved or dropped meanwhile
                continue
            if at > time.time():
                return at - time.time()
            heapq.heappop(self._heap)
            del self._due[key]
            self.start(known[1])
        return None

    async def _guarded(self, action: Action) -> None:
        await action()
