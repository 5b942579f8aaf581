"""What readers see: per role the current lease, its generation, and how the role is doing.

Synchronous except for waiting; no I/O, no clock: whoever publishes or reads says what time it is. The Renewer writes,
`api` and `files` read. A waiter waits on an Event of its own, so one who leaves disturbs nobody.
"""

import asyncio
import contextlib
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from enum import StrEnum

from agent.clock import SET, Clock, wait_for
from agent.leases.lease import Lease


class Phase(StrEnum):
    """How a role is doing, as health and status say it."""

    IDLE = "idle"  # lazy, and nobody has asked
    STARTING = "starting"  # its first attempt is running
    FRESH = "fresh"  # a credential is served and nothing is wrong
    STALE = "stale"  # a credential is served, but renewing or replacing it fails
    FAILING = "failing"  # nothing to serve, and trying goes on
    STOPPED = "stopped"  # the agent is ending


@dataclass(frozen=True, kw_only=True)
class RoleStatus:
    """How a role is doing.

    Attributes:
        failures: failed attempts in a row.
        retry_at: dial instant of the next attempt, while something fails.
        next_step: what the Renewer will do next (`renew`, `issue`, …) and
        next_at: the dial instant at which it will.
        error: the last failure in one line, without secrets; "" when nothing is wrong.
        draining: replaced leases that are still valid.
    """

    phase: Phase = Phase.STARTING
    failures: int = 0
    retry_at: float = 0.0
    next_step: str = ""
    next_at: float = 0.0
    error: str = ""
    draining: int = 0


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """One published credential, as every reader of this moment gets it.

    Attributes:
        generation: changes when the credential is replaced, not when it is renewed: Unix ms of publishing, strictly
            increasing.
        request_id: one UUID per snapshot; it changes with every renewal.
        until: dial instant from which it is served no more (its end less the safety margin).
        expires_wall: Unix time of its end, fixed once per snapshot so that readers always see the same; told anew when
            somebody sets the wall clock.
        verified: whether a login with it succeeded before it was published.
        stale: whether renewing it fails at the moment.
    """

    role: str
    lease: Lease = field(repr=False)
    generation: int
    request_id: str
    until: float
    expires_wall: float
    verified: bool
    stale: bool = False

    def remaining(self, now: float) -> float:
        """Seconds of life left."""
        return self.lease.expires_at - now


@dataclass(frozen=True, kw_only=True)
class Counts:
    """What has happened to a role since the start.

    Attributes:
        published: credentials that readers got; all but the first replaced another.
        expired: leases that came to their end while they were served, because nothing could replace them in time.
    """

    published: int = 0
    expired: int = 0


class _Entry:
    __slots__ = ("counts", "generation", "on_demand", "read_at", "snapshot", "status", "version", "waiters")

    def __init__(self) -> None:
        self.counts = Counts()
        self.snapshot: Snapshot | None = None
        self.status = RoleStatus()
        self.generation = 0
        self.version = 0
        self.read_at = float("-inf")
        self.on_demand: Callable[[], None] | None = None
        self.waiters: set[asyncio.Event] = set()

    def changed(self) -> None:
        self.version += 1
        for waiter in self.waiters:
            waiter.set()


class LeaseCache:
    """The current lease of every configured role. Unknown role names raise KeyError."""

    def __init__(self, roles: Iterable[str]) -> None:
        self._entries = {role: _Entry() for role in roles}

    def __repr__(self) -> str:
        return f"LeaseCache({', '.join(f'{r}={e.status.phase}' for r, e in self._entries.items())})"

    def __contains__(self, role: str) -> bool:
        return role in self._entries

    @property
    def roles(self) -> tuple[str, ...]:
        """Every configured role."""
        return tuple(self._entries)

    # -- written by the Renewer -------------------------------------------------------------------------------------

    def next_generation(self, role: str, wall: float) -> int:
        """The generation that a credential published now would have: greater than every one before."""
        return max(self._entries[role].generation + 1, int(wall * 1000))

    def publish(
        self,
        role: str,
        lease: Lease,
        *,
        until: float,
        verified: bool,
        now: float,
        wall: float,
        generation: int | None = None,
    ) -> Snapshot:
        """Make `lease` what readers of `role` get from now on.

        Args:
            generation: of a credential that was published before; a new one otherwise.
        """
        entry = self._entries[role]
        entry.generation = self.next_generation(role, wall) if generation is None else generation
        entry.snapshot = Snapshot(
            role=role,
            lease=lease,
            generation=entry.generation,
            request_id=str(uuid.uuid4()),
            until=until,
            expires_wall=wall + (lease.expires_at - now),
            verified=verified,
        )
        entry.counts = replace(entry.counts, published=entry.counts.published + 1)
        entry.changed()
        return entry.snapshot

    def renewed(self, role: str, lease: Lease, *, until: float, now: float, wall: float, stale: bool = False) -> None:
        """The published credential lives until `lease.expires_at` now; its generation stays."""
        entry = self._entries[role]
        if entry.snapshot is None:
            return
        moved = wall + (lease.expires_at - now)
        told = entry.snapshot.expires_wall
        if lease.expires_at >= entry.snapshot.lease.expires_at and moved > told - SET:
            moved = max(moved, told)  # rounding takes nothing back; a wall clock that was set back does
        entry.snapshot = replace(
            entry.snapshot,
            lease=lease,
            until=until,
            expires_wall=moved,
            request_id=str(uuid.uuid4()),
            stale=stale,
        )
        entry.changed()

    def wall_set(self, now: float, wall: float) -> None:
        """Somebody has set the wall clock: tell readers by the new one when each credential ends."""
        for entry in self._entries.values():
            if entry.snapshot is None:
                continue
            moved = wall + (entry.snapshot.lease.expires_at - now)
            if abs(moved - entry.snapshot.expires_wall) > SET:
                entry.snapshot = replace(entry.snapshot, expires_wall=moved, request_id=str(uuid.uuid4()))
                entry.changed()

    def withdraw(self, role: str) -> None:
        """Serve nothing for `role` until the next publish."""
        entry = self._entries[role]
        if entry.snapshot is not None:
            entry.snapshot = None
            entry.changed()

    def count_expired(self, role: str) -> None:
        """Note that a served lease came to its end."""
        entry = self._entries[role]
        entry.counts = replace(entry.counts, expired=entry.counts.expired + 1)

    def report(self, role: str, status: RoleStatus) -> None:
        """Say how `role` is doing; a served credential turns stale, or fresh again, with it."""
        entry = self._entries[role]
        if status == entry.status:
            return
        entry.status = status
        stale = status.phase is Phase.STALE
        if entry.snapshot is not None and entry.snapshot.stale != stale:
            entry.snapshot = replace(entry.snapshot, stale=stale)
        entry.changed()

    def on_demand(self, role: str, wake: Callable[[], None] | None) -> None:
        """Call `wake` whenever a reader asks for `role` (lazy roles)."""
        self._entries[role].on_demand = wake

    # -- asked by readers -------------------------------------------------------------------------------------------

    def read(self, role: str, now: float) -> Snapshot | None:
        """What may be served for `role` at `now`: None where there is nothing, or its safety margin has begun."""
        snapshot = self._entries[role].snapshot
        return snapshot if snapshot is not None and now < snapshot.until else None

    def demand(self, role: str, now: float) -> None:
        """Note that a reader asked for `role`; a lazy role is obtained, and kept, because of it."""
        entry = self._entries[role]
        entry.read_at = now
        if entry.on_demand is not None:
            entry.on_demand()

    def read_at(self, role: str) -> float:
        """Dial instant of the newest demand, −inf before the first."""
        return self._entries[role].read_at

    def status(self, role: str) -> RoleStatus:
        """How `role` is doing."""
        return self._entries[role].status

    def counts(self, role: str) -> Counts:
        """What has happened to `role` since the start."""
        return self._entries[role].counts

    def version(self, role: str) -> int:
        """Changes with everything a reader could see: publish, renewal, withdrawal, status."""
        return self._entries[role].version

    async def changed(self, role: str, seen: int) -> Snapshot:
        """Wait until `role` has a credential whose generation is not `seen`."""
        with self.subscribe([role]) as subscription:
            while True:
                snapshot = self._entries[role].snapshot
                if snapshot is not None and snapshot.generation != seen:
                    return snapshot
                await subscription.next()

    async def settled(self, role: str) -> None:
        """Wait until `role` has a credential or its first attempt has ended."""
        with self.subscribe([role]) as subscription:
            entry = self._entries[role]
            while entry.snapshot is None and entry.status.phase is Phase.STARTING:
                await subscription.next()

    @contextlib.contextmanager
    def subscribe(self, roles: Iterable[str]) -> Iterator["Subscription"]:
        """Be told of every change of `roles` from now on; changes between two calls of `next` count as one."""
        event = asyncio.Event()
        entries = [self._entries[role] for role in roles]
        for entry in entries:
            entry.waiters.add(event)
        try:
            yield Subscription(event)
        finally:
            for entry in entries:
                entry.waiters.discard(event)


class Subscription:
    """A reader's own place in the queue of the told."""

    __slots__ = ("_event",)

    def __init__(self, event: asyncio.Event) -> None:
        self._event = event

    async def next(self) -> None:
        """Return at the next change, at once if one came since the last call."""
        await self._event.wait()
        self._event.clear()

    async def next_within(self, clock: Clock, delay: float | None) -> bool:
        """Return at the next change, or after `delay` seconds; True if there was one."""
        await wait_for(clock, self._event, delay)
        changed = self._event.is_set()  # it may have come in the instant in which the time was up
        self._event.clear()
        return changed
