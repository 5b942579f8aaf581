"""One role's leases as operators see them."""

import math
from dataclasses import dataclass, field

from agent.leases.lease import Lease
from agent.leases.schedule import Retired


@dataclass(frozen=True, kw_only=True)
class Held:
    """One lease of a role; instants are the dial's.

    Attributes:
        state: "published", "draining" (replaced, still valid) or "doomed" (never published, to be revoked).
        username: of the credential; "" where the agent does not know it any more.
        issued_at: NaN where the agent does not know it any more, as is true of all that drains.
        expires_at: its end.
        revoke_at: when it is revoked; its end while it is published.
        tried: a revocation has failed already.
        parent: the login that it hangs on; "" where there is none.
        keyed: for a login: we have what it takes to end it, and whatever hangs on it.
    """

    role: str
    lease_id: str = field(repr=False)
    state: str
    username: str = field(default="", repr=False)
    issued_at: float = math.nan
    expires_at: float
    revoke_at: float
    renewable: bool = False
    tried: bool = False
    parent: str = field(default="", repr=False)
    keyed: bool = False

    @classmethod
    def published(cls, role: str, lease: Lease) -> "Held":
        """The lease that is served."""
        user = lease.data.get("username")
        return cls(
            role=role,
            lease_id=lease.id,
            state="published",
            username="" if user is None else user.reveal(),
            issued_at=lease.issued_at,
            expires_at=lease.expires_at,
            revoke_at=lease.expires_at,
            renewable=lease.renewable,
            parent=lease.parent,
            keyed=lease.first.key is not None,
        )

    @classmethod
    def retired(cls, role: str, retired: Retired) -> "Held":
        """A lease on its way out."""
        return cls(
            role=role,
            lease_id=retired.lease_id,
            state="draining" if retired.published else "doomed",
            expires_at=retired.ends_at,
            revoke_at=retired.revoke_at,
            tried=retired.tried,
            parent=retired.parent,
            keyed=retired.key is not None,
        )
