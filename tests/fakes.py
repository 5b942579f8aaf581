"""Doubles that every test may use: a clock moved by hand, and an engine that follows a script."""

import asyncio
import contextlib
import heapq
import itertools
import math
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager

from agent.errors import LeaseGone
from agent.leases.lease import Grant, Lease, Secret


async def settle() -> None:
    """Let every task run until all of them wait for something."""
    loop = asyncio.get_running_loop()
    # asyncio has no public way to ask "is anything left to run?", and uvloop none at all.
    ready = getattr(loop, "_ready", range(50))
    await asyncio.sleep(0)
    if isinstance(ready, range):
        for _ in ready:
            await asyncio.sleep(0)
        return
    while ready:  # noqa: ASYNC110 - there is no event for "nothing left to run"
        await asyncio.sleep(0)


class FakeClock:
    """Time stands still until `advance`; sleepers wake in order, each settled before the next."""

    def __init__(self, now: float = 1000.0, wall: float = 1_800_000_000.0) -> None:
        self._now = now
        self._wall = wall
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()

    def now(self) -> float:
        """The dial."""
        return self._now

    def wall(self) -> float:
        """Unix time."""
        return self._wall

    def step_wall(self, seconds: float) -> None:
        """Somebody sets the machine's clock."""
        self._wall += seconds

    def suspend(self, seconds: float) -> None:
        """The machine sleeps: both dials move on, and no timer fires."""
        self._now += seconds
        self._wall += seconds

    def _at(self, when: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._heap, (when, next(self._order), action))

    async def sleep(self, delay: float) -> None:
        """Return once `advance` has moved past `delay`."""
        woken = asyncio.Event()
        self._at(self._now + delay, woken.set)
        await woken.wait()

    def timeout(self, delay: float | None) -> AbstractAsyncContextManager[object]:
        """Like asyncio.timeout, on this clock."""
        return self._timeout(delay)

    @contextlib.asynccontextmanager
    async def _timeout(self, delay: float | None) -> AsyncIterator[object]:
        async with asyncio.timeout(None) as scope:
            open_ = [True]
            if delay is not None:

                def fire() -> None:
                    if open_[0]:
                        scope.reschedule(asyncio.get_running_loop().time() - 1)

                self._at(self._now + delay, fire)
            try:
                yield scope
            finally:
                open_[0] = False

    async def advance(self, seconds: float) -> None:
        """Move time on, waking every sleeper on the way at its own instant."""
        await settle()
        end = self._now + seconds
        while self._heap and self._heap[0][0] <= end:
            when, _, action = heapq.heappop(self._heap)
            self._wall += max(0.0, when - self._now)
            self._now = max(self._now, when)
            action()
            await settle()
        self._wall += end - self._now
        self._now = end


class FakeEngine:
    """An upstream in memory. `script` answers each call: an exception, seconds to hang, or None for success."""

    def __init__(
        self,
        clock: FakeClock,
        *,
        ttl: float = 60.0,
        max_ttl: float = math.inf,
        renewable: bool = True,
        script: Callable[[str, int], Exception | float | None] = lambda operation, n: None,
    ) -> None:
        self.clock = clock
        self.ttl = ttl
        self.max_ttl = max_ttl
        self.renewable = renewable
        self.script = script
        self.calls: list[tuple[float, str, bool]] = []
        self.ends: dict[str, float] = {}
        self.born: dict[str, float] = {}
        self.revoked: dict[str, float] = {}
        self._names = itertools.count(1)

    @property
    def live(self) -> list[str]:
        """Ids of the leases that still work."""
        return [id_ for id_, end in self.ends.items() if id_ not in self.revoked and end > self.clock.now()]

    def count(self, operation: str, *, ok: bool | None = None) -> int:
        """How many calls of `operation` there were."""
        return sum(1 for _, name, fine in self.calls if name == operation and ok in (None, fine))

    @contextlib.contextmanager
    def _recorded(self, operation: str) -> Iterator[None]:
        at = self.clock.now()
        try:
            yield
        except BaseException:
            self.calls.append((at, operation, False))
            raise
        self.calls.append((at, operation, True))

    async def _play(self, operation: str) -> None:
        answer = self.script(operation, self.count(operation))
        if isinstance(answer, Exception):
            raise answer
        if answer is not None:
            await self.clock.sleep(answer)

    async def issue(self, role: str, proposed_id: str) -> Grant:
        """A new lease."""
        with self._recorded("issue"):
            at = self.clock.now()
            await self._play("issue")
            if proposed_id in self.revoked:
                raise LeaseGone("revoked before it was issued")
            self.born[proposed_id] = at
            self.ends[proposed_id] = self.clock.now() + min(self.ttl, self.max_ttl)
            return Grant(
                id=proposed_id,
                data=self._credential(),
                ttl=min(self.ttl, self.max_ttl),
                renewable=self.renewable,
                max_ttl=self.max_ttl,
            )

    def _credential(self) -> Mapping[str, Secret]:
        n = next(self._names)
        return {"username": Secret(f"user-{n}"), "password": Secret(f"password-of-{n}")}

    async def renew(self, lease: Lease, increment: float) -> Grant:
        """The lease, longer."""
        with self._recorded("renew"):
            at = self.clock.now()
            await self._play("renew")
            if lease.id in self.revoked or self.ends.get(lease.id, 0.0) <= self.clock.now():
                raise LeaseGone("no such lease")
            left = self.born[lease.id] + self.max_ttl - at
            ttl = min(self.ttl, left)
            self.ends[lease.id] = max(self.ends[lease.id], at + ttl)
            return Grant(id=lease.id, data={}, ttl=ttl, renewable=self.renewable, max_ttl=self.max_ttl)

    async def revoke(self, lease_id: str) -> None:
        """Gone."""
        with self._recorded("revoke"):
            await self._play("revoke")
            self.revoked.setdefault(lease_id, self.clock.now())

    async def ping(self) -> None:
        """Answers."""
        with self._recorded("ping"):
            await self._play("ping")
