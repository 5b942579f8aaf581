"""Short ways to make the values these tests speak of."""

import math
import random
from dataclasses import dataclass, field

from agent.leases.cache import LeaseCache
from agent.leases.circuit import OPEN, Gate
from agent.leases.engine import Verify
from agent.leases.lease import Grant, Lease, Secret
from agent.leases.renewer import Renewer
from agent.leases.schedule import Policy
from tests.fakes import FakeClock, FakeEngine

ROLE = "database/creds/app"


def grant(*, ttl: float = 60.0, max_ttl: float = math.inf, renewable: bool = True, id: str = "lease-1") -> Grant:
    """A grant with made-up data."""
    data = {"username": Secret("u"), "password": Secret("p")}
    return Grant(id=id, data=data, ttl=ttl, renewable=renewable, max_ttl=max_ttl)


def lease(
    *,
    ttl: float = 60.0,
    max_ttl: float = math.inf,
    renewable: bool = True,
    at: float = 0.0,
    jitter: float = 0.0,
    id: str = "lease-1",
) -> Lease:
    """A lease issued at `at`."""
    first = grant(ttl=ttl, max_ttl=max_ttl, renewable=renewable, id=id)
    return Lease(first=first, last=first, issued_at=at, granted_at=at, jitter=jitter)


@dataclass
class Rig:
    """A Renewer with everything around it faked."""

    clock: FakeClock
    engine: FakeEngine
    policy: Policy = field(default_factory=Policy)
    verify: Verify | None = None
    lazy: bool = False
    splay: float = 0.0
    verify_every: float = 0.0
    gate: Gate = OPEN
    seed: int = 1
    cache: LeaseCache = field(default_factory=lambda: LeaseCache([ROLE]))

    def __post_init__(self) -> None:
        self.failed: list[str] = []
        self.expired: list[str] = []
        self.renewer = Renewer(
            ROLE,
            engine=self.engine,
            cache=self.cache,
            policy=self.policy,
            clock=self.clock,
            verify=self.verify,
            rng=random.Random(self.seed),  # noqa: S311 - a seed makes the test repeatable
            lazy=self.lazy,
            splay=self.splay,
            verify_every=self.verify_every,
            gate=self.gate,
            on_failed=lambda role, error: self.failed.append(error),
            on_expired=lambda role, lease: self.expired.append(lease.id),
        )

    @property
    def generation(self) -> int:
        """What a reader sees now; 0 for nothing."""
        snapshot = self.cache.read(ROLE, self.clock.now())
        return snapshot.generation if snapshot else 0
