"""One gate per upstream: a bound on calls at once, and one probing call for all while nothing answers.

An Engine around an Engine. Only transport failures narrow the gate; a refusal is an answer, and holds nobody else up.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from agent import log
from agent.errors import Unavailable, UpstreamError
from agent.leases.engine import Engine
from agent.leases.lease import Grant, Lease
from agent.log import Event

_log = log.get(__name__)
T = TypeVar("T")


class Circuit:
    """`engine` behind a gate.

    Args:
        limit: calls at once while the upstream answers.
    """

    def __init__(self, name: str, engine: Engine, *, limit: int = 4) -> None:
        self.name = name
        self._engine = engine
        self._slots = asyncio.Semaphore(limit)
        self._fault = ""
        self._probe: asyncio.Event | None = None

    def __repr__(self) -> str:
        return f"Circuit({self.name}, {self.state})"

    @property
    def state(self) -> str:
        """`closed` while calls pass freely, `open` while one call at a time probes for all."""
        return "open" if self._fault else "closed"

    async def issue(self, role: str, proposed_id: str) -> Grant:
        """See Engine."""
        return await self.through(lambda: self._engine.issue(role, proposed_id))

    async def renew(self, lease: Lease, increment: float) -> Grant:
        """See Engine."""
        return await self.through(lambda: self._engine.renew(lease, increment))

    async def revoke(self, lease_id: str) -> None:
        """See Engine."""
        await self.through(lambda: self._engine.revoke(lease_id))

    async def ping(self) -> None:
        """See Engine."""
        await self.through(self._engine.ping)

    async def through(self, call: Callable[[], Awaitable[T]]) -> T:
        """The answer of `call`, made when the gate admits it; Unavailable where another's probe has just failed."""
        if not self._fault:
            async with self._slots:
                return await self._attempt(call)
        if self._probe is None:
            self._probe = asyncio.Event()
            try:
                return await self._attempt(call)
            finally:
                self._probe.set()
                self._probe = None
        await self._probe.wait()
        if self._fault:
            raise Unavailable(self._fault, unreachable=True)
        async with self._slots:
            return await self._attempt(call)

    async def _attempt(self, call: Callable[[], Awaitable[T]]) -> T:
        try:
            answer = await call()
        except UpstreamError as error:
            self._found(str(error) if error.unreachable else "")
            raise
        except asyncio.CancelledError:
            # The caller's deadline passed, or it left: nobody answered in time either way.
            self._found(f"{self.name} did not answer in time")
            raise
        self._found("")
        return answer

    def _found(self, fault: str) -> None:
        if bool(fault) != bool(self._fault):
            _log.warning(Event.CIRCUIT, upstream=self.name, state="open" if fault else "closed", error=fault or None)
        self._fault = fault
