"""What one role holds: the lease that is served, those on their way out, and every change of them.

No awaits: each change is one step, so that a reader sees what was before or what is after. The Renewer decides when.
"""

import asyncio
import math
import random
from collections.abc import Callable, Collection
from dataclasses import replace

from agent import log
from agent.clock import Clock
from agent.errors import AuthExpired, CredentialRefused, LeaseGone, NotLoggedIn, UpstreamError
from agent.leases.cache import LeaseCache
from agent.leases.circuit import Gate
from agent.leases.counter import Counter
from agent.leases.engine import Engine
from agent.leases.failures import Failures
from agent.leases.held import Held
from agent.leases.lease import Grant, Lease
from agent.leases.logins import Ties
from agent.leases.record import RoleRecord
from agent.leases.retire import Retirement
from agent.leases.schedule import CALL_DEADLINE, Policy, Retired, RoleView, Wait, shortened
from agent.leases.tying import session_until, tied
from agent.log import Event

_log = log.get(__name__)


class Tenure:
    """One role's leases; see `Renewer` for the arguments.

    Attributes:
        view: all that decides what happens next.
        gone: whether the current lease is known to be dead already.
        queued: whether a turn at the upstream is being waited for.
        hung: whether the last call was waited for in vain.
        taken_over: whether it holds what the last incarnation left.
    """

    def __init__(
        self,
        role: str,
        *,
        engine: Engine,
        gate: Gate,
        cache: LeaseCache,
        policy: Policy,
        clock: Clock,
        rng: random.Random,
        lazy: bool,
        on_failed: Callable[[str, str], None],
        on_expired: Callable[[str, Lease], None],
        ties: Ties,
        on_gone: Callable[[Lease], None],
    ) -> None:
        self.role = role
        self.policy = policy
        self._clock = clock
        self._random = rng
        self._cache = cache
        self._counter = Counter(role, cache, policy, clock)
        self._failures = Failures(role, policy, rng, on_failed)
        self._on_expired = on_expired
        self._on_gone = on_gone
        self._ties = ties
        self._loginless = self._expired = False
        self._lazy = lazy
        self._revoke_after: float | None = None
        self.changed = asyncio.Event()
        self.retirement = Retirement(role, engine, gate, clock, rng, on_revoked=self.changed.set)
        self.gone = self.queued = self.hung = self.taken_over = False
        # A reader may have asked before we were there: the socket listens first.
        self.view = RoleView(wanted=not lazy or cache.read_at(role) > -math.inf)
        if lazy:
            cache.on_demand(role, self._demanded)

    @property
    def current(self) -> Lease | None:
        """The lease that is served, if any."""
        return self.view.current

    @property
    def retired(self) -> tuple[Retired, ...]:
        """What still has to be revoked."""
        return self.retirement.retired

    @property
    def left(self) -> tuple[Lease | None, tuple[Retired, ...]]:
        """What the next incarnation would have to take over: the lease to go on with, and those to revoke."""
        current = self.view.current
        if current is None or not self.gone:
            return current, self.retired
        return None, (*self.retired, Retired.of(current, current.issued_at))

    def held(self) -> tuple[Held, ...]:
        """Every lease of the role, the published one first."""
        current = self.view.current
        published = () if current is None else (Held.published(self.role, current),)
        return published + tuple(Held.retired(self.role, each) for each in self.retired)

    # -- asked from outside -----------------------------------------------------------------------------------------

    def ask_replacement(self, revoke_after: float | None) -> None:
        """Have the credential replaced now; see Renewer.replace."""
        _log.info(Event.REPLACING, role=self.role, reason="asked")
        if revoke_after is not None:
            self._revoke_after = min(revoke_after, self._revoke_after if self._revoke_after is not None else math.inf)
        self.view = replace(self.view, replace=True)
        if self._lazy:
            self._cache.demand(self.role, self._clock.now())
        self.changed.set()

    def condemn(self, lease_id: str) -> asyncio.Event | None:
        """Serve that lease no more, from this instant, and have it revoked; the event is set once that is confirmed.

        None if the role does not hold it.
        """
        current = self.view.current
        if current is not None and current.id == lease_id:
            _log.info(Event.REPLACING, role=self.role, reason="revoked by an operator")
            self.let_go(self._clock.now())
            self.changed.set()
        return self.retirement.hasten(lease_id)

    def follow_login(self) -> None:
        """The login that the leases hang on was renewed, replaced or lost; or there is one again."""
        before = self.view
        if self._loginless:
            self._loginless, self.view = False, self._failures.forgiven(self.view, self._clock.now())
        current = self.view.current
        if current is not None and not self.gone:
            now = self.tied(current)
            if now.parent_until == -math.inf:
                _log.warning(Event.REPLACING, role=self.role, reason="its login has ended")
                self._lose(current)
            else:
                self._tie(now)
        self._tie_view()
        if self.view != before:
            self.changed.set()

    def hurry(self) -> None:
        """Whatever made the last attempts fail may have changed: try again now."""
        self.view = self._failures.forgiven(self.view, self._clock.now())
        self.changed.set()

    def tied(self, lease: Lease) -> Lease:
        """`lease` with the end of the login that it hangs on."""
        return tied(lease, self._ties, self._clock.now())

    def _tie(self, lease: Lease) -> None:
        """The login's end has moved: readers are told, if the lease's own end moves with it."""
        before = self.view.current
        self.view = replace(self.view, current=lease)
        if before is not None and before.expires_at != lease.expires_at:
            self._counter.retime(lease)

    def _tie_view(self) -> None:
        self.view = replace(self.view, session_until=session_until(self.view.current, self._ties))

    def _lose(self, lease: Lease) -> None:
        """The upstream, or the database, has said that the current lease is dead: it is replaced without a backoff."""
        now = self._clock.now()
        self.gone = True
        view = replace(self.view, current=lease.frozen(), replace=True)
        self.view = self._failures.forgiven(view, now)
        if self.queued or self.view.not_before > now:  # nothing can be put in its place soon
            self.let_go(now)
        self._on_gone(lease)

    def _demanded(self) -> None:
        if self.view.current is None and not self.view.wanted:
            self.view = replace(self.view, wanted=True)
            if not self.view.failures:
                self._counter.report_starting()
            self.changed.set()

    # -- what time alone changes ------------------------------------------------------------------------------------

    def look(self, now: float) -> None:
        """Take note of what time alone has changed."""
        if self._lazy and self.view.wanted:  # once let go, only another reader makes it wanted again
            idle = self.view.current.first.ttl if self.view.current else CALL_DEADLINE
            self.view = replace(self.view, wanted=now < self._counter.asked_at + idle)
        current = self.view.current
        if current is not None and now >= current.expires_at:
            _log.warning(Event.EXPIRED, role=self.role, lease=log.lease_ref(current.id))
            self._cache.count_expired(self.role)
            self._on_expired(self.role, current)
            self.let_go(now)

    def delay(self, until: float, now: float) -> float | None:
        """How long to wait for `until`, waking for the other instants that change what readers see."""
        times = [until]
        current = self.view.current
        if current is not None:
            times += [t for t in (self.policy.served_until(current), current.expires_at) if t > now]
            if self._lazy:
                times.append(self._counter.asked_at + current.first.ttl)
        until = min(times)
        return None if until == math.inf else max(0.0, until - now)

    def let_go(self, now: float) -> None:
        """Serve the current lease no more and have it revoked."""
        current = self.view.current
        if current is not None:
            self._counter.take_down()
            self.retirement.drain(current, now)
            self.view = replace(self.view, current=None)
            self.gone = False

    def release(self, now: float) -> None:
        """Nobody uses the role any more."""
        self.let_go(now)
        # The hold that failures have put on calls stands: else readers who come and go would buy more of them.
        self.view = replace(self.view, replace=False, failures=0)

    def report(self, step: Wait) -> None:
        """Nothing is to be done before `step.until`."""
        self._counter.report(self.view, step, error=self._failures.error, draining=len(self.retired))

    # -- what a restart brings --------------------------------------------------------------------------------------

    def take_over(self, left: RoleRecord) -> None:
        """Hold what the last incarnation left; it is not served yet."""
        now = self._clock.now()
        self.taken_over = True
        self.retirement.restore(left.retired)
        if left.proposed:
            self.retirement.doom(left.proposed, now + CALL_DEADLINE)
        if left.current is None:
            return
        if self._lazy:  # somebody had asked, and may still hold it
            self._cache.demand(self.role, now)
        self.view = replace(self.view, current=left.current, wanted=True)
        self.look(now)

    def adopt(self, left: RoleRecord) -> None:
        """Serve what was taken over, under its old generation."""
        self.follow_login()
        # One that is only to be replaced still works until it really ends; one that is gone or refused does not.
        current = self.view.current
        if current is not None and not self.gone:
            _log.info(Event.ADOPTED, role=self.role, lease=log.lease_ref(current.id))
            self._counter.put_up(current, left)

    # -- what an upstream's answers bring ---------------------------------------------------------------------------

    def record_with(self, lease: Lease, *, verified: bool) -> RoleRecord:
        """The role as it is once `lease` is published."""
        now, old, retired = self._clock.now(), self.view.current, self.retired
        if old is not None:
            retired += (Retired.of(old, self._drained_at(old, now)),)
        return self._counter.record_of(lease, verified=verified, retired=retired)

    def publish(self, lease: Lease, record: RoleRecord) -> None:
        """Serve `lease` in place of the current one, which drains."""
        old = self.view.current
        self._counter.put_up(lease, record)
        if old is not None:
            self.retirement.drain(old, self._drained_at(old, self._clock.now()))
        self.view = replace(self.view, current=lease, replace=False)
        self.gone = self.hung = self._expired = False
        self._revoke_after = None
        self._tie_view()
        self.view = self._failures.cleared(self.view)

    def _drained_at(self, old: Lease, now: float) -> float:
        """When a replaced lease is revoked: at its end, or sooner where that was asked for or it is dead already."""
        if self.gone:
            return now
        afters = [after for after in (self.policy.drain, self._revoke_after) if after is not None]
        return min([old.expires_at, *(now + after for after in afters)])

    def holds(self, lease: Lease) -> bool:
        """Whether `lease` is still the current one: an operator may have revoked it while it was being renewed."""
        return self.view.current is not None and self.view.current.id == lease.id

    def extend(self, lease: Lease, grant: Grant, began: float) -> Lease:
        """`lease` as it is after a renewal; it goes on, and is replaced where the grant says that its end is near."""
        answered, drawn = self._clock.now(), self._random.random()
        renewed = self.tied(lease.renewed(grant, granted_at=began, answered_at=answered, jitter=drawn))
        self.view = replace(self.view, current=renewed, replace=self.view.replace or shortened(lease, grant))
        return renewed

    def prolong(self, lease: Lease, *, near_end: bool) -> None:
        """Readers may keep what they have until the end of `lease`."""
        self._counter.prolong(self.tied(lease))
        if near_end:
            _log.info(Event.REPLACING, role=self.role, reason="max TTL is near")
        self.hung = self._expired = False
        self.view = self._failures.cleared(self.view)

    def cannot_renew(self, lease: Lease, error: UpstreamError, began: float) -> None:
        """The lease cannot be kept: replace it at once, without a backoff, for no renewal will be tried again."""
        current = self.view.current
        if current is None or not self.holds(lease):
            return
        view = self._failures.spent(self.view, error, began, self._clock.now())
        self.view = replace(view, current=current.frozen(), replace=True)
        if isinstance(error, LeaseGone):
            self._lose(current)
        _log.warning(Event.RENEW_FAILED, role=self.role, lease=log.lease_ref(lease.id), error=str(error), retry_in=0)
        _log.info(Event.REPLACING, role=self.role, reason=type(error).__name__)

    def refused(self, lease: Lease, error: CredentialRefused) -> None:
        """The published credential does not work any more: it is replaced, and readers get it no longer than needed."""
        current = self.view.current
        if current is not None and self.holds(lease):
            _log.warning(Event.VERIFY_FAILED, role=self.role, lease=log.lease_ref(lease.id), error=str(error))
            self._failures.error = str(error)
            self._lose(current)
            self.changed.set()

    def expired(self, lease_ids: Collection[str]) -> None:
        """The published credential has ended at its upstream; see `refused`."""
        current = self.view.current
        if current is not None and current.id in lease_ids and not self.gone:
            _log.warning(Event.REPLACING, role=self.role, reason="it has ended at its upstream")
            self._lose(current)
            self.changed.set()

    def failed(self, event: Event, error: Exception, began: float, *, slow: bool = False) -> None:
        """An attempt failed."""
        now = self._clock.now()
        self._loginless = isinstance(error, NotLoggedIn | AuthExpired)
        if not isinstance(error, NotLoggedIn):  # then nobody was called
            self.hung = getattr(error, "timed_out", False)
        before, self._expired = self._expired, isinstance(error, AuthExpired)
        if self.gone and not self._expired:
            # The upstream has said that this credential is dead, and there is nothing to put in its place yet.
            self.let_go(now)
        self.view = self._failures.failed(self.view, event, error, began, now, slow=slow)
        if self._expired and not before:  # tried again with the next login, which is under way
            self.view = self._failures.forgiven(self.view, now)
        if self.gone and self.view.not_before > now:
            self.let_go(now)

    # -- the end ----------------------------------------------------------------------------------------------------

    async def end(self, deadline: float) -> list[str]:
        """Serve nothing and revoke all; what could not be, a line each."""
        self._counter.close()
        if self.view.current is not None:
            self.retirement.drain(self.view.current, self._clock.now())
            self.view = replace(self.view, current=None)
        return await self.retirement.finish(deadline)
