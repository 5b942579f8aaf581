"""Who looks on: every call that a role's Renewer makes is told, once it has ended, to audit and metrics."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeVar

from agent.clock import Clock
from agent.leases.engine import Engine, Fetched, Source, Verify
from agent.leases.lease import Grant, Lease, Secret

T = TypeVar("T")


class Operation(StrEnum):
    """What an upstream, or for VERIFY the database, was asked for."""

    ISSUE = "issue"
    VERIFY = "verify"
    RENEW = "renew"
    REVOKE = "revoke"
    LOOK = "look"


OK = "ok"
INCONCLUSIVE = "inconclusive"
NO_ANSWER = "no-answer"


@dataclass(frozen=True, kw_only=True)
class Call:
    """One call and how it ended.

    Attributes:
        outcome: `OK`; `INCONCLUSIVE` where a credential could not be tried; `NO_ANSWER` where the deadline passed or
            the agent stopped; else the name of the error's class, e.g. "Unavailable".
        took: seconds.
        lease_id: "" for a verification, and for a look.
        username: of the credential; "" where it is not known (any more).
        requested, granted: seconds of life, at an issue or a renewal; 0 where they do not apply or nothing was granted.
    """

    role: str
    upstream: str
    operation: Operation
    outcome: str
    took: float
    lease_id: str = field(default="", repr=False)
    username: str = field(default="", repr=False)
    requested: float = 0.0
    granted: float = 0.0


class Observed:
    """An Engine around `engine`, for one role.

    Args:
        requested: the TTL in seconds that the role asks for at an issue.
        tell: called with every call that has ended; must not raise and must not block.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        role: str,
        upstream: str,
        requested: float,
        clock: Clock,
        tell: Callable[[Call], None],
    ) -> None:
        self._engine = engine
        self._watch = _Watch(role, upstream, clock, tell)
        self._requested = requested
        # Whose leases these are, for the line that says that they were revoked: ours until then.
        self._users: dict[str, str] = {}

    async def issue(self, role: str, proposed_id: str) -> Grant:
        """See Engine."""
        with self._watch.over(Operation.ISSUE, proposed_id, requested=self._requested) as seen:
            grant = await self._engine.issue(role, proposed_id)
            self._users[grant.id] = _user(grant.data)
            seen.granted(grant, self._users[grant.id])
        return grant

    async def renew(self, lease: Lease, increment: float) -> Grant:
        """See Engine."""
        user = self._users.setdefault(lease.id, _user(lease.data))
        with self._watch.over(Operation.RENEW, lease.id, username=user, requested=increment) as seen:
            grant = await self._engine.renew(lease, increment)
            seen.granted(grant, user)
        return grant

    async def revoke(self, lease_id: str) -> None:
        """See Engine."""
        with self._watch.over(Operation.REVOKE, lease_id, username=self._users.get(lease_id, "")):
            await self._engine.revoke(lease_id)
        self._users.pop(lease_id, None)

    async def ping(self) -> None:
        """See Engine; a ping is nobody's lease, and is not told."""
        await self._engine.ping()


class ObservedVerify:
    """A Verify around `verify`, for one role; see Observed."""

    def __init__(self, verify: Verify, *, role: str, upstream: str, clock: Clock, tell: Callable[[Call], None]) -> None:
        self._verify = verify
        self._watch = _Watch(role, upstream, clock, tell)

    async def __call__(self, data: Mapping[str, Secret], until: float) -> bool:
        """See Verify."""
        with self._watch.over(Operation.VERIFY, "", username=_user(data)) as seen:
            verified = await self._verify(data, until)
            seen.outcome = OK if verified else INCONCLUSIVE
        return verified


class ObservedSource:
    """A Source around `source`, for one role; see Observed."""

    def __init__(self, source: Source, *, role: str, upstream: str, clock: Clock, tell: Callable[[Call], None]) -> None:
        self._source = source
        self._watch = _Watch(role, upstream, clock, tell)

    async def fetch(self, role: str) -> Fetched:
        """See Source."""
        with self._watch.over(Operation.LOOK, ""):
            return await self._source.fetch(role)


class _Watch:
    """Times one role's calls and tells of them."""

    def __init__(self, role: str, upstream: str, clock: Clock, tell: Callable[[Call], None]) -> None:
        self.role = role
        self.upstream = upstream
        self.clock = clock
        self.tell = tell

    def over(self, operation: Operation, lease_id: str, *, username: str = "", requested: float = 0.0) -> "_Seen":
        return _Seen(self, operation, lease_id, username, requested)


class _Seen:
    """One call while it is under way."""

    def __init__(self, watch: _Watch, operation: Operation, lease_id: str, username: str, requested: float) -> None:
        self.outcome = OK
        self._watch = watch
        self._operation = operation
        self._lease_id = lease_id
        self._username = username
        self._requested = requested
        self._granted = 0.0
        self._began = watch.clock.now()

    def granted(self, grant: Grant, username: str) -> None:
        """What the upstream gave."""
        self._lease_id, self._username, self._granted = grant.id, username, grant.ttl

    def __enter__(self) -> "_Seen":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if kind is not None:
            self.outcome = NO_ANSWER if issubclass(kind, asyncio.CancelledError) else kind.__name__
        watch = self._watch
        watch.tell(
            Call(
                role=watch.role,
                upstream=watch.upstream,
                operation=self._operation,
                outcome=self.outcome,
                took=watch.clock.now() - self._began,
                lease_id=self._lease_id,
                username=self._username,
                requested=self._requested,
                granted=self._granted,
            )
        )


def _user(data: Mapping[str, Secret]) -> str:
    name = data.get("username")
    return "" if name is None else name.reveal()
