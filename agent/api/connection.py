"""One client's connection: our own protocol in front of everything that is answered.

Requests are answered in order. What the desk knows is answered here; the first request it does not know makes an inner
protocol (aiohttp's), which then gets that request and every later one of this connection. The transport and all limits
stay here.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

from agent.api.access import Peer
from agent.api.framing import Framer
from agent.api.wire import CONTINUE, FAULT, Refused, Request, Response, error

if TYPE_CHECKING:
    from agent.api.listener import Listener

_T = TypeVar("_T")

# Requests sent ahead while an answer is awaited; whoever sends more gets these answered, then the end. Each takes up to
# a kilobyte of ours for 20 bytes of the client's, so a user's 256 connections cost 32 MB at most.
_MOST_AHEAD = 128
_LONGEST_ANSWER = 30.0  # seconds that no answer takes, not even to a reader who waits for a role's first attempt
_LATE = Refused(408, "the request did not arrive in time")


class Pending(Protocol):
    """An answer that is worth a moment's wait."""

    async def response(self) -> Response:
        """The answer, once there is one; never later than a few seconds."""
        ...


class Desk(Protocol):
    """Answers known reads."""

    def answer(self, request: Request, peer: Peer, now: float) -> Response | Pending | None:
        """The answer; None where the request is not for this desk."""
        ...


class Connection(asyncio.Protocol):
    """See the module. `peer` is the process at the other end."""

    __slots__ = (
        "_asked_at",
        "_begun_at",
        "_blocked_at",
        "_ended",
        "_framer",
        "_heard_all",
        "_idle_at",
        "_inner",
        "_inner_at",
        "_inner_busy",
        "_last_word",
        "_leaving_at",
        "_listener",
        "_queue",
        "_transport",
        "_waiting",
        "peer",
    )
    peer: Peer
    _transport: asyncio.Transport

    def __init__(self, listener: "Listener") -> None:
        self._listener = listener
        self._framer = Framer(
            max_header=listener.config.max_header,
            max_body=listener.config.max_body,
            deliver=self._deliver,
            proceed=self._proceed,
        )
        self._queue: deque[Request] = deque()
        self._waiting: asyncio.Task[Any] | None = None
        self._inner: asyncio.Protocol | None = None
        self._inner_busy = False  # a request was handed in and is not yet answered
        self._inner_at = 0.0  # when that was
        self._heard_all = False  # the client sends no more
        self._ended = False  # nothing more is read: what is due is answered, then the connection ends
        self._last_word: Response | None = None  # said before it ends
        self._asked_at = 0.0  # now, for the requests of this piece of data
        self._idle_at = 0.0
        self._begun_at: float | None = None  # a request has arrived in part
        self._blocked_at: float | None = None  # the client does not read
        self._leaving_at: float | None = None

    # -- called by the event loop -----------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client connected: the kernel says who."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass of it
        self._idle_at = self._listener.clock.now()
        try:
            self.peer = self._listener.peer_of(transport.get_extra_info("socket"))
        except OSError:
            self._ended = True
            self._transport.abort()
            return
        refusal = self._listener.admit(self)
        if refusal is not None:
            self._ended = True
            self._transport.write(refusal.last())
            self._transport.close()

    def data_received(self, data: bytes) -> None:
        """Bytes came in."""
        if self._ended:
            return
        self._asked_at = now = self._listener.clock.now()
        try:
            self._framer.feed(data)
        except Refused as refused:
            self._refuse(refused)
            return
        except Exception as bug:
            # Never met by design; said without the request's bytes, and the loop ends the connection.
            self._listener.fault(bug)
            raise
        if not self._framer.partial:
            self._begun_at = None
        elif self._begun_at is None:
            self._begun_at = now
        if self._ended:
            self._settle()

    def eof_received(self) -> bool:
        """The client sends no more; what it has asked is still answered."""
        self._ended = self._heard_all = True
        return self._busy

    def pause_writing(self) -> None:
        """The client does not read."""
        self._blocked_at = self._listener.clock.now()
        if self._inner is not None:
            self._inner.pause_writing()

    def resume_writing(self) -> None:
        """The client reads again."""
        self._blocked_at = None
        if self._inner is not None:
            self._inner.resume_writing()
        # Not at once: asyncio calls us while it still flushes, and a close in there would end the connection twice.
        asyncio.get_running_loop().call_soon(self._advance)

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone, and with it all that was due on it."""
        self._ended = True
        self._queue.clear()
        self._listener.forget(self)
        if self._waiting is not None:
            self._waiting.cancel()
        if self._inner is not None:
            self._inner.connection_lost(exc)
        self._framer.close()

    # -- requests in, answers out -----------------------------------------------------------------------------------

    @property
    def _busy(self) -> bool:
        """Whether an answer is due."""
        return self._waiting is not None or self._inner_busy or bool(self._queue)

    @property
    def _held(self) -> bool:
        """Whether the next request must wait: for its turn, or for the client to read."""
        return self._busy or self._blocked_at is not None

    def _deliver(self, request: Request) -> None:
        self._begun_at = None
        if self._ended or self._transport.is_closing():
            return
        if not request.keep_alive:
            self._ended = True
        if not self._held:
            self._serve(request)
        elif len(self._queue) < _MOST_AHEAD:
            self._queue.append(request)
            self._transport.pause_reading()
        else:
            self._ended = True

    def _proceed(self) -> None:
        if not self._busy:
            self._transport.write(CONTINUE)

    def _serve(self, request: Request) -> None:
        if self._inner is not None:
            self._hand_in(self._inner, request)
            return
        answer = self._listener.desk.answer(request, self.peer, self._asked_at)
        if isinstance(answer, Response):
            self._answer(request, answer)
        elif answer is None:
            self._hand_over(request)
        else:
            self._await(answer.response(), partial(self._answer, request))

    def _answer(self, request: Request, response: Response) -> None:
        if self._listener.stopping:
            self._ended = True
        self._idle_at = self._asked_at
        keep_alive = request.keep_alive and not (self._ended and not self._queue)
        self._transport.write(response.to(request, keep_alive=keep_alive))

    def _hand_over(self, request: Request) -> None:
        factory = self._listener.inner
        if factory is None:
            self._await(self._listener.open_inner(), lambda _: self._hand_over(request))
            return
        self._inner = factory()
        self._inner.connection_made(self._transport)
        self._hand_in(self._inner, request)

    def _hand_in(self, inner: asyncio.Protocol, request: Request) -> None:
        self._inner_busy = True
        self._inner_at = self._asked_at
        inner.data_received(request.canonical())

    def inner_answered(self) -> None:
        """The inner protocol has written its answer to one request."""
        self._inner_busy = False
        self._idle_at = self._listener.clock.now()
        self._advance()

    @property
    def last_answer(self) -> bool:
        """Whether the inner protocol should say that its present answer is the last."""
        return self._listener.stopping

    def fault(self, bug: BaseException) -> None:
        """The inner protocol failed to answer."""
        self._listener.fault(bug)

    def _await(self, work: Coroutine[Any, Any, _T], then: Callable[[_T], None]) -> None:
        self._waiting = self._listener.own(work)
        self._waiting.add_done_callback(partial(self._resume, then))

    def _resume(self, then: Callable[[Any], None], task: asyncio.Task[Any]) -> None:
        self._waiting = None
        bug = None if task.cancelled() else task.exception()
        if task.cancelled() or self._transport.is_closing():
            return
        if bug is not None:
            self._listener.fault(bug)
            self._queue.clear()
            self._ended, self._last_word = True, FAULT
        else:
            self._asked_at = self._listener.clock.now()
            then(task.result())
        self._advance()

    def _advance(self) -> None:
        """Serve what was sent ahead, as far as it goes, by what is true now."""
        self._asked_at = self._listener.clock.now()
        while self._queue and self._waiting is None and not self._inner_busy and self._blocked_at is None:
            if self._transport.is_closing():
                self._queue.clear()
                return
            self._serve(self._queue.popleft())
        if not self._queue:
            self._settle()

    # -- the end ----------------------------------------------------------------------------------------------------

    def _settle(self) -> None:
        """If no answer is due, go on reading, or end."""
        if self._busy or self._leaving_at is not None or self._transport.is_closing():
            return
        if self._last_word is not None:
            self._say_last(self._last_word)
        elif self._ended or (self._listener.stopping and self._begun_at is None):
            self._leave()
        else:
            self._read_on()

    def _read_on(self) -> None:
        if self._ended or self._transport.is_reading():
            return
        if self._begun_at is not None:
            self._begun_at = self._listener.clock.now()  # it could not go on while we did not read
        self._transport.resume_reading()

    def _refuse(self, refused: Refused) -> None:
        if self._ended:  # bytes behind the last request: nobody waits for an answer to them
            self._settle()
            return
        self._listener.complain(self.peer, refused.status, refused.text)
        self._ended, self._last_word = True, error(refused.status, refused.text)
        self._settle()

    def _say_last(self, response: Response) -> None:
        """Answer and end; what still comes in is read and dropped for a moment, so that the answer arrives."""
        self._leaving_at = self._listener.clock.now()
        self._transport.write(response.last())
        if self._heard_all:
            self._transport.close()
            return
        self._transport.write_eof()
        if not self._transport.is_reading():
            self._transport.resume_reading()

    def _leave(self) -> None:
        self._leaving_at = self._listener.clock.now()
        self._ended = True
        self._transport.close()

    def wind_down(self) -> None:
        """The listener stops: end now if nothing is due, else after it was answered."""
        self._settle()

    def abort(self) -> None:
        """End now."""
        self._transport.abort()

    def sweep(self, now: float) -> None:
        """End what has taken too long."""
        config = self._listener.config
        if self._leaving_at is None and self._transport.is_closing():
            self._leaving_at = now
        if self._leaving_at is not None:
            late = now - self._leaving_at >= config.request_timeout
        elif self._blocked_at is not None:
            late = now - self._blocked_at >= config.idle_timeout
        elif self._inner_busy:
            late = now - self._inner_at >= _LONGEST_ANSWER
            if late:
                self._listener.fault(TimeoutError())
        else:
            late = False
            self._sweep_idle(now)
        if late:
            self.abort()

    def _sweep_idle(self, now: float) -> None:
        config = self._listener.config
        if self._busy:
            return
        if self._begun_at is not None:
            if now - self._begun_at >= config.request_timeout:
                self._refuse(_LATE)
        elif now - self._idle_at >= config.idle_timeout:
            self._leave()
