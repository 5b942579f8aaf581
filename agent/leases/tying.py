"""How a lease hangs on the login that it was made with (ADR 9), and why a fresh one is of no use. Pure."""

import math
from dataclasses import replace

from agent.leases.lease import Grant, Lease
from agent.leases.logins import Ties


def tied(lease: Lease, ties: Ties, now: float) -> Lease:
    """`lease` with the end of its login as it is known now; where nobody knows it any more, as it was known last.

    What has ended has ended: no later word on its login brings it back.
    """
    assured = ties.assured(lease.parent)
    if assured == math.inf:
        return lease
    if lease.expires_at <= now:
        assured = min(assured, lease.parent_until)
    return lease if assured == lease.parent_until else replace(lease, parent_until=assured)


def session_until(lease: Lease | None, ties: Ties) -> float:
    """The instant that no renewal of its login will get beyond; +inf without a lease."""
    return math.inf if lease is None else ties.hard(lease.parent)


def too_late(lease: Lease, now: float) -> str:
    """Why a fresh lease has nothing left to live."""
    if lease.own_end > now:
        return "the login that the lease hangs on has ended meanwhile"
    return "verification took longer than the lease lives: raise the role's TTL"


def too_short(grant: Grant, least: float) -> str:
    """Why a grant is of no use."""
    return f"the upstream grants {grant.ttl:g} s; less than {least:g} s cannot be renewed in time: raise the role's TTL"
