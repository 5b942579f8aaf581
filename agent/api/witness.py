"""Who is told what callers of the socket did: the audit log, where one is kept."""

from collections.abc import Sequence
from typing import Protocol

from agent.api.access import Peer
from agent.leases.cache import Snapshot


class Witness(Protocol):
    """Told of callers; must neither wait nor raise, but for `settled`."""

    def read(self, peer: Peer, snapshot: Snapshot) -> None:
        """`peer` got a credential for the first time."""
        ...

    def denied(self, peer: Peer, role: str, operation: str) -> None:
        """`peer` was refused; `role` is "" where it was no role's matter."""
        ...

    def rotated(self, peer: Peer, role: str) -> None:
        """`peer` had a credential replaced."""
        ...

    def revoking(self, peer: Peer, lease_ids: Sequence[str], prefix: str) -> None:
        """`peer` is about to have these leases revoked, by a prefix where there is one."""
        ...

    async def settled(self, timeout: float) -> bool:
        """Whether all that was told so far is written within `timeout` seconds."""
        ...
