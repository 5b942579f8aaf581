"""When to do what: pure decisions over values, no clock, no I/O. The Renewer only executes what stands here.

`next_step`, first row that holds:

| # | when                                                              | step                                   |
|---|-------------------------------------------------------------------|----------------------------------------|
| 1 | not wanted                                                        | Release a current lease, else Wait     |
| 2 | now < not_before                                                  | Wait                                   |
| 3 | no current lease                                                  | Issue                                  |
| 4 | now ≥ issue edge                                                  | Issue                                  |
| 5 | renewable, now ≥ renew edge, and replacing is not asked or fails  | Renew                                  |
| 6 | replace                                                           | Issue                                  |
| 7 | otherwise                                                         | Wait until the first of these can hold |

issue edge = end − margin − overlap, where end is the hard end while all is well, and the lease's own end as soon as
renewing fails, is impossible or is held back; renew edge = min(renew time, own end − margin − overlap), so that the
overlap is always in hand. Row 5 stands before row 6 because a replacement that cannot be had must not cost the lease
we hold.

Lengths: the *last* grant times the renewal, the *first* one sets overlap and margin. The hard end is the least of the
max TTL's end, the parent session's end and the role's own `max_lifetime`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from agent.leases.lease import Grant, Lease, Secret

JITTER = 0.10
"""Share of a grant by which jitter brings its renewal forward at most."""

MIN_TTL = 5.0
"""Leases shorter than this cannot be renewed and replaced with an overlap; they are refused (seconds)."""

CALL_DEADLINE = 10.0
"""Longest wait for an answer of an upstream (seconds)."""

BACKOFF_FLOOR, BACKOFF_CAP = 0.5, 60.0
SLOW_FAILURES = 5
"""A failure that waiting does not heal (role unknown, right missing) is retried as if it were the fifth in a row."""

WINDOW = 60.0
CALL_BUDGET, REVOKE_BUDGET = 7, 3
"""Failed calls in any WINDOW per role: issues and renewals, and revocations. Together never more than ten."""

RETRY_BUDGET = 2
"""Of the failed revocations; the last one is kept for a lease that was not tried yet."""

RENEW_BUDGET = 4
"""After this many of them no renewal is tried in that WINDOW: what is left is kept for issues, which bridge better."""


@dataclass(frozen=True, kw_only=True)
class Policy:
    """How a role wants its leases kept.

    Attributes:
        threshold: share of a grant after which it is renewed at the latest.
        overlap: seconds a replacement is there before the old lease ends; None means a quarter of the lease.
        margin: seconds before its end from which a lease is served no more; None means min(10, 5 %), at least 1.
        drain: seconds after which a replaced lease is revoked; None means at its end.
        max_lifetime: seconds after which a lease is replaced whatever the upstream would allow.
        min_ttl: a grant shorter than this is refused.
        attempts: failed attempts in a row after which `on_failed` fires.
    """

    threshold: float = 0.67
    overlap: float | None = None
    margin: float | None = None
    drain: float | None = None
    max_lifetime: float = math.inf
    min_ttl: float = MIN_TTL
    attempts: int = 5

    def margin_of(self, lease: Lease) -> float:
        """The safety margin of `lease` in seconds, never more than half of it."""
        ttl = lease.first.ttl
        margin = max(1.0, min(10.0, 0.05 * ttl)) if self.margin is None else self.margin
        return min(margin, 0.5 * ttl)

    def overlap_of(self, lease: Lease) -> float:
        """The overlap of `lease` in seconds: at most half of it, and with the margin at most four fifths."""
        ttl = lease.first.ttl
        overlap = 0.25 * ttl if self.overlap is None else self.overlap
        return min(overlap, 0.5 * ttl, 0.8 * ttl - self.margin_of(lease))

    def deadline_for(self, lease: Lease | None) -> float:
        """Seconds one call may take: ten, less where the overlap is short. None: a first issue."""
        return CALL_DEADLINE if lease is None else min(CALL_DEADLINE, self.overlap_of(lease) / 4)

    def served_until(self, lease: Lease) -> float:
        """The instant from which `lease` is served no more."""
        return lease.expires_at - self.margin_of(lease)


@dataclass(frozen=True, kw_only=True)
class Retired:
    """A lease to be revoked: replaced and draining, or doomed (refused, or an issue whose outcome is unknown).

    Attributes:
        tried: a revocation has failed; others go first.
        parent: the login that it hangs on, and
        key: what revoking it takes beside its id; see Grant.
    """

    lease_id: str = field(repr=False)
    revoke_at: float
    ends_at: float
    published: bool
    tried: bool = False
    parent: str = field(default="", repr=False)
    key: Secret | None = None

    @classmethod
    def of(cls, lease: Lease, revoke_at: float) -> "Retired":
        """A published lease that drains until `revoke_at`."""
        return cls(
            lease_id=lease.id,
            revoke_at=revoke_at,
            ends_at=lease.expires_at,
            published=True,
            parent=lease.parent,
            key=lease.first.key,
        )


@dataclass(frozen=True, kw_only=True)
class RoleView:
    """All that decides what happens next to a role.

    Attributes:
        session_until: end of the login that the current lease hangs on, once it is renewed no more.
        failures: failed attempts in a row.
        not_before: no call before this instant.
        revoke_not_before: no revocation before this instant,
        again_not_before: and none that has failed before before this one.
        renew_not_before: no renewal before this instant: too many calls have failed lately.
        wanted: somebody uses the role.
        replace: the current lease is to be replaced: gone, shortened, refused, or somebody asked.
    """

    current: Lease | None = None
    draining: tuple[Retired, ...] = ()
    session_until: float = math.inf
    failures: int = 0
    not_before: float = -math.inf
    revoke_not_before: float = -math.inf
    again_not_before: float = -math.inf
    renew_not_before: float = -math.inf
    wanted: bool = True
    replace: bool = False


@dataclass(frozen=True, kw_only=True)
class Issue:
    """Obtain a lease; publish it by `publish_by` so that readers see no gap (−inf where there is nothing to bridge)."""

    publish_by: float


@dataclass(frozen=True, kw_only=True)
class Renew:
    """Extend `lease`."""

    lease: Lease


@dataclass(frozen=True, kw_only=True)
class Release:
    """Let the current lease go."""


@dataclass(frozen=True, kw_only=True)
class Wait:
    """Nothing to do before `until`; `then` is what will probably follow."""

    until: float
    then: str


Step = Issue | Renew | Release | Wait


def hard_end(view: RoleView, policy: Policy) -> float:
    """The instant past which no renewal keeps the current lease; +inf without one."""
    lease = view.current
    if lease is None:
        return math.inf
    return min(lease.max_end, view.session_until, lease.issued_at + policy.max_lifetime)


def issue_edge(view: RoleView, policy: Policy) -> float:
    """The instant from which the current lease is replaced; −inf without one."""
    lease = view.current
    if lease is None:
        return -math.inf
    end = hard_end(view, policy)
    held = view.renew_not_before > renew_edge(lease, policy)
    if view.failures or held or not lease.renewable:
        end = min(end, lease.own_end)
    edge = end - policy.margin_of(lease) - policy.overlap_of(lease)
    # Whatever an upstream says of its ends, a lease lives a fifth of its TTL before it is replaced: no storm of issues.
    # One whose login ends sooner has only that much to live.
    life = max(0.0, min(lease.first.ttl, view.session_until - lease.issued_at))
    return max(edge, lease.issued_at + 0.2 * life)


def renew_edge(lease: Lease, policy: Policy) -> float:
    """The instant from which `lease` is renewed."""
    timed = lease.granted_at + (policy.threshold - JITTER * lease.jitter) * lease.last.ttl
    return min(timed, lease.own_end - policy.margin_of(lease) - policy.overlap_of(lease))


def next_step(view: RoleView, policy: Policy, now: float) -> Step:
    """What to do now: the table in this module's docstring, first row that holds."""
    lease = view.current
    if not view.wanted:
        return Wait(until=math.inf, then="issue") if lease is None else Release()
    if now < view.not_before:
        return Wait(until=view.not_before, then="retry")
    if lease is None:
        return Issue(publish_by=-math.inf)
    replacing = Issue(publish_by=policy.served_until(lease))
    if now >= issue_edge(view, policy):
        return replacing
    renew_at = max(renew_edge(lease, policy), view.renew_not_before) if lease.renewable else math.inf
    if now >= renew_at and (view.failures or not view.replace):
        return Renew(lease=lease)
    if view.replace:
        return replacing
    issue_at = issue_edge(view, policy)
    return Wait(until=min(renew_at, issue_at), then="renew" if renew_at < issue_at else "issue")


def revocable_at(view: RoleView, retired: Retired) -> float:
    """The instant from which `retired` may be revoked."""
    held = view.again_not_before if retired.tried else view.revoke_not_before
    return max(retired.revoke_at, held)


def due_revocations(view: RoleView, now: float) -> tuple[Retired, ...]:
    """The retired leases to revoke now: those not tried yet first, and of those the ones that nobody has ever used."""
    due = [retired for retired in view.draining if revocable_at(view, retired) <= now]
    return tuple(sorted(due, key=lambda retired: (retired.tried, retired.published, retired.revoke_at)))


def shortened(lease: Lease, grant: Grant) -> bool:
    """Whether a renewal was granted less than the first grant: the max TTL is near.

    Up to 2 s, and a tenth of the lease, are forgiven as rounding.
    """
    return grant.ttl < lease.first.ttl - min(2.0, 0.1 * lease.first.ttl)


def backoff(failures: int, u: float, *, slow: bool = False) -> float:
    """Seconds to wait after the `failures`-th failure in a row: uniform in [b/2, b], b = 1 s doubling up to 60 s.

    Args:
        u: drawn from [0, 1) by the caller.
        slow: the failure is one that waiting does not heal.
    """
    step = max(failures, SLOW_FAILURES) if slow else failures
    top = min(BACKOFF_CAP, 2.0 ** min(step - 1, 10))
    return max(BACKOFF_FLOOR, top / 2 + u * top / 2)


def retry_at(view: RoleView, policy: Policy, now: float, delay: float, retry_after: float = 0.0) -> float:
    """The instant of the next attempt after a failure.

    A backoff never sleeps over the issue edge, nor over the last instant at which a replacement can still be issued
    and verified before the current lease is served no more. An upstream's `Retry-After` sleeps over the former, as it
    asked, not over the latter.
    """
    lease = view.current
    at = now + delay
    if lease is None:
        return max(at, now + retry_after, now + BACKOFF_FLOOR)
    last_chance = policy.served_until(lease) - policy.overlap_of(lease) / 2
    edges = [edge for edge in (issue_edge(view, policy), last_chance) if edge > now]
    at = min(at, *edges) if edges else at
    at = max(at, now + retry_after)
    if last_chance > now:
        at = min(at, last_chance)
    return max(at, now + BACKOFF_FLOOR)


def within_budget(failed_at: Sequence[float], now: float, budget: int) -> float:
    """The first instant from `now` on at which one more failure would not be more than `budget` in WINDOW seconds."""
    recent = [at for at in failed_at if at > now - WINDOW]
    # A moment more than the window: sums of floats may fall a little short of it.
    return now if len(recent) < budget else recent[-budget] + WINDOW + 0.001


def verify_until(view: RoleView, policy: Policy, now: float, lease: Lease, publish_by: float) -> float:
    """Until when a new `lease` is tried before it is published anyway, or given up.

    Half the overlap, and no longer than the old lease bridges; two deadlines for a first lease.
    """
    if view.current is None or publish_by <= now:
        return now + 2 * policy.deadline_for(lease)
    return min(now + policy.overlap_of(lease) / 2, publish_by)
