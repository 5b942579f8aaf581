"""A role's turns at its upstream, for issues and renewals."""

import contextlib
from collections.abc import AsyncIterator

from agent.clock import Clock
from agent.errors import NotLoggedIn
from agent.leases.circuit import Gate
from agent.leases.tenure import Tenure

_GONE_PATIENCE = 2.0
"""Longest wait (seconds) for a turn while readers have a credential that is known to be dead."""


class Turns:
    """Asks `gate` for turns on behalf of the role that `tenure` is of."""

    def __init__(self, gate: Gate, tenure: Tenure, clock: Clock) -> None:
        self._gate = gate
        self._tenure = tenure
        self._clock = clock

    @contextlib.asynccontextmanager
    async def take(self) -> AsyncIterator[None]:
        """A block in which one call is made.

        Raises:
            NotLoggedIn: no call was made, and the role should not wait for its turn any longer.
        """
        tenure = self._tenure
        async with contextlib.AsyncExitStack() as place:
            tenure.queued = True
            try:
                async with self._clock.timeout(self._patience()):
                    await place.enter_async_context(self._gate.turn(retrying=tenure.hung))
            except TimeoutError:
                raise NotLoggedIn("the credential has ended, and the turn to replace it does not come") from None
            finally:
                tenure.queued = False
            yield

    def _patience(self) -> float | None:
        """Seconds to wait for a turn: to the end of what is served, which then has to be said."""
        current = self._tenure.current
        if current is None:
            return None
        return _GONE_PATIENCE if self._tenure.gone else max(_GONE_PATIENCE, current.expires_at - self._clock.now())
