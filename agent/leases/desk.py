"""The agent's own leases across all roles: what callers may look at, and what operators may end.

Nothing here asks an upstream: the Renewers know what they hold, and they alone revoke it.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from agent.clock import Clock
from agent.leases.held import Held

SOON = 300.0
"""A lease with less than this left (seconds) is about to expire (R003-056)."""


@dataclass(frozen=True, kw_only=True)
class Counts:
    """The leases of some roles, at one moment.

    Attributes:
        active: those that are served.
        draining: replaced, and still valid.
        doomed: never served, to be revoked.
        expiring_soon: of the active ones, those with less than SOON left.
        failed_revocations: those whose revocation has failed and is tried again.
    """

    active: int = 0
    draining: int = 0
    doomed: int = 0
    expiring_soon: int = 0
    failed_revocations: int = 0


@dataclass(frozen=True, kw_only=True)
class Booked:
    """One lease by the journal of its upstream, whoever holds it; instants are Unix times by the server's clock.

    Attributes:
        owner: the pod it was issued for, and
        incarnation: the run of its agent.
        state: "active", "overdue" (ended, and its user is still there) or "revoked".
        remaining: seconds to its end by that clock, negative after it.
    """

    lease_id: str = field(repr=False)
    role: str
    username: str = field(repr=False)
    owner: str
    incarnation: int
    state: str
    issued: float
    expires: float
    remaining: float
    requested_ttl: float
    granted_ttl: float


@dataclass(frozen=True, kw_only=True)
class Shelf:
    """What was found in a journal, newest first; `cut` where there is more."""

    leases: tuple[Booked, ...] = ()
    cut: bool = False


Journal = Callable[[str, str, int], Awaitable[Shelf]]
"""The leases that have not been revoked: of an upstream, below a path ("" for all), at most so many.

Raises KeyError where there is no such upstream, UpstreamError where it cannot be asked.
"""


class Keeper(Protocol):
    """As much of a Renewer as is asked here."""

    def held(self) -> Sequence[Held]:
        """Every lease of the role, the served one first."""
        ...

    def revoke(self, lease_id: str) -> asyncio.Event | None:
        """See Renewer.revoke."""
        ...

    async def strike(self, lease_id: str) -> None:
        """See Renewer.strike."""
        ...


class Desk:
    """Looks after the leases of `renewers`, by role; the mapping may still grow."""

    def __init__(self, renewers: Mapping[str, Keeper], clock: Clock) -> None:
        self._renewers = renewers
        self._clock = clock

    def held(self, roles: Collection[str]) -> list[Held]:
        """Every lease of these roles, role by role, the served one first."""
        return [each for role, renewer in self._renewers.items() if role in roles for each in renewer.held()]

    def find(self, lease_id: str, roles: Collection[str]) -> Held | None:
        """That lease, if one of these roles has it."""
        return next((each for each in self.held(roles) if each.lease_id == lease_id), None)

    async def revoke(self, leases: Sequence[Held], patience: float) -> int:
        """End these leases: none is served any more before anything else happens. Their Renewers go on until they are.

        Returns:
            How many the upstreams have not confirmed within `patience` seconds.
        """
        asked = [self._renewers[each.role].revoke(each.lease_id) for each in leases]
        confirmed = [event for event in asked if event is not None]  # None: it has ended meanwhile
        await asyncio.gather(*(self._renewers[each.role].strike(each.lease_id) for each in leases))
        try:
            async with self._clock.timeout(patience):
                for event in confirmed:
                    await event.wait()
        except TimeoutError:
            return sum(not event.is_set() for event in confirmed)
        return 0


def counts(leases: Sequence[Held], now: float) -> Counts:
    """How many of each kind."""
    states = [each.state for each in leases]
    return Counts(
        active=states.count("published"),
        draining=states.count("draining"),
        doomed=states.count("doomed"),
        expiring_soon=sum(each.state == "published" and each.expires_at - now < SOON for each in leases),
        failed_revocations=sum(each.tried for each in leases),
    )


def below(role: str, prefix: str) -> bool:
    """Whether `role` is `prefix` or stands below it: "database/creds/app" does not mean "database/creds/app-2"."""
    return role == prefix or role.startswith(f"{prefix}/")


def works_until(lease: Held) -> float:
    """The dial instant up to which the credential is good: a draining one's revocation may come before its end."""
    if lease.state != "draining" or lease.tried:
        return lease.expires_at
    return min(lease.expires_at, lease.revoke_at)
