"""The Poller: keeps one role whose secret nobody leases (a KV, a static role), with the outward face of a Renewer.

Such a secret has no end of its own, so nothing here takes it away from readers but the upstream's word that it is gone:
while the upstream is silent nothing rotates there either, and what was found last goes on being served as stale. It
executes `agent.leases.polling`; one task looks, and another moves the told end on, however long a look takes.
"""

import asyncio
import hashlib
import math
import os
import random
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Literal

from agent import log
from agent.clock import Clock, wait_for
from agent.errors import AuthExpired, CredentialRefused, NotFound, NotLoggedIn, Unavailable, Unfit, UpstreamError
from agent.leases.cache import LeaseCache, Phase, RoleStatus
from agent.leases.calls import no_answer
from agent.leases.circuit import OPEN, Gate
from agent.leases.counter import Counter
from agent.leases.engine import Fetched, Source, Verify
from agent.leases.failures import Failures
from agent.leases.held import Held
from agent.leases.lease import Grant, Lease, Secret
from agent.leases.polling import LEAD, MARGIN, Look, Watch, seen, told_end
from agent.leases.schedule import CALL_DEADLINE, Policy, RoleView, Wait
from agent.leases.status import status_of
from agent.log import Event

_log = log.get(__name__)
_SYSTEM = random.SystemRandom()
_KEY = os.urandom(16)  # an id tells operators nothing of what was found, not even whether it was guessed right

Kind = Literal["kv", "static"]


class Poller:
    """Keeps one role alive: looks at it, verifies and publishes what has changed.

    Args:
        interval: seconds between two looks at most; a lazy role is let go after as long without a reader, or 10 s.
        kind: begins the ids that operators see.
        gate: every look waits for its turn there.
        verify: tries a new username and password; None where there is nowhere to try them.
        lazy: look when somebody asks for the role.
        splay: seconds by which the first look is delayed.
        on_failed: told once when `attempts` attempts in a row have failed.
    """

    def __init__(
        self,
        role: str,
        *,
        source: Source,
        cache: LeaseCache,
        clock: Clock,
        interval: float,
        kind: Kind = "kv",
        gate: Gate = OPEN,
        verify: Verify | None = None,
        rng: random.Random | None = None,
        lazy: bool = False,
        splay: float = 0.0,
        on_failed: Callable[[str, str], None] = lambda role, error: None,
        attempts: int = 5,
    ) -> None:
        self.role = role
        self._source = source
        self._cache = cache
        self._clock = clock
        self._interval = interval
        self._kind = kind
        self._gate = gate
        self._verify = verify
        self._random = rng or _SYSTEM
        self._lazy = lazy
        self._splay = splay
        self._policy = Policy(margin=MARGIN, attempts=attempts)
        self._counter = Counter(role, cache, self._policy, clock)
        self._failures = Failures(role, self._policy, self._random, on_failed)
        # A reader may have asked before we were there: the socket listens first. `current` is never set here, so that
        # no end hastens a retry.
        self._view = RoleView(wanted=not lazy or self._counter.asked_at > -math.inf)
        self._watch = Watch()
        self._lease: Lease | None = None
        self._asked = False
        self._hung = False
        self._loginless = False
        self._sleeps_until = math.inf
        self._changed = asyncio.Event()
        self._told = asyncio.Event()
        if lazy:
            cache.on_demand(role, self._demanded)

    def __repr__(self) -> str:
        return f"Poller({self.role}, {self._cache.status(self.role).phase}, failures={self._view.failures})"

    # -- asked from outside -----------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Keep the role until cancelled; then `close` withdraws it."""
        self._view = replace(self._view, not_before=self._clock.now() + self._splay)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._hold(), name=f"hold {self.role}")
            await self._keep()

    def replace(self, revoke_after: float | None = None) -> None:
        """Look now; nothing new can be had but what the upstream holds.

        Args:
            revoke_after: of no account, for there is nothing to revoke.
        """
        self._asked = True
        if self._lazy:
            self._cache.demand(self.role, self._clock.now())
        self._changed.set()

    def held(self) -> tuple[Held, ...]:
        """What is published, if anything."""
        return () if self._lease is None else (Held.published(self.role, self._lease),)

    def revoke(self, lease_id: str) -> asyncio.Event | None:
        """Withdraw what is published and look again: it cannot be revoked, and is published anew if it still stands.

        Returns:
            An event that is set already; None if the role does not hold that id.
        """
        if self._lease is None or self._lease.id != lease_id:
            return None
        _log.info(Event.REPLACING, role=self.role, reason="revoked by an operator")
        self._let_go()
        self._asked = True
        self._changed.set()
        confirmed = asyncio.Event()
        confirmed.set()
        return confirmed

    def expired(self, lease_ids: Collection[str]) -> None:
        """The upstream says that these leases have ended; if one is ours, it is looked at now."""
        if self._lease is not None and self._lease.id in lease_ids:
            self._asked = True
            self._changed.set()

    def login_changed(self) -> None:
        """The login was renewed, replaced or lost, or there is one again: a look that failed for want of it is due."""
        if self._loginless:
            self._loginless = False
            # Not at any price: a login that nobody accepts is replaced again and again.
            self._view = replace(self._view, not_before=self._view.renew_not_before)
            self._changed.set()

    def logins_in_use(self) -> frozenset[str]:
        """The logins that what is published hangs on: none."""
        return frozenset()

    def overdue(self, now: float) -> float:
        """Seconds that the loop has slept past its own next step; 0.0 during a step, however long an upstream takes."""
        return max(0.0, now - self._sleeps_until)

    async def strike(self, lease_id: str) -> None:
        """Nothing is remembered over a restart."""

    def recheck(self) -> None:
        """Look at the clock again: the machine was suspended, or its timers are late."""
        self._changed.set()
        self._told.set()

    async def close(self, deadline: float) -> list[str]:
        """Withdraw the role; `run` must have ended. Nothing was issued, so nothing is left: the list is empty."""
        self._let_go()
        self._counter.close()
        return []

    # -- the loop ---------------------------------------------------------------------------------------------------

    async def _keep(self) -> None:
        while True:
            self._changed.clear()
            now = self._clock.now()
            self._note_idleness(now)
            due_at = self._due_at
            if due_at <= now:
                await self._look()
                continue
            self._report(now)
            await self._sleep(min(due_at, self._idle_at), now)

    @property
    def _due_at(self) -> float:
        """The instant of the next look."""
        if not self._view.wanted:
            return math.inf
        return max(self._view.not_before, -math.inf if self._asked else self._watch.look_at)

    @property
    def _idle_at(self) -> float:
        """The instant at which a lazy role is let go."""
        idle = max(self._interval, CALL_DEADLINE)
        return self._counter.asked_at + idle if self._lazy and self._view.wanted else math.inf

    async def _sleep(self, until: float, now: float) -> None:
        self._sleeps_until = until
        try:
            await wait_for(self._clock, self._changed, None if until == math.inf else max(0.0, until - now))
        finally:
            self._sleeps_until = math.inf

    def _note_idleness(self, now: float) -> None:
        if now >= self._idle_at:
            self._let_go()
            self._asked = False
            # The hold that failures have put on looks stands: else readers who come and go would buy more of them.
            self._view = replace(self._view, wanted=False, failures=0)

    def _demanded(self) -> None:
        if not self._view.wanted:
            self._view = replace(self._view, wanted=True)
            if not self._view.failures:
                self._cache.report(self.role, RoleStatus(phase=Phase.STARTING, next_step="look"))
            self._changed.set()

    def _report(self, now: float) -> None:
        view = replace(self._view, current=self._lease)
        step = Wait(until=self._due_at, then="look")
        self._cache.report(
            self.role, status_of(view, self._policy, step, error=self._failures.error, draining=0, now=now)
        )

    # -- looking ----------------------------------------------------------------------------------------------------

    async def _look(self) -> None:
        self._asked = False
        began = self._clock.now()
        try:
            async with self._gate.turn(retrying=self._hung):
                began = self._clock.now()
                found = await self._fetched()
        except UpstreamError as error:
            self._hung = error.timed_out
            self._failed(error, began)
            return
        self._hung = False
        if found.version == self._watch.version:
            self._found_same(found, began)
        else:
            await self._bring_in(found, began)

    async def _fetched(self) -> Fetched:
        try:
            async with self._clock.timeout(CALL_DEADLINE):
                return await self._source.fetch(self.role)
        except TimeoutError as error:
            raise no_answer(CALL_DEADLINE) from error

    def _found_same(self, found: Fetched, began: float) -> None:
        waited_since = min(self._watch.missed, self._watch.edge)
        self._watch = self._seen(found, began)
        if self._watch.overdue:
            late = self._clock.now() - waited_since
            text = f"{self.role}: the upstream was to change it {late:.0f} s ago and has not: see its own log"
            self._failed(Unavailable(text), began)
            return
        self._view = self._failures.cleared(self._view)
        self._move_end(told_end(self._watch, self._clock.now()))

    async def _bring_in(self, found: Fetched, began: float) -> None:
        """Verify and publish what has changed."""
        try:
            verified = await self._tried(found.data)
        except CredentialRefused as error:
            self._failed(error, self._clock.now())
            return
        now = self._clock.now()
        self._watch = self._seen(found, began)
        grant = Grant(
            id=self._id_of(found.version),
            data=found.data,
            ttl=told_end(self._watch, now) - began,
            renewable=False,
        )
        self._lease = lease = Lease(first=grant, last=grant, issued_at=began, granted_at=began, jitter=0.0)
        self._counter.put_up(lease, self._counter.record_of(lease, verified=verified, retired=()))
        self._view = self._failures.cleared(self._view)
        self._told.set()

    async def _tried(self, data: Mapping[str, Secret]) -> bool:
        """Whether a login with `data` succeeded; False where it is no login, or that could not be found out.

        Raises:
            CredentialRefused: the database went on refusing it.
        """
        if self._verify is None or not {"username", "password"} <= data.keys():
            return False
        try:
            # The verifier keeps to its end by itself; this holds even where its last attempt hangs.
            async with self._clock.timeout(2 * CALL_DEADLINE):
                return await self._verify(data, self._clock.now() + CALL_DEADLINE)
        except TimeoutError:
            return False

    def _seen(self, found: Fetched, began: float) -> Watch:
        look = Look(version=found.version, changes_in=found.changes_in, began=began, now=self._clock.now())
        return seen(self._watch, look, interval=self._interval, u=self._random.random())

    def _id_of(self, version: str) -> str:
        named = hashlib.blake2s(f"{self.role}\0{version}".encode(), key=_KEY, digest_size=8)
        return f"{self._kind}:{named.hexdigest()}"

    def _failed(self, error: UpstreamError | CredentialRefused, began: float) -> None:
        self._loginless = isinstance(error, NotLoggedIn | AuthExpired)
        if isinstance(error, NotFound) and not isinstance(error, Unfit):  # the one word that takes it away
            self._let_go()
        event = Event.VERIFY_FAILED if isinstance(error, CredentialRefused) else Event.LOOK_FAILED
        self._view = self._failures.failed(self._view, event, error, began, self._clock.now(), slow=False)

    # -- what readers have ------------------------------------------------------------------------------------------

    async def _hold(self) -> None:
        """Move the told end on in time, for ever: neither a failure nor a slow look takes anything away."""
        while True:
            self._told.clear()
            now, lease = self._clock.now(), self._lease
            if lease is not None and now >= lease.expires_at - LEAD:
                self._move_end(told_end(self._watch, now, next_at=self._due_at))
                continue
            await wait_for(self._clock, self._told, None if lease is None else lease.expires_at - LEAD - now)

    def _move_end(self, end: float) -> None:
        """Readers may keep what they have until `end`; what was told before stands."""
        lease = self._lease
        if lease is None:
            return
        now = self._clock.now()
        end = max(end, lease.expires_at)
        grant = replace(lease.last, data={}, ttl=end - now)
        self._lease = lease = lease.renewed(grant, granted_at=now, answered_at=now, jitter=0.0)
        until = self._policy.served_until(lease)
        stale = bool(self._failures.error)
        self._cache.renewed(self.role, lease, until=until, now=now, wall=self._clock.wall(), stale=stale)
        self._told.set()

    def _let_go(self) -> None:
        """Serve nothing, and know nothing of what was served."""
        self._lease = None
        self._watch = Watch()
        self._counter.take_down()
        self._told.set()
