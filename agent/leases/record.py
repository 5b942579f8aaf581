"""What must survive a restart of the agent, per role (ADR 1: where each state is recorded). No files here."""

from dataclasses import dataclass, field, replace
from typing import Protocol

from agent import log
from agent.clock import Clock
from agent.leases.lease import Lease
from agent.leases.schedule import Retired
from agent.log import Event

_log = log.get(__name__)

PATIENCE = 2.0
"""Longest wait (seconds) for a record to be written: what cannot be remembered takes no credential away (ADR 1)."""


@dataclass(frozen=True, kw_only=True)
class RoleRecord:
    """One role's leases at a moment.

    Attributes:
        current: what is published, or is about to be.
        generation: of `current`.
        verified: whether a login with `current` succeeded.
        retired: what is still to be revoked.
        proposed: the id of an issue under way: the next incarnation revokes it.
    """

    current: Lease | None = None
    generation: int = 0
    verified: bool = False
    retired: tuple[Retired, ...] = ()
    proposed: str = field(default="", repr=False)

    @property
    def empty(self) -> bool:
        """Whether there is nothing to remember."""
        return self.current is None and not self.retired and not self.proposed


class Recorder(Protocol):
    """Keeps records where the next incarnation finds them."""

    async def save(self, role: str, record: RoleRecord) -> None:
        """Remember `record` in place of the role's last one; when this returns, a crash loses nothing.

        Never raises: what cannot be remembered is said, and the agent goes on. Cancelling it stops the waiting only;
        whatever is saved after it stands in the end.
        """
        ...


class Memory:
    """A role's newest record, saved only where it has changed."""

    def __init__(self, role: str, recorder: Recorder | None, left: RoleRecord | None, clock: Clock) -> None:
        self.role = role
        self.newest = left or RoleRecord()
        self._recorder = recorder
        self._clock = clock

    async def save(self, record: RoleRecord) -> None:
        """Remember `record`; a file system that hangs is waited for no longer than `PATIENCE`."""
        changed = record != self.newest
        self.newest = record  # before the wait: one that is cancelled has been written all the same
        if self._recorder is None or not changed:
            return
        try:
            async with self._clock.timeout(PATIENCE):
                await self._recorder.save(self.role, record)
        except TimeoutError:
            why = f"state_dir does not answer within {PATIENCE:g} s: a restart now would not know the newest lease"
            _log.error(Event.STATE_FAILED, role=self.role, error=why)

    async def keep(self, current: Lease | None, retired: tuple[Retired, ...], *, proposed: str = "") -> None:
        """Remember the role's present leases, and an issue about to begin."""
        await self.save(replace(self.newest, current=current, retired=retired, proposed=proposed))

    async def strike(self, lease_id: str, now: float) -> None:
        """Remember that this lease is to be revoked at once, whatever the role is doing: no restart brings it back."""
        newest, current = self.newest, self.newest.current
        retired = tuple(
            replace(each, revoke_at=min(each.revoke_at, now)) if each.lease_id == lease_id else each
            for each in newest.retired
        )
        if current is not None and current.id == lease_id:
            await self.save(replace(newest, current=None, retired=(*retired, Retired.of(current, now))))
        else:
            await self.save(replace(newest, retired=retired))
