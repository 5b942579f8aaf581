"""Any bytes at all: an answer of 4xx or the end, never silence, a traceback, or an echo in the log."""

import asyncio
import itertools
import re
import tempfile
from pathlib import Path

import pytest
import structlog.testing
import uvloop
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from agent.api.framing import Framer
from agent.api.wire import Refused, Request
from tests.fakes import FakeClock
from tests.unit.api.world import READ, ROLE, World, get, request

_LINES = st.sampled_from(
    [
        b"GET /v1/database/creds/app HTTP/1.1\r\n",
        b"POST /v1/database/creds/app/rotate HTTP/1.1\r\n",
        b"GET /livez HTTP/1.0\r\n",
        b"CONNECT a:1 HTTP/1.1\r\n",
        b"Host: x\r\n",
        b"Content-Length: 3\r\n",
        b"Content-Length: 0\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: gzip\r\n",
        b"Connection: close\r\n",
        b"Connection: upgrade\r\nUpgrade: h2c\r\n",
        b"Expect: 100-continue\r\n",
        b"If-None-Match: *\r\n",
        b"X-Vault-Token: SENTINEL\r\n",
        b"3\r\nabc\r\n",
        b"0\r\n\r\n",
        b"abc",
        b"\r\n",
        b"\n",
        b"\x00",
        READ,
        get("/nothing"),
        request("POST", f"/v1/{ROLE}/rotate", b"{}"),
    ]
)
_GARBAGE = st.one_of(
    st.binary(max_size=200),
    st.lists(st.one_of(_LINES, st.binary(max_size=20)), max_size=12).map(b"".join),
)


async def _talk(pieces: list[bytes], path: Path) -> tuple[bytes, list[object]]:
    problems: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: problems.append(context))
    world = World(FakeClock(), path)
    world.publish()
    async with world.serving(), world.client() as client:
        for piece in pieces:
            client.send(piece)
            await asyncio.sleep(0)
        client.writer.write_eof()
        answered = await client.end()
    return answered, problems


def _statuses(answered: bytes) -> list[int]:
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", answered)]


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(_GARBAGE, min_size=1, max_size=4))
@example([b"SENTINEL"])
@example([b"GET / HTTP/1.1\r\nX-Vault-Token: SENTINEL\x00\r\n\r\n"])
@example([b"POST /v1/database/creds/app/rotate HTTP/1.1\r\nContent-Length: 8\r\n\r\nSENTINEL"])
def test_any_bytes_get_an_answer_or_the_end(
    caplog: pytest.LogCaptureFixture, loop: type[asyncio.AbstractEventLoop], pieces: list[bytes]
) -> None:
    with (
        tempfile.TemporaryDirectory(prefix="lh-") as directory,
        structlog.testing.capture_logs() as lines,
        asyncio.Runner(loop_factory=loop) as runner,
    ):
        answered, problems = runner.run(_talk(pieces, Path(directory) / "s"))

    assert set(_statuses(answered)) <= {100, 200, 202, 304, 400, 404, 405, 413, 417, 429, 431}
    assert problems == []
    assert [line for line in lines if line["log_level"] == "error"] == []
    assert "SENTINEL" not in str(lines) + caplog.text
    assert b"SENTINEL" not in answered


def _framed(pieces: list[bytes]) -> tuple[list[tuple[bytes, bytes, bytes]], int]:
    found: list[tuple[bytes, bytes, bytes]] = []

    def deliver(request: Request) -> None:
        found.append((request.method, request.target, request.body))

    framer = Framer(max_header=500, max_body=500, deliver=deliver, proceed=lambda: None)
    try:
        for piece in pieces:
            framer.feed(piece)
    except Refused as refused:
        return found, refused.status
    finally:
        framer.close()
    return found, 0


@settings(max_examples=300)
@given(_GARBAGE, st.lists(st.integers(0, 200), max_size=6))
def test_how_the_bytes_are_cut_changes_nothing(data: bytes, cuts: list[int]) -> None:
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    pieces = [data[a:b] for a, b in itertools.pairwise(edges)]

    assert _framed(pieces) == _framed([data])


@settings(max_examples=300)
@given(_GARBAGE)
def test_the_canonical_form_of_a_request_says_the_same(data: bytes) -> None:
    """What is handed to a second parser is one request again, with the same method, path and body."""
    found: list[Request] = []
    framer = Framer(max_header=500, max_body=500, deliver=found.append, proceed=lambda: None)
    try:
        framer.feed(data)
    except Refused:
        pass
    finally:
        framer.close()

    for one in found:
        again, status = _framed([one.canonical()])
        assert status == 0
        assert [(method, body) for method, _, body in again] == [(one.method, one.body)]
