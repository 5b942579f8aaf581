"""The Renewer: one task per role, and the only caller of an engine for it, so that single flight holds by construction.

It executes `schedule.next_step` and tells the cache; it decides nothing by itself. ADR 1 draws the life of a lease.
"""

import asyncio
import math
import random
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import replace

from agent import log
from agent.clock import Clock, wait_for
from agent.errors import CredentialRefused, Forbidden, LeaseEnded, LeaseGone, Unavailable, UpstreamError
from agent.failpoints import Failpoint, reach
from agent.leases.cache import LeaseCache, Phase, RoleStatus
from agent.leases.calls import Calls
from agent.leases.engine import Engine, Verify
from agent.leases.failures import Failures
from agent.leases.lease import Grant, Lease
from agent.leases.retire import Retirement
from agent.leases.reverify import verify_again
from agent.leases.schedule import (
    CALL_DEADLINE,
    Issue,
    Policy,
    Release,
    Renew,
    RoleView,
    Wait,
    next_step,
    shortened,
    verify_until,
)
from agent.leases.status import status_of
from agent.log import Event

_log = log.get(__name__)

Record = Callable[[str, Lease], Awaitable[None]]
"""Told of a lease before it is published, and of every renewal: what must survive a restart."""


async def _record_nothing(role: str, lease: Lease) -> None:
    return None


class Renewer:
    """Keeps one role alive: obtains, verifies, publishes, renews, replaces with overlap, retires.

    Args:
        verify: tries a new credential; None where there is nowhere to try it.
        record: see Record.
        lazy: obtain the role when somebody asks for it, let it go after one idle TTL.
        splay: seconds by which the first call is delayed.
        verify_every: try the published credential again this often; 0 means never.
        on_failed: told once when `policy.attempts` attempts in a row have failed.
    """

    def __init__(
        self,
        role: str,
        *,
        engine: Engine,
        cache: LeaseCache,
        policy: Policy,
        clock: Clock,
        verify: Verify | None = None,
        record: Record = _record_nothing,
        rng: random.Random | None = None,
        lazy: bool = False,
        splay: float = 0.0,
        verify_every: float = 0.0,
        on_failed: Callable[[str, str], None] = lambda role, error: None,
    ) -> None:
        self.role = role
        self._calls = Calls(role, engine, verify, clock)
        self._cache = cache
        self._policy = policy
        self._clock = clock
        self._verify = verify
        self._record = record
        self._random = rng or random.SystemRandom()
        self._failures = Failures(role, policy, self._random, on_failed)
        self._lazy = lazy
        self._splay = splay
        self._verify_every = verify_every
        self._wake = asyncio.Event()
        self._retirement = Retirement(role, engine, clock, self._random, on_revoked=self._wake.set)
        # A reader may have asked before we were there: the socket listens first.
        self._view = RoleView(wanted=not lazy or cache.read_at(role) > -math.inf)
        self._gone = False
        self._revoke_after: float | None = None
        if lazy:
            cache.on_demand(role, self._demanded)

    def __repr__(self) -> str:
        return f"Renewer({self.role}, {self._cache.status(self.role).phase}, failures={self._view.failures})"

    # -- asked from outside -----------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Keep the role alive until cancelled; then `close` ends its leases."""
        self._view = replace(self._view, not_before=self._clock.now() + self._splay)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._retirement.run(), name=f"retire {self.role}")
            if self._verify is not None and self._verify_every > 0:
                again = verify_again(
                    self._verify,
                    self._clock,
                    self._verify_every,
                    current=lambda: None if self._view.replace else self._view.current,
                    refused=self._refused,
                )
                group.create_task(again, name=f"verify {self.role}")
            await self._keep()

    def replace(self, revoke_after: float | None = None) -> None:
        """Replace the credential now, with overlap.

        Args:
            revoke_after: revoke the old one this many seconds after the new one is published; it only shortens.
        """
        _log.info(Event.REPLACING, role=self.role, reason="asked")
        if revoke_after is not None:
            self._revoke_after = min(revoke_after, self._revoke_after if self._revoke_after is not None else math.inf)
        self._view = replace(self._view, replace=True)
        if self._lazy:
            self._cache.demand(self.role, self._clock.now())
        self._wake.set()

    def recheck(self) -> None:
        """Look at the clock again: the machine was suspended, or its timers are late."""
        self._wake.set()
        self._retirement.recheck()

    async def close(self, deadline: float) -> list[str]:
        """Withdraw the role and revoke all its leases within `deadline` seconds; `run` must have ended.

        Returns:
            What could not be revoked, a line each.
        """
        self._cache.withdraw(self.role)
        self._cache.report(self.role, RoleStatus(phase=Phase.STOPPED))
        self._cache.on_demand(self.role, None)
        if self._view.current is not None:
            self._retirement.drain(self._view.current, self._clock.now())
            self._view = replace(self._view, current=None)
        return await self._retirement.finish(deadline)

    # -- the loop ---------------------------------------------------------------------------------------------------

    async def _keep(self) -> None:
        while True:
            self._wake.clear()
            now = self._clock.now()
            self._look(now)
            step = next_step(self._view, self._policy, now)
            match step:
                case Issue():
                    await self._issue(step)
                case Renew():
                    await self._renew(step.lease)
                case Release():
                    self._release(now)
                case Wait():
                    self._report(step)
                    await wait_for(self._clock, self._wake, self._delay(step.until, now))

    def _look(self, now: float) -> None:
        """Take note of what time alone has changed."""
        if self._lazy and self._view.wanted:  # once let go, only another reader makes it wanted again
            idle = self._view.current.first.ttl if self._view.current else CALL_DEADLINE
            self._view = replace(self._view, wanted=now < self._cache.read_at(self.role) + idle)
        current = self._view.current
        if current is not None and now >= current.expires_at:
            _log.warning(Event.EXPIRED, role=self.role, lease=log.lease_ref(current.id))
            self._let_go(now)

    def _delay(self, until: float, now: float) -> float | None:
        """How long to wait for `until`, waking for the other instants that change what readers see."""
        times = [until]
        current = self._view.current
        if current is not None:
            times += [t for t in (self._policy.served_until(current), current.expires_at) if t > now]
            if self._lazy:
                times.append(self._cache.read_at(self.role) + current.first.ttl)
        until = min(times)
        return None if until == math.inf else max(0.0, until - now)

    def _demanded(self) -> None:
        if self._view.current is None and not self._view.wanted:
            self._view = replace(self._view, wanted=True)
            if not self._view.failures:
                self._cache.report(self.role, RoleStatus(phase=Phase.STARTING, next_step="issue"))
            self._wake.set()

    def _let_go(self, now: float) -> None:
        """Serve the current lease no more and have it revoked."""
        current = self._view.current
        if current is not None:
            self._cache.withdraw(self.role)
            self._retirement.drain(current, now)
            self._view = replace(self._view, current=None)

    def _release(self, now: float) -> None:
        self._let_go(now)
        self._view = replace(self._view, replace=False, failures=0, not_before=-math.inf)

    # -- issue ------------------------------------------------------------------------------------------------------

    async def _issue(self, step: Issue) -> None:
        proposed = str(uuid.uuid4())
        reach(Failpoint.ISSUE_PROPOSED)
        began = self._clock.now()
        deadline = self._policy.deadline_for(self._view.current)
        try:
            grant = await self._calls.issue(proposed, deadline)
        except UpstreamError as error:
            if error.outcome_unknown:
                self._retirement.doom(proposed, began + deadline)
            self._failed(Event.ISSUE_FAILED, error, began)
            return
        except BaseException:
            # Cancelled, or a bug of ours: what may have been minted is revoked at the end all the same.
            self._retirement.doom(proposed, began + deadline)
            raise
        reach(Failpoint.ISSUE_ANSWERED)
        await self._bring_in(grant, began, step.publish_by)

    async def _bring_in(self, grant: Grant, began: float, publish_by: float) -> None:
        """Verify, record and publish a fresh grant; whatever ends this early dooms it."""
        lease = Lease(first=grant, last=grant, issued_at=began, granted_at=began, jitter=self._random.random())
        _log.info(Event.ISSUED, role=self.role, lease=log.lease_ref(lease.id), ttl=grant.ttl)
        published = False
        try:
            if grant.ttl < self._policy.min_ttl:
                raise Unavailable(
                    f"{self.role}: the upstream grants {grant.ttl:g} s; less than {self._policy.min_ttl:g} s cannot be "
                    "renewed in time: raise the role's TTL"
                )
            until = verify_until(self._view, self._policy, self._clock.now(), lease, publish_by)
            verified = await self._calls.tried(lease, until, self._policy.deadline_for(lease))
            reach(Failpoint.VERIFY_DONE)
            if self._clock.now() >= self._policy.served_until(lease):
                raise Unavailable(f"{self.role}: verification took longer than the lease lives: raise the role's TTL")
            await self._record(self.role, lease)
            reach(Failpoint.PUBLISH_RECORDED)
            self._publish(lease, verified)
            published = True
        except CredentialRefused as error:
            self._failed(Event.VERIFY_FAILED, error, self._clock.now())
        except Unavailable as error:
            self._failed(Event.ISSUE_FAILED, error, self._clock.now(), slow=True)
        finally:
            if not published:
                self._retirement.doom(lease.id, lease.expires_at)

    def _publish(self, lease: Lease, verified: bool) -> None:
        now = self._clock.now()
        old = self._view.current
        until = self._policy.served_until(lease)
        self._cache.publish(self.role, lease, until=until, verified=verified, now=now, wall=self._clock.wall())
        reach(Failpoint.PUBLISH_DONE)
        _log.info(
            Event.PUBLISHED,
            role=self.role,
            lease=log.lease_ref(lease.id),
            verified=verified,
            expires_in=round(lease.expires_at - now, 1),
        )
        if old is not None:
            self._retirement.drain(old, min(old.expires_at, *self._drain_ends(now)))
        self._view = replace(self._view, current=lease, replace=False)
        self._gone = False
        self._revoke_after = None
        self._view = self._failures.cleared(self._view)

    def _drain_ends(self, now: float) -> list[float]:
        if self._gone:
            return [now]
        return [now + after for after in (self._policy.drain, self._revoke_after) if after is not None] or [math.inf]

    # -- renew ------------------------------------------------------------------------------------------------------

    async def _renew(self, lease: Lease) -> None:
        began = self._clock.now()
        try:
            grant = await self._calls.renew(lease, self._policy.deadline_for(lease))
        except (LeaseEnded, Forbidden) as error:
            self._cannot_renew(lease, error, began)
            return
        except UpstreamError as error:
            self._failed(Event.RENEW_FAILED, error, began)
            return
        reach(Failpoint.RENEW_ANSWERED)
        await self._extend(lease, grant, began)

    async def _extend(self, lease: Lease, grant: Grant, began: float) -> None:
        now = self._clock.now()
        renewed = lease.renewed(grant, granted_at=began, answered_at=now, jitter=self._random.random())
        await self._record(self.role, renewed)
        near_end = shortened(lease, grant)
        self._view = replace(self._view, current=renewed, replace=self._view.replace or near_end)
        self._cache.renewed(
            self.role,
            renewed,
            until=self._policy.served_until(renewed),
            now=self._clock.now(),
            wall=self._clock.wall(),
        )
        _log.info(
            Event.RENEWED,
            role=self.role,
            lease=log.lease_ref(lease.id),
            ttl=grant.ttl,
            remaining=round(renewed.expires_at - now, 1),
        )
        if near_end:
            _log.info(Event.REPLACING, role=self.role, reason="max TTL is near")
        self._view = self._failures.cleared(self._view)

    def _cannot_renew(self, lease: Lease, error: UpstreamError, began: float) -> None:
        """The lease cannot be kept: replace it at once, without a backoff, for no renewal will be tried again."""
        self._gone = isinstance(error, LeaseGone)
        view = self._failures.spent(self._view, error, began, self._clock.now())
        self._view = replace(view, current=lease.frozen(), replace=True)
        _log.warning(Event.RENEW_FAILED, role=self.role, lease=log.lease_ref(lease.id), error=str(error), retry_in=0)
        _log.info(Event.REPLACING, role=self.role, reason=type(error).__name__)

    def _refused(self, lease: Lease, error: CredentialRefused) -> None:
        """The published credential does not work any more: it is replaced, and readers get it no longer than needed."""
        current = self._view.current
        if current is not None and current.id == lease.id:
            _log.warning(Event.VERIFY_FAILED, role=self.role, lease=log.lease_ref(lease.id), error=str(error))
            self._failures.error = str(error)
            self._gone = True
            self._view = replace(self._view, current=current.frozen(), replace=True)
            self._wake.set()

    # -- outcomes ---------------------------------------------------------------------------------------------------

    def _failed(self, event: Event, error: Exception, began: float, *, slow: bool = False) -> None:
        now = self._clock.now()
        if self._gone:
            # The upstream has said that this credential is dead, and there is nothing to put in its place yet.
            self._let_go(now)
        self._view = self._failures.failed(self._view, event, error, began, now, slow=slow)

    def _report(self, step: Wait) -> None:
        draining = len(self._retirement.retired)
        error, now = self._failures.error, self._clock.now()
        status = status_of(self._view, self._policy, step, error=error, draining=draining, now=now)
        self._cache.report(self.role, status)
