"""Which expired leases could not be ended, so that they never hold up those that can be; kept in memory only.

Pure: the caller says what time it is. No order of the journal could do this: whatever comes first in it may be stuck.
"""

from collections.abc import Sequence
from dataclasses import dataclass

_SHORTEST = 15.0
_LONGEST = 600.0


@dataclass(kw_only=True)
class _Setback:
    times: int = 0
    again_at: float = 0.0
    line: str = ""


class Backlog:
    """What is left of earlier sweeps. Instants are on the caller's dial."""

    def __init__(self) -> None:
        self._setbacks: dict[str, _Setback] = {}

    def __repr__(self) -> str:
        return f"Backlog({len(self._setbacks)})"

    @property
    def lines(self) -> tuple[str, ...]:
        """Why each lease could not be ended, those included whose turn has not come again."""
        return tuple(setback.line for setback in self._setbacks.values())

    def __contains__(self, lease_id: str) -> bool:
        """Whether it could not be ended so far."""
        return lease_id in self._setbacks

    def turn(self, due: Sequence[tuple[str, str]], now: float) -> list[tuple[str, str]]:
        """The leases to try now, of all that are due: first those that never failed, then those that rested longest.

        What is not due any more is forgotten.
        """
        self._setbacks = {lease_id: self._setbacks[lease_id] for lease_id, _ in due if lease_id in self._setbacks}
        rested = [one for one in due if one[0] in self._setbacks and self._setbacks[one[0]].again_at <= now]
        rested.sort(key=lambda one: self._setbacks[one[0]].again_at)
        return [one for one in due if one[0] not in self._setbacks] + rested

    def begin(self, lease_id: str, now: float) -> None:
        """Count the lease as failed until `ended` says otherwise: the attempt may be cancelled at any moment."""
        setback = self._setbacks.setdefault(lease_id, _Setback())
        setback.again_at = now + min(_LONGEST, _SHORTEST * 2.0 ** min(setback.times, 10))
        setback.times += 1

    def explain(self, lease_id: str, line: str) -> None:
        """Why the attempt failed, if it does."""
        self._setbacks[lease_id].line = line

    def ended(self, lease_id: str) -> None:
        """There is nothing left to do for it."""
        self._setbacks.pop(lease_id, None)
