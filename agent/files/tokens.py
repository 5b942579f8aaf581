"""The agent's own login in files, for apps that must talk to the server themselves: [[auto_auth.sink]].

A file holds the token of the present login, or, where the sink wraps, a wrapping token that can be opened once. It is
written again when the login is replaced; a renewal writes nothing. A wrapping token is replaced by a fresh one after
two thirds of its life, opened or not, and the file is removed at its end: who opens a dead one would have to think that
somebody else was there first.
"""

import asyncio
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence

from agent.clock import Clock
from agent.config.upstreams import TokenSink
from agent.errors import RenderError, UpstreamError
from agent.files.keeper import Keeper, RunBlocking, Written
from agent.files.sink import Place, Sink
from agent.files.together import Together
from agent.leases.cache import LeaseCache, Snapshot
from agent.leases.lease import Secret
from agent.leases.schedule import CALL_DEADLINE
from agent.leases.session import TOKEN

LOOK = 300.0
"""A token's file is looked at this often (seconds), as templates' are: mode and owner are made right, what is missing
is written."""

FRESH_AFTER = 2 / 3
"""Share of a wrapping token's life after which a fresh one is put in its place."""

Wrap = Callable[[Secret, float], Awaitable[Secret]]
"""A single-use token that stands for the given one during so many seconds. Raises UpstreamError."""


class TokenSinks(Together):
    """Every [[auto_auth.sink]] of the configuration.

    Args:
        places: by upstream, the cache where its login is put up, and the key there.
        wraps: by upstream, how to wrap its tokens.
    """

    def __init__(
        self,
        sinks: Sequence[TokenSink],
        places: Mapping[str, tuple[LeaseCache, str]],
        wraps: Mapping[str, Wrap],
        clock: Clock,
        *,
        run_blocking: RunBlocking = asyncio.to_thread,
    ) -> None:
        keepers = []
        for sink in sinks:
            cache, key = places[sink.upstream]
            content: _Plain | _Wrapped = _Plain(key, run_blocking)
            if sink.wrap_ttl:
                content = _Wrapped(key, sink.wrap_ttl, wraps[sink.upstream], clock, run_blocking)
            place = Place.of_token(sink.config)
            keepers.append(Keeper(content, place, cache, clock, run_blocking, gating=True))
        super().__init__(keepers, run_blocking)


class _Content:
    """What both kinds share; see `agent.files.keeper.Content`."""

    name = "token sink"

    def __init__(self, key: str, run_blocking: RunBlocking) -> None:
        self.roles = (key,)
        self._run_blocking = run_blocking

    def prepare(self) -> list[str]:
        """Nothing can be wrong with a token's content."""
        return []

    def _token(self, snapshots: Mapping[str, Snapshot]) -> Secret:
        return snapshots[self.roles[0]].lease.data[TOKEN]


class _Plain(_Content):
    """The token itself."""

    async def write(self, sink: Sink, snapshots: Mapping[str, Snapshot], now: float) -> Written:
        """See Content."""
        data = self._token(snapshots).reveal().encode()
        return Written(changed=await self._run_blocking(lambda: sink.write(data)), look_in=LOOK)


class _Wrapped(_Content):
    """A wrapping token for it."""

    def __init__(self, key: str, ttl: float, wrap: Wrap, clock: Clock, run_blocking: RunBlocking) -> None:
        super().__init__(key, run_blocking)
        self._ttl = ttl
        self._wrap = wrap
        self._clock = clock
        self._not_before = -math.inf

    async def write(self, sink: Sink, snapshots: Mapping[str, Snapshot], now: float) -> Written:
        """See Content."""
        token = self._token(snapshots)
        if now < self._not_before:
            raise RenderError(f"cannot be wrapped: the server asks for {self._not_before - now:.0f} s of patience")
        try:
            async with self._clock.timeout(2 * CALL_DEADLINE):  # the wait for a turn included
                wrapped = await self._wrap(token, self._ttl)
        except UpstreamError as error:
            self._not_before = self._clock.now() + getattr(error, "retry_after", 0.0)
            raise RenderError(f"cannot be wrapped: {error}") from error
        except TimeoutError as error:
            raise RenderError("cannot be wrapped: no answer in time") from error
        data = wrapped.reveal().encode()
        changed = await self._run_blocking(lambda: sink.write(data))
        return Written(changed=changed, look_in=FRESH_AFTER * self._ttl, good_for=self._ttl)
