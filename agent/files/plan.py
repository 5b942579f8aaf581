"""When a file is written and when it is removed: one pure decision, which agent.files.keeper executes.

A file holds the newest credential, is written again only if something that it shows has changed, and never outlives its
credential: it is removed when the credential has ended and nothing replaces it, and not a moment before, whatever the
safety margin of a first read is. What an earlier run of the agent left is not touched until it is replaced: when its
credential ends is not known.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from agent.leases.cache import Snapshot


@dataclass(frozen=True, kw_only=True)
class View:
    """What the decision rests on; instants are the dial's.

    Attributes:
        published: by role, what the cache holds; a role without a credential is missing.
        shown: by role, what the file holds, with all that was heard of it since; None while it holds nothing of this
            run.
        rendered: by role, the `request_id` of what the file holds, if a renewal changes what it shows; else empty.
        look_at: when to look at the file again in any case.
        good_until: until when the file is of use, whatever its credentials live.
        not_before: no rendering before this: the last one failed.
        remove_after: no removal before this: the last one failed.
    """

    roles: tuple[str, ...]
    published: Mapping[str, Snapshot]
    shown: Mapping[str, Snapshot] | None
    rendered: Mapping[str, str]
    look_at: float
    good_until: float
    not_before: float
    remove_after: float


@dataclass(frozen=True, kw_only=True)
class Render:
    """Render these credentials and write the file."""

    snapshots: Mapping[str, Snapshot]


@dataclass(frozen=True, kw_only=True)
class Remove:
    """Remove the file: a credential in it has ended."""


@dataclass(frozen=True, kw_only=True)
class Wait:
    """Nothing to do until the dial reads `until`, or the cache changes."""

    until: float


Step = Render | Remove | Wait


def next_step(view: View, now: float) -> Step:
    """First row that holds:

    all roles are served, the file differs from them or is due, no backoff -> Render
    a credential in the file has ended                                     -> Remove
    otherwise                                                              -> Wait
    """
    served = all(role in view.published and now < view.published[role].until for role in view.roles)
    render_at = max(view.not_before, -math.inf if _differs(view) else view.look_at) if served else math.inf
    if render_at <= now:
        return Render(snapshots=view.published)
    remove_at = max(view.remove_after, _end(view))
    if remove_at <= now:
        return Remove()
    return Wait(until=min(render_at, remove_at))


def _differs(view: View) -> bool:
    if view.shown is None:
        return True
    return any(
        view.shown[role].generation != new.generation or view.rendered.get(role, new.request_id) != new.request_id
        for role, new in view.published.items()
    )


def _end(view: View) -> float:
    """The instant at which the file or the first credential in it ends; −inf once its role was withdrawn."""
    if not view.shown:
        return math.inf
    ends = (old.lease.expires_at if role in view.published else -math.inf for role, old in view.shown.items())
    return min(view.good_until, *ends)
