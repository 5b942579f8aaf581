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

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
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


@dataclass(frozen=True, kw_only=True)
class Fetched:
    """A secret that nobody leases: it stands at the upstream until somebody, or a rotation there, changes it.

    Attributes:
        data: field name to value.
        version: differs whenever `data` differs, and only then.
        changes_in: seconds from the call until the upstream rotates it; `math.inf` where that is not known.
    """

    data: Mapping[str, Secret] = field(repr=False)
    version: str
    changes_in: float = math.inf


class Source(Protocol):
    """Where such secrets are looked at. The rules of Engine hold: one attempt per call, only UpstreamError leaves."""

    async def fetch(self, role: str) -> Fetched:
        """The role's secret as it is now.

        Raises:
            NotFound: there is none (any more).
        """
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
