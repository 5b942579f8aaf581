"""The Renewer: one task per role, and the only caller of an engine for it, so that single flight holds by construction.

It executes `schedule.next_step` and tells the cache; it decides nothing by itself. ADR 1 draws the life of a lease.
"""

import asyncio
import math
import random
import uuid
from collections.abc import Callable
from dataclasses import replace

from agent import log
from agent.clock import Clock, wait_for
from agent.errors import CredentialRefused, Forbidden, LeaseEnded, LeaseGone, Unavailable, UpstreamError
from agent.failpoints import Failpoint, reach
from agent.leases.cache import LeaseCache
from agent.leases.calls import Calls
from agent.leases.counter import Counter
from agent.leases.engine import Engine, Verify
from agent.leases.failures import Failures
from agent.leases.lease import Grant, Lease
from agent.leases.record import Memory, Recorder, RoleRecord
from agent.leases.retire import Retirement
from agent.leases.reverify import verify_again
from agent.leases.schedule import (
    CALL_DEADLINE,
    Issue,
    Policy,
    Release,
    Renew,
    Retired,
    RoleView,
    Wait,
    next_step,
    shortened,
    verify_until,
)
from agent.log import Event

_log = log.get(__name__)


class Renewer:
    """Keeps one role alive: obtains, verifies, publishes, renews, replaces with overlap, retires.

    Args:
        verify: tries a new credential; None where there is nowhere to try it.
        recorder: keeps what must survive a restart; None where nothing does.
        adopted: what the last incarnation left.
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
        recorder: Recorder | None = None,
        adopted: RoleRecord | None = None,
        rng: random.Random | None = None,
        lazy: bool = False,
        splay: float = 0.0,
        verify_every: float = 0.0,
        on_failed: Callable[[str, str], None] = lambda role, error: None,
    ) -> None:
        self.role = role
        self._calls = Calls(role, engine, verify, clock)
        self._cache = cache
        self._counter = Counter(role, cache, policy, clock)
        self._policy = policy
        self._clock = clock
        self._verify = verify
        self._memory = Memory(role, recorder, adopted)
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
            await self._adopt(self._memory.newest)
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
        self._counter.close()
        if self._view.current is not None:
            self._retirement.drain(self._view.current, self._clock.now())
            self._view = replace(self._view, current=None)
        left = await self._retirement.finish(deadline)
        await self._memory.keep(None, self._retirement.retired)
        return left

    # -- the loop ---------------------------------------------------------------------------------------------------

    async def _keep(self) -> None:
        while True:
            self._wake.clear()
            now = self._clock.now()
            self._look(now)
            await self._memory.keep(self._view.current, self._retirement.retired)
            step = next_step(self._view, self._policy, now)
            match step:
                case Issue():
                    await self._issue(step)
                case Renew():
                    await self._renew(step.lease)
                case Release():
                    self._release(now)
                case Wait():
                    draining = len(self._retirement.retired)
                    self._counter.report(self._view, step, error=self._failures.error, draining=draining)
                    await wait_for(self._clock, self._wake, self._delay(step.until, now))

    def _look(self, now: float) -> None:
        """Take note of what time alone has changed."""
        if self._lazy and self._view.wanted:  # once let go, only another reader makes it wanted again
            idle = self._view.current.first.ttl if self._view.current else CALL_DEADLINE
            self._view = replace(self._view, wanted=now < self._counter.asked_at + idle)
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
                times.append(self._counter.asked_at + current.first.ttl)
        until = min(times)
        return None if until == math.inf else max(0.0, until - now)

    def _demanded(self) -> None:
        if self._view.current is None and not self._view.wanted:
            self._view = replace(self._view, wanted=True)
            if not self._view.failures:
                self._counter.report_starting()
            self._wake.set()

    def _let_go(self, now: float) -> None:
        """Serve the current lease no more and have it revoked."""
        current = self._view.current
        if current is not None:
            self._counter.take_down()
            self._retirement.drain(current, now)
            self._view = replace(self._view, current=None)

    def _release(self, now: float) -> None:
        self._let_go(now)
        self._view = replace(self._view, replace=False, failures=0, not_before=-math.inf)

    # -- what survives a restart --------------------------------------------------------------------------------------

    async def _adopt(self, left: RoleRecord) -> None:
        """Take over what the last incarnation left: its credential goes on, if the upstream still knows it."""
        now = self._clock.now()
        self._retirement.restore(left.retired)
        if left.proposed:
            self._retirement.doom(left.proposed, now + CALL_DEADLINE)
        if left.current is None:
            return
        if self._lazy:  # somebody had asked, and may still hold it
            self._cache.demand(self.role, now)
        self._view = replace(self._view, current=left.current, wanted=True)
        self._look(now)
        await self._ask_after(left.current)
        # One that is only to be replaced still works until it really ends; one that is gone or refused does not.
        if self._view.current is not None and not self._gone:
            _log.info(Event.ADOPTED, role=self.role, lease=log.lease_ref(left.current.id))
            self._counter.put_up(self._view.current, left)

    async def _ask_after(self, lease: Lease) -> None:
        """Renew a lease that was left, or try it where it cannot be renewed; what is dead is replaced."""
        if self._view.current is None:
            return
        if lease.renewable:
            await self._renew(lease)
            return
        deadline = self._policy.deadline_for(lease)
        try:
            await self._calls.tried(lease, self._clock.now() + deadline, deadline)
        except CredentialRefused as error:
            self._refused(lease, error)

    # -- issue ------------------------------------------------------------------------------------------------------

    async def _issue(self, step: Issue) -> None:
        proposed = str(uuid.uuid4())
        await self._memory.keep(self._view.current, self._retirement.retired, proposed=proposed)
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
            record = self._with(lease, verified)
            await self._memory.save(record)
            reach(Failpoint.PUBLISH_RECORDED)
            self._publish(lease, record)
            published = True
        except CredentialRefused as error:
            self._failed(Event.VERIFY_FAILED, error, self._clock.now())
        except Unavailable as error:
            self._failed(Event.ISSUE_FAILED, error, self._clock.now(), slow=True)
        finally:
            if not published:
                self._retirement.doom(lease.id, lease.expires_at)

    def _with(self, lease: Lease, verified: bool) -> RoleRecord:
        """The role as it is once `lease` is published."""
        now, old, retired = self._clock.now(), self._view.current, self._retirement.retired
        if old is not None:
            retired += (Retired.of(old, self._drained_at(old, now)),)
        return self._counter.record_of(lease, verified=verified, retired=retired)

    def _publish(self, lease: Lease, record: RoleRecord) -> None:
        old = self._view.current
        self._counter.put_up(lease, record)
        now = self._clock.now()
        if old is not None:
            self._retirement.drain(old, self._drained_at(old, now))
        self._view = replace(self._view, current=lease, replace=False)
        self._gone = False
        self._revoke_after = None
        self._view = self._failures.cleared(self._view)

    def _drained_at(self, old: Lease, now: float) -> float:
        """When a replaced lease is revoked: at its end, or sooner where that was asked for or it is dead already."""
        if self._gone:
            return now
        afters = [after for after in (self._policy.drain, self._revoke_after) if after is not None]
        return min([old.expires_at, *(now + after for after in afters)])

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
        near_end = shortened(lease, grant)
        self._view = replace(self._view, current=renewed, replace=self._view.replace or near_end)
        await self._memory.keep(renewed, self._retirement.retired)
        self._counter.prolong(renewed)
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
