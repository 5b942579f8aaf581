"""The Renewer's side of the cache: puts one role's credential up for readers and says how the role is doing."""

from agent import log
from agent.clock import Clock
from agent.failpoints import Failpoint, reach
from agent.leases.cache import LeaseCache, Phase, RoleStatus
from agent.leases.lease import Lease
from agent.leases.record import RoleRecord
from agent.leases.schedule import Policy, Retired, RoleView, Wait
from agent.leases.status import status_of
from agent.log import Event

_log = log.get(__name__)


class Counter:
    """Where one role is handed out."""

    def __init__(self, role: str, cache: LeaseCache, policy: Policy, clock: Clock) -> None:
        self.role = role
        self._cache = cache
        self._policy = policy
        self._clock = clock

    @property
    def asked_at(self) -> float:
        """Dial instant of the newest reader of a lazy role, −inf before the first."""
        return self._cache.read_at(self.role)

    def record_of(self, lease: Lease, *, verified: bool, retired: tuple[Retired, ...]) -> RoleRecord:
        """The role's record once `lease` is put up."""
        generation = self._cache.next_generation(self.role, self._clock.wall())
        return RoleRecord(current=lease, generation=generation, verified=verified, retired=retired)

    def put_up(self, lease: Lease, record: RoleRecord) -> None:
        """Let readers have `lease`."""
        now = self._clock.now()
        self._cache.publish(
            self.role,
            lease,
            until=self._policy.served_until(lease),
            verified=record.verified,
            now=now,
            wall=self._clock.wall(),
            generation=record.generation,
        )
        reach(Failpoint.PUBLISH_DONE)
        _log.info(
            Event.PUBLISHED,
            role=self.role,
            lease=log.lease_ref(lease.id),
            verified=record.verified,
            expires_in=round(lease.expires_at - now, 1),
        )

    def retime(self, lease: Lease) -> None:
        """Readers are told that what they have lasts until `lease.expires_at`."""
        until = self._policy.served_until(lease)
        self._cache.renewed(self.role, lease, until=until, now=self._clock.now(), wall=self._clock.wall())

    def prolong(self, lease: Lease) -> None:
        """Readers may keep what they have until `lease.expires_at`, by a renewal."""
        self.retime(lease)
        now = self._clock.now()
        _log.info(
            Event.RENEWED,
            role=self.role,
            lease=log.lease_ref(lease.id),
            ttl=lease.last.ttl,
            remaining=round(lease.expires_at - now, 1),
        )

    def take_down(self) -> None:
        """Serve nothing."""
        self._cache.withdraw(self.role)

    def close(self) -> None:
        """Serve nothing any more."""
        self.take_down()
        self._cache.report(self.role, RoleStatus(phase=Phase.STOPPED))
        self._cache.on_demand(self.role, None)

    def report_starting(self) -> None:
        """Somebody has asked, and the first attempt begins."""
        self._cache.report(self.role, RoleStatus(phase=Phase.STARTING, next_step="issue"))

    def report(self, view: RoleView, step: Wait, *, error: str, draining: int) -> None:
        """Nothing is to be done before `step.until`."""
        status = status_of(view, self._policy, step, error=error, draining=draining, now=self._clock.now())
        self._cache.report(self.role, status)
