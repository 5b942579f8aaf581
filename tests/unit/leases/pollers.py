"""A Poller with everything around it faked, and a source that people or a rotation change."""

import asyncio
import contextlib
import math
import random
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

from agent.errors import NotFound
from agent.leases.cache import LeaseCache, Snapshot
from agent.leases.circuit import OPEN, Gate
from agent.leases.engine import Fetched, Verify
from agent.leases.lease import Secret
from agent.leases.poller import Kind, Poller
from tests.fakes import FakeClock, settle

ROLE = "database/static-creds/app"


class FakeSource:
    """A secret in memory. `script` answers each look, by its number: an exception, seconds to hang, or None.

    Args:
        period: seconds between two rotations; none by default.
        lag: seconds by which each comes late; it says meanwhile that it is due,
        resets_early: unless it is one that says when the one after that is.
        says: what it says instead, however wrong.
    """

    def __init__(
        self,
        clock: FakeClock,
        *,
        period: float = math.inf,
        lag: float = 0.0,
        resets_early: bool = False,
        says: float | None = None,
        script: Callable[[int], Exception | float | None] = lambda n: None,
    ) -> None:
        self.clock = clock
        self.period = period
        self.lag = lag
        self.resets_early = resets_early
        self.says = says
        self.script = script
        self.born = clock.now()
        self.looks: list[tuple[float, bool]] = []
        self.changed_at = [clock.now()]
        self.deleted = False
        self.fields: dict[str, str] = {}

    def put(self, **fields: str) -> None:
        """Somebody changes it; without fields only the password."""
        self.changed_at.append(self.clock.now())
        self.deleted = False
        self.fields = fields

    @property
    def failed(self) -> list[float]:
        """When looks began that failed."""
        return [at for at, ok in self.looks if not ok]

    @property
    def rotations(self) -> int:
        """How often the upstream has really rotated it."""
        if self.period == math.inf:
            return 0
        return max(0, math.floor((self.clock.now() - self.born - self.lag) / self.period))

    @property
    def version(self) -> str:
        """What a look would find."""
        return f"{len(self.changed_at)}.{self.rotations}"

    @property
    def changes_in(self) -> float:
        """What the upstream says."""
        if self.says is not None:
            return self.says
        if self.period == math.inf:
            return math.inf
        lived = self.clock.now() - self.born
        if self.resets_early:
            return self.period - lived % self.period
        return max(0.0, (self.rotations + 1) * self.period - lived)

    async def fetch(self, role: str) -> Fetched:
        """One look."""
        at, number = self.clock.now(), len(self.looks)
        self.looks.append((at, False))
        answer = self.script(number)
        if isinstance(answer, Exception):
            raise answer
        if answer is not None:
            await self.clock.sleep(answer)
        self.looks[number] = (at, True)
        if self.deleted:
            self.looks[number] = (at, False)
            raise NotFound(f"{role}: there is no such secret")
        data = self.fields or {"username": "app", "password": f"password {self.version}"}
        secrets = {name: Secret(value) for name, value in data.items()}
        return Fetched(data=secrets, version=self.version, changes_in=self.changes_in)


@dataclass
class Rig:
    """A Poller at work inside `async with rig.running()`."""

    clock: FakeClock
    source: FakeSource
    interval: float = 300.0
    kind: Kind = "kv"
    gate: Gate = OPEN
    verify: Verify | None = None
    lazy: bool = False
    splay: float = 0.0
    seed: int = 1
    role: str = ROLE
    cache: LeaseCache = field(default_factory=lambda: LeaseCache([ROLE]))

    def __post_init__(self) -> None:
        self.failed: list[str] = []
        self.poller = Poller(
            self.role,
            source=self.source,
            cache=self.cache,
            clock=self.clock,
            interval=self.interval,
            kind=self.kind,
            gate=self.gate,
            verify=self.verify,
            rng=random.Random(self.seed),  # noqa: S311 - a seed makes the test repeatable
            lazy=self.lazy,
            splay=self.splay,
            on_failed=lambda role, error: self.failed.append(error),
        )

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[asyncio.Task[None]]:
        """Run it inside this block."""
        task = asyncio.create_task(self.poller.run())
        await settle()
        try:
            yield task
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    @property
    def served(self) -> Snapshot | None:
        """What a reader gets now."""
        return self.cache.read(ROLE, self.clock.now())

    @property
    def password(self) -> str:
        """What a reader would log in with, "" for nothing."""
        return self.served.lease.data["password"].reveal() if self.served else ""

    @property
    def remaining(self) -> float:
        """Seconds that a reader is told."""
        return self.served.remaining(self.clock.now()) if self.served else 0.0
