"""HTTP as clients really send it, and as attackers do."""

import asyncio
from typing import Any

import pytest

from tests.fix_loop import complaints
from tests.unit.api.world import READ, ROLE, World, get, request

ROTATE = f"/v1/{ROLE}/rotate"


async def test_a_connection_serves_one_request_after_another(world: World) -> None:
    world.publish()

    async with world.talking() as client:
        answers = [await client.ask() for _ in range(5)]

    assert [answer.status for answer in answers] == [200] * 5
    assert all("connection" not in answer.headers for answer in answers)


async def test_requests_sent_ahead_are_answered_in_order(world: World) -> None:
    """Known reads, aiohttp's and a refusal, all in one write."""
    world.publish()
    snapshot = world.cache.read(ROLE, world.clock.now())
    assert snapshot is not None
    tag = f'"{snapshot.generation}"'
    sent = [
        READ,
        get(f"/v1/{ROLE}", If_None_Match=tag),
        request("POST", ROTATE, b'{"revoke_after": "5s"}'),
        READ,
        get("/nothing"),
        request("POST", ROTATE),
        get("/livez"),
    ]

    async with world.talking() as client:
        client.send(b"".join(sent))
        statuses = [(await client.answer()).status for _ in sent]

    assert statuses == [200, 304, 202, 200, 404, 429, 200]
    assert world.rotated == [(ROLE, 5.0)]


async def test_many_requests_sent_ahead_are_all_answered_though_the_client_reads_late(world: World) -> None:
    world.publish()

    async with world.talking() as client:
        client.send(READ * 400)
        await asyncio.sleep(0.05)
        for _ in range(400):
            assert (await client.answer()).status == 200


async def test_requests_sent_ahead_of_a_waiting_one_keep_their_turn(world: World) -> None:
    async with world.talking() as client:
        client.send(READ + get("/livez") + READ)
        await asyncio.sleep(0.05)
        world.publish()
        first, second, third = [await client.answer() for _ in range(3)]

    assert "lease_duration" in first.json
    assert second.json == {"live": True}
    assert "lease_duration" in third.json


@pytest.mark.parametrize("asked", [READ, get("/livez"), request("POST", ROTATE, b'{"revoke_after": "5s"}')])
async def test_a_request_may_come_byte_by_byte(world: World, asked: bytes) -> None:
    world.publish()

    async with world.talking() as client:
        for _ in range(2):
            for n in range(len(asked)):
                client.send(asked[n : n + 1])
                await asyncio.sleep(0)
            assert (await client.answer()).status in (200, 202, 429)


@pytest.mark.parametrize("path", [f"/v1/{ROLE}", "/livez"])
@pytest.mark.parametrize(
    ("line", "headers", "kept"),
    [
        ("HTTP/1.1", "", None),
        ("HTTP/1.1", "Connection: close\r\n", "close"),
        ("HTTP/1.1", "Connection: Close, X-Y\r\n", "close"),
        ("HTTP/1.0", "", "close"),
        ("HTTP/1.0", "Connection: keep-alive\r\n", "keep-alive"),
    ],
)
async def test_the_connection_ends_when_the_client_says_so(
    world: World, path: str, line: str, headers: str, kept: str | None
) -> None:
    world.publish()
    asked = f"GET {path} {line}\r\n{headers}\r\n".encode()

    async with world.talking() as client:
        answer = await client.ask(asked)
        assert answer.status == 200
        if kept == "close":
            # Over HTTP/1.0 an end needs no announcement.
            assert answer.headers.get("connection", "close" if line == "HTTP/1.0" else "") == "close"
            assert await client.end() == b""
        else:
            assert answer.headers.get("connection") == kept
            assert (await client.ask(asked)).status == 200


@pytest.mark.parametrize("path", [f"/v1/{ROLE}", "/livez"])
async def test_a_client_that_has_said_all_is_still_answered(world: World, path: str) -> None:
    """As `nc -N` does: it shuts its side down after the request."""
    world.publish()

    async with world.talking() as client:
        client.send(get(path) * 3)
        client.writer.write_eof()
        answers = [await client.answer() for _ in range(3)]
        rest = await client.end()

    assert [answer.status for answer in answers] == [200] * 3
    assert rest == b""


async def test_a_waiting_client_that_has_said_all_is_still_answered(world: World) -> None:
    async with world.talking() as client:
        client.send(READ)
        client.writer.write_eof()
        await asyncio.sleep(0.05)
        world.publish()
        answer = await client.answer()
        rest = await client.end()

    assert (answer.status, answer.headers["connection"], rest) == (200, "close", b"")


async def test_what_comes_after_the_last_request_is_not_answered(world: World) -> None:
    world.publish()

    async with world.talking() as client:
        client.send(f"GET /v1/{ROLE} HTTP/1.1\r\nConnection: close\r\n\r\n".encode() + READ)
        assert (await client.answer()).status == 200
        assert await client.end() == b""


async def test_a_client_is_told_to_go_on_with_its_body(world: World) -> None:
    asked = request("POST", ROTATE, b'{"revoke_after": "5s"}', Expect="100-continue")
    head, _, body = asked.partition(b"\r\n\r\n")

    async with world.talking() as client:
        client.send(head + b"\r\n\r\n")
        assert (await client.answer()).status == 100
        client.send(body)
        assert (await client.answer()).status == 202

    assert world.rotated == [(ROLE, 5.0)]


async def test_a_body_may_come_in_chunks(world: World) -> None:
    chunks = b'5;ext="x"\r\n{"rev\r\n12\r\noke_after": "7s" }\r\n0\r\nIf-None-Match: *\r\n\r\n'
    asked = f"POST {ROTATE} HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n".encode() + chunks

    async with world.talking() as client:
        assert (await client.ask(asked)).status == 202
        assert (await client.ask(get("/livez"))).status == 200

    assert world.rotated == [(ROLE, 7.0)]


async def test_what_trails_a_body_is_no_header(world: World) -> None:
    world.publish()
    trailed = b"0\r\nIf-None-Match: *\r\n\r\n"

    async with world.talking() as client:
        answer = await client.ask(f"GET /v1/{ROLE} HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n".encode() + trailed)

    assert answer.status == 200


async def test_a_read_may_carry_a_body_that_nobody_needs(world: World) -> None:
    world.publish()

    async with world.talking() as client:
        for _ in range(2):
            assert (await client.ask(request("GET", f"/v1/{ROLE}", b"ignored"))).status == 200


async def test_an_offer_to_switch_protocols_is_not_taken_up(world: World) -> None:
    """curl sends one with --http2."""
    world.publish()
    asked = get(f"/v1/{ROLE}", Connection="Upgrade, HTTP2-Settings", Upgrade="h2c", HTTP2_Settings="AAMAAABk")

    async with world.talking() as client:
        client.send(asked * 3 + get("/livez"))
        statuses = [(await client.answer()).status for _ in range(4)]

    assert statuses == [200] * 4


MALFORMED = {
    "no HTTP": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03canary\r\n\r\n",
    "two lengths": b"POST /x HTTP/1.1\r\nContent-Length: 6\r\nContent-Length: 6\r\n\r\ncanary",
    "two different lengths": b"POST /x HTTP/1.1\r\nContent-Length: 6\r\nContent-Length: 5\r\n\r\ncanary",
    "length and chunks": b"POST /x HTTP/1.1\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks and length": b"POST /x HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 6\r\n\r\n0\r\n\r\n",
    "another coding": b"POST /x HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "coding twice": b"POST /x HTTP/1.1\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
    "coding misspelt": b"POST /x HTTP/1.1\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "identity": b"POST /x HTTP/1.1\r\nTransfer-Encoding: identity\r\n\r\n",
    "coding over 1.0": b"POST /x HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "negative length": b"POST /x HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
    "hexadecimal length": b"POST /x HTTP/1.1\r\nContent-Length: 0x6\r\n\r\ncanary",
    "huge length": b"POST /x HTTP/1.1\r\nContent-Length: 99999999999999999999999\r\n\r\n",
    "bad chunk": b"POST /x HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\ncanary\r\n",
    "upgrade with body": b"POST /x HTTP/1.1\r\nConnection: upgrade\r\nUpgrade: x\r\nContent-Length: 6\r\n\r\ncanary",
    "upgrade with chunks": b"POST / HTTP/1.1\r\nConnection: upgrade\r\nUpgrade: x\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n",
    "space before colon": b"GET /x HTTP/1.1\r\nX-Vault-Token : canary\r\n\r\n",
    "folded header": b"GET /x HTTP/1.1\r\nX-Vault-Token: a\r\n canary\r\n\r\n",
    "NUL": b"GET /x HTTP/1.1\r\nX-Vault-Token: can\x00ary\r\n\r\n",
    "bare line feeds": b"GET /canary HTTP/1.1\nHost: x\n\n",
    "bare carriage return": b"GET /x HTTP/1.1\r\nX: a\rcanary\r\n\r\n",
    "HTTP/0.9": b"GET /canary\r\n\r\n",
    "HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/2 line": b"GET /canary HTTP/2.0\r\n\r\n",
    "HTTP/1.2": b"GET /canary HTTP/1.2\r\n\r\n",
    "unknown method": b"CANARY /x HTTP/1.1\r\n\r\n",
    "lower-case method": b"get /canary HTTP/1.1\r\n\r\n",
    "no path": b"OPTIONS * HTTP/1.1\r\n\r\n",
    "a host": b"CONNECT canary:443 HTTP/1.1\r\n\r\n",
    "a proxy's path": b"CONNECT /canary HTTP/1.1\r\n\r\n",
    "a proxy's address": b"CONNECT http://canary/ HTTP/1.1\r\n\r\n",
    "another scheme": b"GET ftp://canary/x HTTP/1.1\r\n\r\n",
    "relative path": b"GET canary HTTP/1.1\r\n\r\n",
    "not UTF-8": b"GET /canary%ff HTTP/1.1\r\n\r\n",
    "a raw byte": b"GET /canary\xff HTTP/1.1\r\n\r\n",
}


@pytest.mark.parametrize("handed_over", [False, True])
@pytest.mark.parametrize("garbage", MALFORMED.values(), ids=MALFORMED.keys())
async def test_what_is_malformed_gets_400_and_the_end_and_none_of_it_a_log_line(
    world: World,
    lines: list[dict[str, Any]],
    caplog: pytest.LogCaptureFixture,
    garbage: bytes,
    handed_over: bool,
) -> None:
    world.publish()

    async with world.talking() as client:
        await client.ask(get("/livez") if handed_over else READ)
        answer = await client.ask(garbage)
        if garbage is not MALFORMED["not UTF-8"]:
            assert await client.end() == b""
            assert answer.headers["connection"] == "close"

    assert answer.status == 400
    assert answer.errors
    assert b"canary" not in answer.body.lower()
    assert "canary" not in (str(lines) + caplog.text).lower()
    assert len([line for line in lines if line["event"] == "bad-request"]) <= 1


async def test_an_expectation_that_cannot_be_met_is_refused(world: World) -> None:
    async with world.talking() as client:
        assert (await client.ask(request("POST", ROTATE, b"{}", Expect="a-pony"))).status == 417
        assert await client.end() == b""

    assert world.rotated == []


async def test_a_refusal_comes_after_the_answers_that_are_due(world: World) -> None:
    world.publish()

    async with world.talking() as client:
        client.send(READ + get("/livez") + READ + b"garbage\r\n\r\n")
        statuses = [(await client.answer()).status for _ in range(4)]
        rest = await client.end()

    assert (statuses, rest) == ([200, 200, 200, 400], b"")


async def test_a_refusal_waits_for_a_reader_that_waits(world: World) -> None:
    async with world.talking() as client:
        client.send(READ + b"garbage\r\n\r\n")
        await asyncio.sleep(0.05)
        world.publish()
        statuses = [(await client.answer()).status for _ in range(2)]

    assert statuses == [200, 400]


async def test_garbage_is_logged_at_a_bounded_rate(world: World, lines: list[dict[str, Any]]) -> None:
    async with world.serving():
        for _ in range(20):
            assert (await world.ask(b"garbage\r\n\r\n")).status == 400

    assert len([line for line in lines if line["event"] == "bad-request"]) == 1


async def test_no_smuggled_request_is_answered(world: World) -> None:
    """A body that looks like a request is a body."""
    world.publish()
    body = request("POST", ROTATE)

    async with world.talking() as client:
        client.send(request("POST", "/x", body) + get("/livez"))
        first, second = await client.answer(), await client.answer()

    assert (first.status, second.json) == (404, {"live": True})
    assert world.rotated == []


async def test_a_client_that_leaves_before_its_answer_harms_nobody(
    world: World, lines: list[dict[str, Any]], caplog: pytest.LogCaptureFixture
) -> None:
    world.publish()

    async with world.serving():
        for asked in (READ * 300, get("/livez") * 300, READ[:-3], request("POST", ROTATE, b"{}")[:-1]):
            reader, writer = await asyncio.open_unix_connection(str(world.path))
            writer.write(asked)
            writer.transport.abort()
            await asyncio.sleep(0.02)
            del reader
        assert (await world.ask(READ)).status == 200

    assert [line["event"] for line in lines if line["log_level"] == "error"] == []
    assert complaints(caplog) == []


async def test_two_connections_do_not_hold_each_other_up(world: World) -> None:
    async with world.serving(), world.client() as waiting, world.client() as other:
        waiting.send(READ)
        await asyncio.sleep(0.02)
        assert (await other.ask(get("/livez"))).status == 200
        world.publish()
        assert (await waiting.answer()).status == 200


async def test_a_hundred_connections_that_need_aiohttp_at_once_are_all_answered(world: World) -> None:
    async def one() -> int:
        async with world.client() as client:
            return (await client.ask(get("/livez"))).status

    async with world.serving():
        assert await asyncio.gather(*(one() for _ in range(100))) == [200] * 100
