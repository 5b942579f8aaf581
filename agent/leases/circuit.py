"""One gate per upstream: a bound on calls at once, and one probing call for all while nothing answers.

Every call of the upstream is made in a turn, and its deadline begins with the turn: with a thousand roles due at once,
the wait for a place is no fault of the upstream's. Only transport failures narrow the gate; a refusal is an answer, and
holds nobody else up. Nor does one that hangs on something behind an upstream that is well: where that can be asked, it
is, before a call that was waited for in vain narrows the gate; and tries after a failure take half the places at most.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from agent import log
from agent.errors import NotLoggedIn, Unavailable, UpstreamError
from agent.log import Event

_log = log.get(__name__)


class Gate(Protocol):
    """Says when a call may be made."""

    def turn(self, *, telling: bool = True, retrying: bool = False) -> AbstractAsyncContextManager[None]:
        """A block in which one call is made; entering it may take a while.

        Args:
            telling: False where success may mean that nobody was asked: it says nothing of the upstream then.
            retrying: the last call of this kind was waited for in vain: others go first.
        """
        ...


class Open:
    """A gate that lets everybody through at once."""

    def turn(self, *, telling: bool = True, retrying: bool = False) -> AbstractAsyncContextManager[None]:
        """See Gate."""
        return contextlib.nullcontext()


OPEN = Open()


class First:
    """A gate for calls that many others wait for: they never stand behind those who try again.

    Args:
        gate: where the turn is had.
    """

    def __init__(self, gate: Gate) -> None:
        self._gate = gate

    def turn(self, *, telling: bool = True, retrying: bool = False) -> AbstractAsyncContextManager[None]:
        """See Gate."""
        return self._gate.turn(telling=telling)


class _Probe:
    """One call that finds out for all.

    Attributes:
        failed: it has had no answer; False as well where it was given up, or asked nobody.
    """

    def __init__(self) -> None:
        self.over = asyncio.Event()
        self.failed = False


class _Asked:
    """One question to the upstream itself, whether it is well."""

    def __init__(self) -> None:
        self.over = asyncio.Event()
        self.alive = False
        self.given_up = True


class Circuit:
    """The gate of one upstream.

    Args:
        limit: calls at once while the upstream answers.
        alive: whether the upstream itself answers, found out within a moment; asked when a call was waited for in vain.
    """

    def __init__(self, name: str, *, limit: int = 4, alive: Callable[[], Awaitable[bool]] | None = None) -> None:
        self.name = name
        self._alive = alive
        self._slots = asyncio.Semaphore(limit)
        self._lanes = max(1, limit // 2)
        self._moved = asyncio.Event()
        self._fault = ""
        self._probe: _Probe | None = None
        self._asked: _Asked | None = None

    def __repr__(self) -> str:
        return f"Circuit({self.name}, {self.state})"

    @property
    def state(self) -> str:
        """`closed` while calls pass freely, `open` while one call at a time probes for all."""
        return "open" if self._fault else "closed"

    @contextlib.asynccontextmanager
    async def turn(self, *, telling: bool = True, retrying: bool = False) -> AsyncIterator[None]:
        """One call's turn, in the order of asking; see Gate.

        Raises:
            Unavailable: another's probe has just failed; no call was made.
        """
        async with contextlib.AsyncExitStack() as place:
            if retrying:
                await self._take_lane(place)
            await self._admit(place)
            try:
                yield
            except NotLoggedIn:  # nobody was asked
                raise
            except UpstreamError as error:
                self._found(str(error) if error.unreachable and not await self._only_slow(error.timed_out) else "")
                raise
            except TimeoutError:
                self._found("" if await self._only_slow(True) else f"{self.name} did not answer in time")
                raise
            if telling:
                self._found("")

    async def _take_lane(self, place: contextlib.AsyncExitStack) -> None:
        """Wait for one of the places that tries after a failure may take; while nothing answers, nobody waits here."""
        while not self._fault and not self._lanes:
            await self._moved.wait()
        if self._fault:
            return
        self._lanes -= 1
        place.callback(self._leave_lane)

    def _leave_lane(self) -> None:
        self._lanes += 1
        self._move()

    def _move(self) -> None:
        """Have all who wait for a lane look again, in their order."""
        moved, self._moved = self._moved, asyncio.Event()
        moved.set()

    async def _admit(self, place: contextlib.AsyncExitStack) -> None:
        """Wait for a place, given back when `place` closes."""
        while True:
            if self._fault:
                if self._probe is None:
                    self._begin_probe(place)
                    return
                probe = self._probe
                await probe.over.wait()
                if probe.failed:
                    raise Unavailable(self._fault, unreachable=True)
                continue
            await self._slots.acquire()
            if not self._fault:
                place.callback(self._slots.release)
                return
            self._slots.release()  # the upstream fell silent while we waited

    async def _only_slow(self, timed_out: bool) -> bool:
        """Whether what was waited for in vain hangs behind the upstream, and the upstream itself is well."""
        if not timed_out or self._alive is None:
            return False
        while self._asked is not None:  # one asks for all whose calls have ended at about the same time
            asked = self._asked
            await asked.over.wait()
            if not asked.given_up:
                return asked.alive
        asked = self._asked = _Asked()
        try:
            asked.alive = await self._alive()
            asked.given_up = False
        finally:
            self._asked = None
            asked.over.set()
        return asked.alive

    def _begin_probe(self, place: contextlib.AsyncExitStack) -> None:
        probe = self._probe = _Probe()

        def end() -> None:
            probe.over.set()
            self._probe = None

        place.callback(end)

    def _found(self, fault: str) -> None:
        if bool(fault) != bool(self._fault):
            _log.warning(Event.CIRCUIT, upstream=self.name, state="open" if fault else "closed", error=fault or None)
        self._fault = fault
        self._move()
        if self._probe is not None:
            self._probe.failed = bool(fault)
