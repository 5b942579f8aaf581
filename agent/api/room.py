"""How many connections there may be, so that clients never take the descriptors that the agent itself needs.

The agent logs in, verifies, and writes files with descriptors of its own; when clients hold them all, files go stale
and new credentials cannot be tried, while every reader that is connected looks well served.
"""

import resource
from dataclasses import dataclass

_LEAST_KEPT = 64
_LEAST_ROOM = 8


@dataclass(frozen=True, kw_only=True)
class Room:
    """Open connections: in all, and of one uid."""

    most: int
    most_per_uid: int


def room_for(most: int, most_per_uid: int) -> Room:
    """What is wished for, less where the process may not open that many files.

    A quarter of its descriptors are kept, at least 64; the share of one uid shrinks with the whole.
    """
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if descriptors == resource.RLIM_INFINITY:
        return Room(most=most, most_per_uid=most_per_uid)
    possible = max(_LEAST_ROOM, descriptors - max(_LEAST_KEPT, descriptors // 4))
    if possible >= most:
        return Room(most=most, most_per_uid=most_per_uid)
    return Room(most=possible, most_per_uid=max(1, most_per_uid * possible // most))
