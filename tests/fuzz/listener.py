"""Bytes on the socket: answers are well-formed HTTP, none is too many, and other parsers see the same requests.

A real server on a real socket, in a loop of its own that lives as long as the process; time stands still.
"""

import asyncio
import atexit
import itertools
import json
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import structlog.testing
from aiohttp import http_exceptions
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http_parser import HttpRequestParserPy

from agent.api.framing import Framer
from agent.api.wire import Refused, Request
from agent.config.model import UnixListener
from tests.fakes import FakeClock
from tests.fuzz.inputs import Input
from tests.unit.api.world import LAZY, OTHER, PASSWORD, ROLE, World

_OTHERS_PASSWORD = "of-the-other-role"
_LIMIT = 2000  # bytes of a head and of a body, so that inputs can reach them
_STATUSES = {100, 200, 202, 304, 400, 403, 404, 405, 413, 417, 429, 431}
_STATUS_LINE = re.compile(rb"HTTP/1\.[01] ([1-5][0-9]{2}) [A-Za-z -]+")
_HEADER = re.compile(rb"[A-Za-z-]+: [\x20-\x7e]*")


def run(data: bytes) -> None:
    """Give the bytes to the listener, in pieces, and to a second parser."""
    given = Input(data)
    cuts = [given.number() for _ in range(given.number() % 6)]
    stream = given.rest()
    edges = [0, *sorted(cut * len(stream) // 256 for cut in cuts), len(stream)]
    pieces = [stream[a:b] for a, b in itertools.pairwise(edges) if a < b]
    requests = _framed(pieces)
    assert [_said(one) for one in requests] == [_said(one) for one in _framed([stream])], "cutting changes requests"
    _compare(requests, _second_opinion(stream))
    for one in requests:
        _same_in_canonical_form(one)
    _check_answers(_house().talk(pieces), requests)


# -- what the requests are -------------------------------------------------------------------------------------------


def _said(request: Request) -> tuple[bytes, bytes, bytes]:
    return request.method, request.target, request.body


def _framed(pieces: list[bytes]) -> list[Request]:
    found: list[Request] = []
    framer = Framer(max_header=_LIMIT, max_body=_LIMIT, deliver=found.append, proceed=lambda: None)
    try:
        for piece in pieces:
            framer.feed(piece)
    except Refused:
        pass
    finally:
        framer.close()
    return found


def _second_opinion(stream: bytes) -> list[tuple[bytes, bytes, bytes]]:
    """The requests that aiohttp's parser in Python sees in it, up to the first that it refuses."""
    loop = _house().loop
    parser = HttpRequestParserPy(
        BaseProtocol(loop), loop, 2**16, max_line_size=2**14, max_field_size=2**14, auto_decompress=False
    )
    found: list[tuple[bytes, bytes, Any]] = []
    rest = stream
    while rest:
        # Request by request, since what was seen before an error would be lost with it.
        end = rest.find(b"\n") + 1 or len(rest)
        try:
            messages, upgraded, _ = parser.feed_data(rest[:end])
        except (http_exceptions.HttpProcessingError, ValueError, AssertionError):
            break
        for message, payload in messages:
            found.append((message.method.encode(), message.path.encode("utf-8", "surrogateescape"), payload))
        if upgraded:
            break
        rest = rest[end:]
    return [(method, path, payload.read_nowait()) for method, path, payload in found if _whole(payload)]


def _whole(payload: Any) -> bool:
    return bool(payload.is_eof()) and payload.exception() is None


def _compare(ours: list[Request], theirs: list[tuple[bytes, bytes, bytes]]) -> None:
    """Where both see a whole request, it is the same one: a difference would be a smuggled request."""
    for one, (method, path, body) in zip(ours, theirs, strict=False):
        assert (one.method, one.target, one.body) == (method, path, body), "a second parser sees another request"


def _same_in_canonical_form(request: Request) -> None:
    (again,) = _framed([request.canonical()])
    assert (again.method, again.body, again.keep_alive) == (request.method, request.body, request.keep_alive)
    seen = _second_opinion(request.canonical())
    refused = seen == [] and again.method == b"CONNECT"  # whose target has another form, which aiohttp insists on
    assert refused or seen == [_said(again)], "the inner protocol would read another request"


# -- what the answers are --------------------------------------------------------------------------------------------


class _House:
    """The server and its loop."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._directory = Path(tempfile.mkdtemp(prefix="lh-"))
        self._world = World(FakeClock(), self._directory / "s")
        self._world.config = UnixListener(address=str(self._world.path), max_header=_LIMIT, max_body=_LIMIT)
        self._problems: list[object] = []
        self.loop.set_exception_handler(lambda loop, context: self._problems.append(context))
        for role in (ROLE, LAZY):
            self._world.publish(role)
        self._world.publish(OTHER, username="other", password=_OTHERS_PASSWORD)
        self._serving = self._world.serving()
        self.loop.run_until_complete(self._serving.__aenter__())

    def talk(self, pieces: list[bytes]) -> bytes:
        """All that comes back until the server ends the connection."""
        with structlog.testing.capture_logs() as lines:
            answered = self.loop.run_until_complete(self._talk(pieces))
        assert self._problems == []
        assert [line for line in lines if line["log_level"] == "error"] == []
        return answered

    async def _talk(self, pieces: list[bytes]) -> bytes:
        async with self._world.client() as client:
            for piece in pieces:
                client.send(piece)
                await asyncio.sleep(0)
            client.writer.write_eof()
            return await client.end()

    def close(self) -> None:
        """Remove what it made."""
        self.loop.run_until_complete(self._serving.__aexit__(None, None, None))
        self.loop.close()
        shutil.rmtree(self._directory)


_open: list[_House] = []


def _house() -> _House:
    if not _open:
        _open.append(_House())
        atexit.register(close)
    return _open[0]


def close() -> None:
    """End the server, if there is one."""
    while _open:
        _open.pop().close()


def _check_answers(answered: bytes, requests: list[Request]) -> None:
    assert _OTHERS_PASSWORD.encode() not in answered
    methods = iter([one.method for one in requests])
    count = 0
    for status, body in _answers(answered, methods):
        count += 1
        assert status in _STATUSES, status
        assert (PASSWORD.encode() in body) <= (status == 200)
        if body:
            json.loads(body)
    assert count <= len(requests) + 1, "more answers than requests"


def _answers(answered: bytes, methods: Iterator[bytes]) -> Iterator[tuple[int, bytes]]:
    """Each final answer's status and body; whatever is no answer fails."""
    rest = answered
    while rest:
        head, end, rest = rest.partition(b"\r\n\r\n")
        first, *headers = head.split(b"\r\n")
        match = _STATUS_LINE.fullmatch(first)
        assert match, f"no status line: {first[:80]!r}"
        assert end, "an answer's head without an end"
        assert all(_HEADER.fullmatch(header) for header in headers), headers
        status = int(match[1])
        if status == 100:
            continue
        to_head = next(methods, b"") == b"HEAD"
        lengths = [int(header.split(b": ")[1]) for header in headers if header.startswith(b"Content-Length: ")]
        assert len(lengths) == (status != 304), headers
        length = 0 if to_head or status == 304 else lengths[0]
        assert len(rest) >= length, "an answer that was cut off"
        yield status, rest[:length]
        rest = rest[length:]
