"""One call between the loop, which waits for it, and the thread, which does it: who hears the answer, exactly once."""

import asyncio
import contextlib
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

from agent import log
from agent.engines.vault.addresses import Switch
from agent.engines.vault.answers import Answer, Request
from agent.engines.vault.sockets import Bounds
from agent.errors import Unavailable, UpstreamError
from agent.log import Event

_log = log.get(__name__)


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A request, ready to be sent; see `Wire.call` for what its parts mean.

    Attributes:
        path: as people read it, and
        quoted: as it is sent.
        body: JSON, None for none.
        wrap_ttl: whole seconds, 0 for none.
    """

    method: str
    path: str
    quoted: str
    token: str | None = field(repr=False)
    body: bytes | None = field(repr=False)
    query: Mapping[str, str] = field(repr=False)
    wrap_ttl: int
    certificate: tuple[str, str] | None
    namespace: str | None
    deadline: float


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a call ended: with an answer or an error, and perhaps at another address than the last one."""

    answer: Answer | None = None
    error: UpstreamError | None = None
    switch: Switch | None = None


Blame = Callable[[], None]
Begin = Callable[[Blame], bool]


class Asks(Protocol):
    """Sends requests; one per thread."""

    def ask(self, asked: Asked, bounds: Bounds, begin: Begin) -> Outcome:
        """How it went. `begin` is asked right before the first byte is sent, and told what to call should the caller
        tire of waiting for that server; False forbids it."""
        ...

    def close(self) -> None:
        """Close its connections."""
        ...


Prepare = Callable[[Request], Asked]


class Errand:
    """A call under way.

    Args:
        late: what to do about a good answer that nobody takes; see `Wire.call`.
        prepare: makes its request ready, and
        deadline: seconds for it.
    """

    def __init__(
        self,
        upstream: str,
        asked: Asked,
        bounds: Bounds,
        *,
        late: Callable[[Answer], Request | None] | None,
        prepare: Prepare,
        again: Callable[[], Bounds],
    ) -> None:
        self._upstream = upstream
        self._asked = asked
        self._bounds = bounds
        self._late = late
        self._prepare = prepare
        self._again = again
        self._lock = threading.Lock()
        self._sent = False
        self._left = False
        self._blame: Blame = lambda: None
        self._outcome: Outcome | None = None
        self._loop = asyncio.get_running_loop()
        self._done = asyncio.Event()

    # the loop's side

    async def outcome(self) -> Outcome:
        """How it ended; whoever stops waiting calls `leave`."""
        await self._done.wait()
        outcome = self._outcome
        assert outcome is not None  # noqa: S101 - set before the event, and never taken back
        return outcome

    def leave(self, *, tired: bool) -> tuple[Outcome | None, bool]:
        """Wait no more.

        Args:
            tired: the server had time enough: the next call should begin with another.

        Returns:
            The outcome, if it is there already, which nobody else will look at then; and whether a server may have seen
            the request. If not, it never will.
        """
        with self._lock:
            self._left = True
            outcome, sent = self._outcome, self._sent
        if self._late is None or not sent:
            self._bounds.cut()
        if outcome is None and tired:
            self._blame()
        return outcome, sent

    # the threads' side: it is a piece of Work

    @property
    def deserted(self) -> bool:
        """Whether nobody waits for it any more."""
        return self._left

    def cut(self) -> None:
        """End it within a moment."""
        self._bounds.cut()

    def refuse(self) -> None:
        """The pool is closed."""
        self._finish(Outcome(error=Unavailable(f"{self._upstream}: the agent is stopping: nothing was asked")))
        self._tell()

    def do(self, tool: Callable[[], Asks]) -> Callable[[], None]:
        """Ask, and see to it that the answer reaches somebody."""
        if not self._left:
            outcome = self._attempt(tool)
            if not self._finish(outcome):
                self.too_late(tool, outcome)
        return self._tell

    def _attempt(self, tool: Callable[[], Asks]) -> Outcome:
        try:
            return tool().ask(self._asked, self._bounds, self._begin)
        except BaseException as bug:  # noqa: BLE001 - whatever it is, the caller must hear of it, in words of ours
            words = f"{self._upstream}: {self._asked.method} {self._asked.path}: {log.reason_of(bug)}"
            return Outcome(error=Unavailable(words, outcome_unknown=self._sent))

    def _begin(self, blame: Blame) -> bool:
        with self._lock:
            if self._left:
                return False
            self._sent, self._blame = True, blame
            return True

    def _finish(self, outcome: Outcome) -> bool:
        """Leave it for the caller; False if there is none any more."""
        with self._lock:
            if not self._left:
                self._outcome = outcome
            return not self._left

    def _tell(self) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has closed: nobody waits any more
            self._loop.call_soon_threadsafe(self._done.set)

    def too_late(self, tool: Callable[[], Asks], outcome: Outcome) -> None:
        """A good answer that nobody takes: what was issued must be ended. Called in a thread."""
        answer = outcome.answer
        if self._late is None or answer is None or not answer.ok:
            return
        try:
            request = self._late(answer)
            if request is None:
                return
            asked = replace(self._prepare(request), namespace=self._asked.namespace)
            done = tool().ask(asked, self._again(), lambda _: True)
            problem = "" if done.answer is not None and done.answer.ok else str(done.error or "refused")
        except BaseException as bug:  # noqa: BLE001 - nobody else could tell of it
            problem = log.reason_of(bug)
        if problem:
            _log.warning(Event.REVOKE_FAILED, upstream=self._upstream, reason="issued too late", error=problem)


class TooLate:
    """The work of seeing to an answer that had come, and whose caller was cancelled before it took it."""

    def __init__(self, errand: Errand, outcome: Outcome) -> None:
        self._errand = errand
        self._outcome = outcome

    deserted = False

    def do(self, tool: Callable[[], Asks]) -> Callable[[], None]:
        """See to it."""
        self._errand.too_late(tool, self._outcome)
        return lambda: None

    def cut(self) -> None:
        """It has its own, short end."""

    def refuse(self) -> None:
        """The agent stops: the end of its login ends this, too."""
