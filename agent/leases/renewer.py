"""The Renewer: one task per role, and the only caller of an engine for it, so that single flight holds by construction.

It executes `schedule.next_step`; what changes is `Tenure`'s. ADR 1 draws the life of a lease.
"""

import asyncio
import math
import random
import uuid
from collections.abc import Callable, Collection
from dataclasses import replace

from agent import log
from agent.clock import Clock, wait_for
from agent.errors import BadResponse, CredentialRefused, Forbidden, LeaseEnded, Unavailable, UpstreamError
from agent.failpoints import Failpoint, reach
from agent.leases.cache import LeaseCache
from agent.leases.calls import Calls, no_answer
from agent.leases.circuit import OPEN, Gate
from agent.leases.engine import Engine, Verify
from agent.leases.held import Held
from agent.leases.lease import Grant, Lease
from agent.leases.logins import UNTIED, Ties
from agent.leases.record import Memory, Recorder, RoleRecord
from agent.leases.reverify import verify_again
from agent.leases.schedule import (
    Issue,
    Policy,
    Release,
    Renew,
    Wait,
    next_step,
    shortened,
    verify_until,
)
from agent.leases.tenure import Tenure
from agent.leases.turns import Turns
from agent.leases.tying import too_late, too_short
from agent.log import Event

_log = log.get(__name__)
_ADOPTING = 3.0
"""Longest wait (seconds) for word of a lease that was taken over: nobody gets it before, and as a rule it lives."""

_SYSTEM = random.SystemRandom()  # one for all roles: each carries 2.5 KB of a state that it never uses


class Renewer:
    """Keeps one role alive: obtains, verifies, publishes, renews, replaces with overlap, retires.

    Args:
        verify: tries a new credential; None where there is nowhere to try it.
        recorder: keeps what must survive a restart; None where nothing does.
        adopted: what the last incarnation left.
        lazy: obtain the role when somebody asks for it, let it go after one idle TTL.
        splay: seconds by which the first call is delayed.
        verify_every: try the published credential again this often; 0 means never.
        gate: every call of the engine waits for its turn there.
        on_failed: told once when `policy.attempts` attempts in a row have failed.
        on_expired: told of a lease that came to its end while it was served.
        ties: when the logins end that the leases hang on; its owner calls `login_changed`.
        on_gone: told of a lease that its upstream has said to be dead.
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
        gate: Gate = OPEN,
        on_failed: Callable[[str, str], None] = lambda role, error: None,
        on_expired: Callable[[str, Lease], None] = lambda role, lease: None,
        ties: Ties = UNTIED,
        on_gone: Callable[[Lease], None] = lambda lease: None,
    ) -> None:
        self.role = role
        self._issuing = False
        self._calls = Calls(role, engine, verify, clock)
        self._cache = cache
        self._policy = policy
        self._clock = clock
        self._verify = verify
        self._memory = Memory(role, recorder, adopted, clock)
        self._random = rng or _SYSTEM
        self._splay = splay
        self._verify_every = verify_every
        self._due_at = math.inf
        self._tenure = Tenure(
            role,
            engine=engine,
            gate=gate,
            cache=cache,
            policy=policy,
            clock=clock,
            rng=self._random,
            lazy=lazy,
            on_failed=on_failed,
            on_expired=on_expired,
            ties=ties,
            on_gone=on_gone,
        )
        self._turns = Turns(gate, self._tenure, clock)

    def __repr__(self) -> str:
        return f"Renewer({self.role}, {self._cache.status(self.role).phase}, failures={self._tenure.view.failures})"

    # -- asked from outside -----------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Keep the role alive until cancelled; then `close` ends its leases."""
        tenure = self._tenure
        tenure.view = replace(tenure.view, not_before=self._clock.now() + self._splay)
        async with asyncio.TaskGroup() as group:
            group.create_task(tenure.retirement.run(), name=f"retire {self.role}")
            if self._verify is not None and self._verify_every > 0:
                again = verify_again(
                    self._verify,
                    self._clock,
                    self._verify_every,
                    current=lambda: None if tenure.view.replace else tenure.current,
                    refused=tenure.refused,
                )
                group.create_task(again, name=f"verify {self.role}")
            await self._adopt(self._memory.newest)
            await self._keep()

    def replace(self, revoke_after: float | None = None) -> None:
        """Replace the credential now, with overlap.

        Args:
            revoke_after: revoke the old one this many seconds after the new one is published; it only shortens.
        """
        self._tenure.ask_replacement(revoke_after)

    def held(self) -> tuple[Held, ...]:
        """Every lease of the role, the published one first."""
        return self._tenure.held()

    def revoke(self, lease_id: str) -> asyncio.Event | None:
        """End one lease for good: it is served no more when this returns, and replaced if the role needs one.

        Returns:
            An event that is set once the upstream has confirmed; None if the role does not hold that lease.
        """
        return self._tenure.condemn(lease_id)

    def expired(self, lease_ids: Collection[str]) -> None:
        """The upstream says that these leases have ended; if one is the role's, it is replaced at once.

        By our dial it lives on: somebody has revoked it, or has set the upstream's clock ahead.
        """
        self._tenure.expired(lease_ids)

    def take_over(self) -> None:
        """Hold what the last incarnation left, if that has not been done yet; it is not served yet."""
        if not self._tenure.taken_over:
            self._tenure.take_over(self._memory.newest)

    def login_changed(self) -> None:
        """The login that the leases hang on was renewed, replaced or lost; or there is one again."""
        self._tenure.follow_login()

    def logins_in_use(self) -> frozenset[str] | None:
        """The logins that the role's leases hang on; None while that is not settled, because one is being issued."""
        return None if self._issuing else frozenset(each.parent for each in self.held())

    def retry(self) -> None:
        """Whatever made the last attempts fail may have changed: try again now."""
        self._tenure.hurry()

    def overdue(self, now: float) -> float:
        """Seconds that the loop has slept past its own next step; 0.0 during a step, however long an upstream takes."""
        return max(0.0, now - self._due_at)

    async def strike(self, lease_id: str) -> None:
        """Remember that the lease was revoked: a restart from now on does not bring it back."""
        await self._memory.strike(lease_id, self._clock.now())

    def recheck(self) -> None:
        """Look at the clock again: the machine was suspended, or its timers are late."""
        self._tenure.changed.set()
        self._tenure.retirement.recheck()

    async def close(self, deadline: float) -> list[str]:
        """Withdraw the role and revoke all its leases within `deadline` seconds; `run` must have ended.

        Returns:
            What could not be revoked, a line each.
        """
        self.take_over()  # if the stop came before the first step
        left = await self._tenure.end(deadline)
        await self._memory.keep(None, self._tenure.retired)
        return left

    # -- the loop ---------------------------------------------------------------------------------------------------

    async def _keep(self) -> None:
        tenure = self._tenure
        while True:
            tenure.changed.clear()
            now = self._clock.now()
            tenure.look(now)
            await self._memory.keep(*tenure.left)
            step = next_step(tenure.view, self._policy, now)
            self._issuing = isinstance(step, Issue)
            match step:
                case Issue():
                    await self._issue(step)
                case Renew():
                    await self._renew(step.lease)
                case Release():
                    tenure.release(now)
                case Wait():
                    tenure.report(step)
                    await self._sleep(tenure.delay(step.until, now), now)

    async def _sleep(self, delay: float | None, now: float) -> None:
        self._due_at = math.inf if delay is None else now + delay
        try:
            await wait_for(self._clock, self._tenure.changed, delay)
        finally:
            self._due_at = math.inf

    # -- what survives a restart ------------------------------------------------------------------------------------

    async def _adopt(self, left: RoleRecord) -> None:
        """Take over what the last incarnation left: its credential goes on, if the upstream still knows it."""
        self.take_over()
        if left.current is None:
            return
        await self._ask_after(left.current)
        self._tenure.adopt(left)

    async def _ask_after(self, lease: Lease) -> None:
        """Renew a lease that was left, or try it where it cannot be renewed; what is dead is replaced."""
        if self._tenure.current is None:
            return
        if lease.renewable:
            began = self._clock.now()
            try:
                async with self._clock.timeout(_ADOPTING):
                    await self._renew(lease)
            except TimeoutError:
                self._tenure.failed(Event.RENEW_FAILED, no_answer(_ADOPTING), began)
            return
        try:
            # Once: no replica lags any more behind what was published before, and nothing is served meanwhile.
            await self._calls.tried(lease, self._clock.now(), min(_ADOPTING, self._policy.deadline_for(lease)))
        except CredentialRefused as error:
            self._tenure.refused(lease, error)

    # -- issue ------------------------------------------------------------------------------------------------------

    async def _issue(self, step: Issue) -> None:
        tenure = self._tenure
        proposed = str(uuid.uuid4())
        await self._memory.keep(*tenure.left, proposed=proposed)
        reach(Failpoint.ISSUE_PROPOSED)
        began, asked = self._clock.now(), False
        deadline = self._policy.deadline_for(tenure.current)
        try:
            async with self._turns.take():
                began, asked = self._clock.now(), True
                grant = await self._calls.issue(proposed, deadline)
        except UpstreamError as error:
            if error.outcome_unknown:
                tenure.retirement.doom(proposed, began + deadline)
            tenure.failed(Event.ISSUE_FAILED, error, began)
            return
        except BaseException:
            # Cancelled, or a bug of ours: what may have been minted is revoked at the end all the same.
            if asked:
                tenure.retirement.doom(proposed, began + deadline)
            raise
        reach(Failpoint.ISSUE_ANSWERED)
        if any(held.lease_id == grant.id for held in self.held()):  # not revoked: it is what readers have, or had
            text = (
                f"{self.role}: the upstream answers with a lease that is held already: is there a cache in front of it?"
            )
            tenure.failed(Event.ISSUE_FAILED, BadResponse(text), began, slow=True)
            return
        await self._bring_in(grant, began, step.publish_by)

    async def _bring_in(self, grant: Grant, began: float, publish_by: float) -> None:
        """Verify, record and publish a fresh grant; whatever ends this early dooms it."""
        tenure = self._tenure
        lease = tenure.tied(
            Lease(first=grant, last=grant, issued_at=began, granted_at=began, jitter=self._random.random())
        )
        _log.info(Event.ISSUED, role=self.role, lease=log.lease_ref(lease.id), ttl=grant.ttl)
        published = False
        try:
            if grant.ttl < self._policy.min_ttl:
                raise Unavailable(f"{self.role}: {too_short(grant, self._policy.min_ttl)}")
            until = verify_until(tenure.view, self._policy, self._clock.now(), lease, publish_by)
            verified = await self._calls.tried(lease, until, self._policy.deadline_for(lease))
            reach(Failpoint.VERIFY_DONE)
            lease = tenure.tied(lease)
            self._check_alive(lease)
            record = tenure.record_with(lease, verified=verified)
            await self._memory.save(record)
            reach(Failpoint.PUBLISH_RECORDED)
            lease = tenure.tied(lease)
            self._check_alive(lease)  # its login may have been lost while that was written
            tenure.publish(lease, record)
            published = True
        except CredentialRefused as error:
            tenure.failed(Event.VERIFY_FAILED, error, self._clock.now())
        except Unavailable as error:
            tenure.failed(Event.ISSUE_FAILED, error, self._clock.now(), slow=True)
        finally:
            if not published:
                tenure.retirement.doom(lease.id, lease.own_end, parent=lease.parent, key=grant.key)

    def _check_alive(self, lease: Lease) -> None:
        if self._clock.now() >= self._policy.served_until(lease):
            raise Unavailable(f"{self.role}: {too_late(lease, self._clock.now())}")

    # -- renew ------------------------------------------------------------------------------------------------------

    async def _renew(self, lease: Lease) -> None:
        tenure = self._tenure
        began = self._clock.now()
        try:
            async with self._turns.take():
                began = self._clock.now()
                grant = await self._calls.renew(lease, self._policy.deadline_for(lease))
        except (LeaseEnded, Forbidden) as error:
            tenure.cannot_renew(lease, error, began)
            return
        except UpstreamError as error:
            tenure.failed(Event.RENEW_FAILED, error, began)
            return
        reach(Failpoint.RENEW_ANSWERED)
        if not tenure.holds(lease):
            return
        renewed = tenure.extend(lease, grant, began)
        await self._memory.keep(*tenure.left)
        if tenure.holds(lease):
            tenure.prolong(renewed, near_end=shortened(lease, grant))
