"""Leases: what was granted, until when, and how it ends."""

import contextlib
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.vaultlike.messages import Grant, Json, Problem, bare, multi
from tests.vaultlike.timer import Action, Timer
from tests.vaultlike.tokens import Token, random_text
from tests.vaultlike.ttl import granted, instant, remaining

if TYPE_CHECKING:
    from tests.vaultlike.spaces import Mount

_ATTEMPTS = 6  # of a revocation, the first at once, before a lease counts as irrevocable
_FIRST_RETRY = 10.0  # seconds, doubled each time


@dataclass(kw_only=True)
class Lease:
    """One grant.

    Attributes:
        path: where it was issued, below the namespace.
        owner: the token that it dies with; None for a batch token without a parent.
        cap: Unix time that no renewal passes, because the batch token behind it ends.
        failures: revocations that did not succeed.
    """

    id: str
    path: str
    mount: "Mount" = field(repr=False)
    owner: Token | None = field(default=None, repr=False)
    cap: float | None = None
    issued_at: float = field(default_factory=time.time)
    ttl: int = 0
    expires_at: float = 0.0
    last_renewal: float | None = None
    renewable: bool = True
    private: Json = field(default_factory=dict, repr=False)
    failures: int = 0
    ending: bool = False

    def as_data(self) -> Json:
        """What a look-up tells."""
        return {
            "expire_time": instant(self.expires_at),
            "id": self.id,
            "issue_time": instant(self.issued_at),
            "last_renewal": instant(self.last_renewal),
            "path": self.path,
            "renewable": self.renewable and not self.ending,
            "ttl": remaining(self.expires_at),
        }


class LeaseStore:
    """All leases of a server."""

    def __init__(self, timer: Timer) -> None:
        self._timer = timer
        self._by_id: dict[str, Lease] = {}

    def add(self, mount: "Mount", path: str, grant: Grant, token: Token | None) -> Lease:
        """The lease of an answer that is about to be sent."""
        suffix = f".{mount.space.id}" if mount.space.path else ""
        batch = token is not None and token.kind == "batch"
        lease = Lease(
            id=f"{path}/{random_text(24)}{suffix}",
            path=path,
            mount=mount,
            owner=token.parent if batch and token is not None else token,
            cap=token.expires_at if batch and token is not None else None,
            renewable=grant.renewable,
            private=grant.private,
        )
        self._by_id[lease.id] = lease
        self._extend(lease, grant.ttl)
        return lease

    def find(self, lease_id: str) -> Lease | None:
        """Whatever has not been revoked."""
        return self._by_id.get(lease_id)

    def matching(self, holds: Callable[[Lease], bool]) -> Iterable[Lease]:
        """Those for which it holds."""
        return tuple(one for one in self._by_id.values() if holds(one))

    async def renew(self, lease_id: str, increment: float) -> tuple[Lease, list[str]]:
        """Move its end, here and at the engine; the lease and warnings.

        Raises:
            Problem: there is no such lease, or it cannot be renewed.
        """
        lease = self.find(lease_id)
        if lease is None:
            raise Problem(400, "lease not found")
        if lease.failures >= _ATTEMPTS:
            raise Problem(400, "lease is expired and has failed previous revocation attempts")
        if lease.ending or lease.expires_at <= time.time():
            raise Problem(400, "lease expired")
        if not lease.renewable:
            raise Problem(400, "lease is not renewable")
        try:
            ttl, warnings = granted(lease.mount.engine.terms(lease), increment, lease.issued_at)
            ttl = self._capped(lease, ttl)
            await lease.mount.engine.renew(lease, ttl)
        except Problem as exc:
            text = bare(exc.text)
            raise Problem(400, f"failed to renew entry: resp: (*logical.Response)(nil) err: {text}") from exc
        lease.last_renewal = time.time()
        self._extend(lease, ttl)
        return lease, warnings

    async def revoke(self, lease: Lease) -> None:
        """End it at the engine, then forget it; what fails is tried again later.

        Raises:
            Problem: the engine could not.
        """
        if lease.ending:
            return  # somebody is at it
        lease.ending = True
        self._timer.drop(("lease", lease.id))
        try:
            await lease.mount.engine.revoke(lease)
        except Problem as exc:
            self._again(lease)
            text = bare(exc.text).removeprefix("failed to execute query: ")
            raise Problem(400, f"failed to revoke entry: resp: (*logical.Response)(nil) err: {text}") from exc
        self._by_id.pop(lease.id, None)

    def revoke_soon(self, lease: Lease) -> None:
        """Behind the answer."""
        if not lease.ending:
            self._timer.start(self._quiet(lease))

    def forget(self, lease: Lease) -> None:
        """Without asking the engine."""
        self._timer.drop(("lease", lease.id))
        self._by_id.pop(lease.id, None)

    def end_of(self, token: Token) -> None:
        """Whatever hangs on a token ends with it."""
        for lease in self.matching(lambda one: one.owner is token):
            self.revoke_soon(lease)

    def _again(self, lease: Lease) -> None:
        """After a failure: one that has not expired lives on until it does, one that has is tried again later."""
        lease.ending = False
        if lease.expires_at > time.time():
            self._timer.set(("lease", lease.id), lease.expires_at, self._quiet(lease))
            return
        lease.failures += 1
        if lease.failures < _ATTEMPTS:
            pause = _FIRST_RETRY * 2 ** (lease.failures - 1)
            self._timer.set(("lease", lease.id), time.time() + pause, self._quiet(lease))

    def _quiet(self, lease: Lease) -> Action:
        """Revoke it with nobody waiting."""

        async def revoke() -> None:
            with contextlib.suppress(Problem):  # it will be tried again
                await self.revoke(lease)

        return revoke

    def _capped(self, lease: Lease, ttl: int) -> int:
        left = ttl if lease.cap is None else min(ttl, int(lease.cap - time.time()))
        if left <= 0:
            raise Problem(500, multi("past the max TTL, cannot renew"))
        return left

    def _extend(self, lease: Lease, ttl: int) -> None:
        lease.ttl = ttl if lease.cap is None else max(0, min(ttl, round(lease.cap - time.time())))
        lease.expires_at = time.time() + lease.ttl
        self._timer.set(("lease", lease.id), lease.expires_at, self._quiet(lease))
