"""At most so many of a kind in a while: for log lines that strangers can cause, and for what they ask for."""

from collections.abc import Hashable

_MOST_KINDS = 1024
_ROUNDING = 1e-6


class Spacing:
    """Grants the first of each kind at once, and the next only after its interval."""

    def __init__(self) -> None:
        self._granted: dict[Hashable, float] = {}

    def wait(self, kind: Hashable, now: float, interval: float) -> float:
        """0.0 if granted (and noted), else the seconds until it would be.

        Kinds beyond 1,024 push out the oldest, so that whoever invents kinds cannot fill the memory.
        """
        left = self._granted.get(kind, -float("inf")) + interval - now
        if left > 0:
            return left
        self._granted.pop(kind, None)
        if len(self._granted) >= _MOST_KINDS:
            del self._granted[next(iter(self._granted))]
        self._granted[kind] = now
        return 0.0


class Allowance:
    """Grants `burst` of each kind at once, and further ones at `rate` per second: for what programs do in loops."""

    def __init__(self, *, burst: int, rate: float) -> None:
        self._slack = (burst - 1) / rate
        self._step = 1.0 / rate
        self._paid_until: dict[Hashable, float] = {}

    def wait(self, kind: Hashable, now: float) -> float:
        """0.0 if granted (and counted), else the seconds until it would be. As to kinds, see Spacing."""
        begins = max(now, self._paid_until.pop(kind, now))
        left = begins - self._slack - now
        if left > _ROUNDING:
            self._paid_until[kind] = begins
            return left
        if len(self._paid_until) >= _MOST_KINDS:
            del self._paid_until[next(iter(self._paid_until))]
        self._paid_until[kind] = begins + self._step
        return 0.0
