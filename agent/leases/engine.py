"""The Engine Protocol: our side of an upstream. One contract suite (tests/contract) runs over every engine.

The contract, beyond the signatures:
- one attempt per call, no retries inside; every call can be cancelled at every await, at once;
- only `agent.errors.UpstreamError` and its children leave (and CancelledError); nothing secret in any message;
- `issue` honours `proposed_id` as the lease's id where the upstream lets it, so that an issue whose outcome is unknown
  can be revoked by that id; where it cannot, the Grant carries the upstream's own id;
- `renew` never changes the credential; a grant without `data` keeps the first one's;
- `revoke` of a lease that is gone, or never was, succeeds; after it succeeded, an issue still under way under that
  id cannot take effect any more;
- an engine reads no clock for its answers: `ttl` counts from the moment the caller made the call.
"""

from collections.abc import Mapping
from typing import Protocol

from agent.leases.lease import Grant, Lease, Secret


class Engine(Protocol):
    """An adapter to one upstream."""

    async def issue(self, role: str, proposed_id: str) -> Grant:
        """A new lease for `role`."""
        ...

    async def renew(self, lease: Lease, increment: float) -> Grant:
        """`lease` extended; `increment` is the number of seconds wished for from now, and advisory.

        Raises:
            LeaseEnded: it cannot be kept; the caller replaces it.
        """
        ...

    async def revoke(self, lease_id: str) -> None:
        """End a lease now: when this returns, its credential no longer works."""
        ...

    async def ping(self) -> None:
        """Return if the upstream answers and accepts our login."""
        ...


class Verify(Protocol):
    """Tries a new credential before anyone sees it."""

    async def __call__(self, data: Mapping[str, Secret], until: float) -> bool:
        """True if the credential logs in everywhere it should; False if that could not be found out.

        Tries again, with growing delays, until the dial reads `until`.

        Raises:
            CredentialRefused: the database went on refusing it.
        """
        ...
