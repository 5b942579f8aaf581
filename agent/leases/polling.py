"""When to look at a secret that nobody leases, and how long readers may rely on it: pure decisions, no clock, no I/O.

Two kinds. A *kv* is changed by people, without notice: it is looked at every interval. A *static* secret is rotated by
its upstream, which says when (the edge): it is looked at just after the edge as well, and every interval in between,
because an operator can rotate it at any time. Both follow one table; a kv has no edge.

`seen`, first row that holds, after a look that came off:

| what it found                                               | the next look                                    |
|-------------------------------------------------------------|--------------------------------------------------|
| another version                                             | after the new edge, or an interval               |
| the same, and its edge lies ahead                           | after the edge, or an interval                   |
| the same past its edge, for less than CHASE                 | after 0.5 s, 1 s, 2 s, 4 s, … 10 s               |
| the same for longer, and by its own word it is due          | overdue: a failure, with its backoff             |
| the same for longer, and the upstream tells of a later edge | after that edge, or an interval                  |

The third row stands whatever the upstream says of its next edge: it may move that on before the password has really
changed (hashicorp/vault#31918), and who believed it would keep a dead password for a whole period.
"""

import math
from dataclasses import dataclass, replace

MARGIN = 1.0
"""Seconds before the told end from which a secret would be served no more; `lease_duration` is never 0 that way."""

LEAD = 4.0
"""Seconds before the told end at which it is moved on: nothing takes away what has no end of its own."""

PATIENCE = 6.0
"""Seconds after the next look up to which readers may keep what they have: the look, and its news, take a while."""

CHASE = 60.0
"""Seconds for which a change is asked for again and again once a look has missed it after its edge."""

CHASE_FLOOR, CHASE_CAP = 0.5, 10.0

ROUNDING = 1.0
"""Upstreams speak of whole seconds."""

LONGEST = 10 * 365 * 86_400.0
"""Seconds: readers are told of no end beyond, whatever the upstream says; ten years are for ever."""

SETTLED = 2.0
"""Two looks are this far apart (seconds) unless a change is awaited or the interval is shorter: no upstream's edges can
have it otherwise."""


@dataclass(frozen=True, kw_only=True)
class Watch:
    """What the looks so far have told; instants are the dial's.

    Attributes:
        version: what is published, None before the first.
        edge: when the upstream will change it, by its own word; +inf where it does not say.
        missed: when a look past the edge first found nothing new; +inf while no change is awaited.
        tries: such looks since then.
        look_at: when to look again.
        overdue: the change has been awaited for longer than CHASE, and the upstream still announces it.
    """

    version: str | None = None
    edge: float = math.inf
    missed: float = math.inf
    tries: int = 0
    look_at: float = -math.inf
    overdue: bool = False


@dataclass(frozen=True, kw_only=True)
class Look:
    """A look that came off.

    Attributes:
        version: what was found.
        changes_in: seconds from `began` until the upstream changes it, by its own word.
        began: when the request left.
        now: when its result is acted upon.
    """

    version: str
    changes_in: float
    began: float
    now: float

    @property
    def edge(self) -> float:
        """The instant of the next change."""
        return self.began + self.changes_in if self.changes_in > 0 else self.began  # NaN is no instant


def seen(watch: Watch, look: Look, *, interval: float, u: float) -> Watch:
    """What is known after `look`: the table in this module's docstring.

    Args:
        interval: seconds between two looks at most.
        u: drawn from [0, 1) by the caller.
    """
    settled = Watch(version=look.version, edge=look.edge, look_at=_settled_look(look, interval, u))
    awaited = watch.missed < math.inf or watch.edge <= look.began
    if look.version != watch.version or not awaited:
        return settled
    awaiting = replace(settled, missed=min(watch.missed, look.now), tries=watch.tries + 1)
    if look.now < awaiting.missed + CHASE:
        return replace(awaiting, look_at=look.now + chase_delay(awaiting.tries))
    if look.edge <= look.now + ROUNDING:
        return replace(awaiting, look_at=look.now, overdue=True)
    return settled


def chase_delay(tries: int) -> float:
    """Seconds to the next look after `tries` that did not find the awaited change."""
    return min(CHASE_CAP, CHASE_FLOOR * 2.0 ** min(tries - 1, 10))


def _settled_look(look: Look, interval: float, u: float) -> float:
    """In the last tenth of the interval, or just after the edge if that comes first: a fleet is spread over both."""
    regular = look.now + interval * (0.9 + 0.1 * u)
    after = 0.1 + u * (min(2.0, max(0.5, 0.05 * look.changes_in)) - 0.1) if look.edge < math.inf else 0.0
    return min(regular, max(look.now + SETTLED, look.edge + after))


def told_end(watch: Watch, now: float, *, next_at: float | None = None) -> float:
    """The instant until which readers may rely on what was found.

    The edge while it lies ahead: from then on the old password does not log in. Otherwise, and once the edge has come,
    somewhat after the next look.

    Args:
        next_at: of that look, where a failure has moved it.
    """
    if watch.missed == math.inf and now + LEAD < watch.edge < math.inf:
        return min(watch.edge, now + LONGEST)
    return min(max(now, watch.look_at if next_at is None else next_at), now + LONGEST) + PATIENCE
