"""What one client may take of the agent: connections, bytes, time."""

import asyncio
import os
import resource
import socket
from collections.abc import Iterator, MutableMapping, Sequence
from typing import Any

import pytest
from attrs import evolve

from agent.api.access import Peer
from agent.api.listener import Listener
from agent.api.wire import Request
from agent.config.model import Duration, Mode
from agent.leases.cache import Phase
from agent.log import Event
from tests.fakes import FakeClock, settle
from tests.fix_loop import complaints
from tests.unit.api.world import READ, ROLE, Client, World, ask_as, get, request

ROTATE = f"/v1/{ROLE}/rotate"


async def opened(world: World) -> Client:
    return Client(*await asyncio.open_unix_connection(str(world.path)))


@pytest.mark.parametrize("limit", ["max_connections", "max_connections_per_uid"])
async def test_connections_beyond_the_limit_are_turned_away_until_one_has_gone(world: World, limit: str) -> None:
    world.config = evolve(world.config, **{limit: 3})  # type: ignore[arg-type]
    world.publish()

    async with world.serving():
        clients = [await opened(world) for _ in range(3)]
        for client in clients:
            assert (await client.ask()).status == 200
        turned_away = await opened(world)
        answer = await turned_away.answer()
        rest = await turned_away.end()
        await clients[0].close()
        await asyncio.sleep(0.02)
        again = await world.ask()
        for client in (*clients, turned_away):
            await client.close()

    assert (answer.status, answer.headers["retry-after"], rest) == (503, "1", b"")
    assert again.status == 200


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
async def test_one_users_connections_leave_room_for_anothers(world: World) -> None:
    world.config = evolve(world.config, max_connections_per_uid=1, socket_mode=Mode(0o666))
    world.publish()

    async with world.serving(), world.client() as mine:
        assert (await mine.ask()).status == 200
        assert (await world.ask()).status == 503
        other = await ask_as(world.path, 1234, 1)

    assert other is not None
    assert other.status == 200


async def test_who_is_refused_after_having_said_all_is_not_waited_for(world: World) -> None:
    """Found by fuzzing: such a connection was counted for `request_timeout`, though its client had long gone."""
    world.config = evolve(world.config, max_connections=1)
    world.publish()

    async with world.serving():
        client = await opened(world)
        client.send(get("/livez") + b"garbage\r\n\r\n")
        client.writer.write_eof()
        said = await client.end()
        await client.close()
        await settle()
        again = await world.ask()

    assert said.startswith(b"HTTP/1.1 200 OK")
    assert b"HTTP/1.1 400 " in said
    assert again.status == 200


class Silent(asyncio.Protocol):
    """Takes requests and never answers."""


async def test_an_answer_that_never_comes_is_not_waited_for_for_ever(
    world: World, clock: FakeClock, lines: Sequence[MutableMapping[str, Any]]
) -> None:
    """Found by fuzzing: aiohttp fell silent at some requests, and their connections were counted for good."""

    class NobodysDesk:
        def answer(self, request: Request, peer: Peer, now: float) -> None:
            return None

    async def make_inner() -> type[Silent]:
        return Silent

    listener = Listener(world.config, desk=NobodysDesk(), clock=clock, make_inner=make_inner)
    server = await asyncio.get_running_loop().create_unix_server(listener, path=str(world.path))
    timekeeper = asyncio.create_task(listener.keep_time())
    async with world.client() as client:
        client.send(READ)
        client.writer.write_eof()
        await asyncio.sleep(0.05)
        await clock.advance(29.0)
        before = client.reader.at_eof()
        await clock.advance(3.0)
        assert await client.end() == b""

    timekeeper.cancel()
    await asyncio.gather(timekeeper, return_exceptions=True)
    server.close()
    await listener.wind_down(0.0)
    assert not before
    assert [line["error"] for line in lines if line["event"] == Event.HANDLER_FAILED] == ["TimeoutError"]


@pytest.fixture
def few_descriptors() -> Iterator[None]:
    """A process that may open 200 files."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.usefixtures("few_descriptors")
async def test_descriptors_for_the_agents_own_work_are_not_given_to_clients(
    world: World, lines: Sequence[MutableMapping[str, Any]]
) -> None:
    """1,024 connections are wished for and 200 descriptors there: 64 are kept, and one uid gets its quarter of 136."""
    world.publish()

    async with world.serving():
        clients = [await opened(world) for _ in range(34)]
        answers = [await client.ask() for client in clients]
        turned_away = await opened(world)
        refusal = await turned_away.answer()
        for client in (*clients, turned_away):
            await client.close()

    assert {answer.status for answer in answers} == {200}
    assert refusal.status == 503
    (said,) = [line["warning"] for line in lines if line["event"] == Event.HARDENING]
    assert "max_connections is 136" in said
    assert "ulimit -n" in said


async def test_a_burst_of_connections_waits_its_turn(world: World) -> None:
    """A client that does not wait is told EAGAIN as soon as the queue is full; asyncio's own queue holds 100."""
    world.publish()
    async with world.serving():
        burst = []
        for _ in range(250):
            sock = socket.socket(socket.AF_UNIX)
            sock.setblocking(False)
            burst.append(sock)
            sock.connect(str(world.path))
        answer = await world.ask()
        for sock in burst:
            sock.close()

    assert answer.status == 200


@pytest.mark.parametrize("handed_over", [False, True])
@pytest.mark.parametrize(
    "asked",
    [
        get(f"/v1/{ROLE}", X="y" * 16384),
        get(f"/v1/{ROLE}?" + "q" * 16385),
        get(f"/v1/{ROLE}", **{f"X{n}": "y" for n in range(3000)}),
        b"GET /" + b"x" * 300_000,
        b"GET / HTTP/1.1\r\nX: " + b"y" * 300_000,
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n" + b"X: y\r\n" * 4000,
    ],
    ids=["header", "target", "headers", "endless target", "endless header", "trailers"],
)
async def test_a_head_that_is_too_large_is_refused(world: World, asked: bytes, handed_over: bool) -> None:
    world.publish()

    async with world.talking() as client:
        await client.ask(get("/livez") if handed_over else READ)
        answer = await client.ask(asked)
        rest = await client.end()

    assert (answer.status, rest) == (431, b"")
    assert "16384" in answer.errors


async def test_what_was_sent_before_does_not_count_towards_the_size_of_a_head(world: World) -> None:
    world.publish()

    async with world.talking() as client:
        for _ in range(300):
            await client.ask()
        client.send(READ[:20])
        await asyncio.sleep(0.02)

        assert (await client.ask(READ[20:])).status == 200


async def test_a_head_of_the_largest_size_is_read(world: World) -> None:
    world.publish()
    plain = get(f"/v1/{ROLE}", X="")

    async with world.talking() as client:
        for target in (f"/v1/{ROLE}", f"/v1/{ROLE}?x"):
            answer = await client.ask(get(target, X="y" * (16384 - len(plain))))
            assert answer.status == 200


@pytest.mark.parametrize(
    "asked",
    [
        request("POST", ROTATE, b" " * 65537),
        request("POST", ROTATE, Content_Length="65537"),
        request("POST", ROTATE, Content_Length="65537", Expect="100-continue"),
        request("POST", ROTATE, Transfer_Encoding="chunked")
        + b"8000\r\n"
        + b" " * 0x8000
        + b"\r\n8001\r\n"
        + b" " * 0x8001,
        request("GET", f"/v1/{ROLE}", b" " * 65537),
    ],
    ids=["whole", "announced", "expected", "chunked", "read"],
)
async def test_a_body_that_is_too_large_is_refused(world: World, asked: bytes) -> None:
    async with world.talking() as client:
        answer = await client.ask(asked)
        rest = await client.end()

    assert (answer.status, rest) == (413, b"")
    assert world.rotated == []


async def test_a_body_of_the_largest_size_is_read(world: World) -> None:
    async with world.talking() as client:
        assert (await client.ask(request("POST", ROTATE, b" " * 65536))).status == 202


@pytest.mark.parametrize("handed_over", [False, True])
@pytest.mark.parametrize(
    ("part", "more"),
    [(b"G", b"E"), (READ[:-2], b"X"), (b"POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nab", b"c")],
    ids=["first byte", "head", "body"],
)
async def test_a_request_must_arrive_whole_in_its_time(
    world: World, part: bytes, more: bytes, handed_over: bool
) -> None:
    world.publish()

    async with world.talking() as client:
        await client.ask(get("/livez") if handed_over else READ)
        await world.clock.advance(30.0)
        client.send(part)
        await asyncio.sleep(0.02)
        await world.clock.advance(4.0)
        client.send(more)  # a byte now and then does not help
        await asyncio.sleep(0.02)
        await world.clock.advance(2.0)
        answer = await client.answer()
        rest = await client.end()

    assert (answer.status, answer.headers["connection"], rest) == (408, "close", b"")


@pytest.mark.parametrize("first", [None, READ, get("/livez")], ids=["silent", "read", "handed over"])
async def test_an_idle_connection_is_closed_without_a_word(world: World, first: bytes | None) -> None:
    world.publish(ttl=600.0)

    async with world.talking() as client:
        await asyncio.sleep(0.02)
        await world.clock.advance(50.0)
        if first:
            await client.ask(first)
            await world.clock.advance(58.0)
            assert (await client.ask(first)).status == 200
            await world.clock.advance(58.0)
        pending = asyncio.ensure_future(client.end())
        await settle()
        assert not pending.done()
        await world.clock.advance(12.0)

        assert await pending == b""


async def test_empty_lines_do_not_keep_a_connection_open(world: World) -> None:
    async with world.talking() as client:
        for _ in range(59):
            client.send(b"\r\n")
            await asyncio.sleep(0.001)
            await world.clock.advance(1.0)
        await world.clock.advance(3.0)

        assert await client.end() == b""


async def test_a_waiting_reader_is_neither_idle_nor_late(world: World) -> None:
    world.config = evolve(world.config, idle_timeout=Duration(2.0), request_timeout=Duration(1.0))

    async with world.talking() as client:
        client.send(READ + READ + READ[:-2])  # the second makes us stop reading, so the third cannot come
        await asyncio.sleep(0.02)
        await world.clock.advance(4.0)
        world.publish()
        assert [(await client.answer()).status for _ in range(2)] == [200, 200]
        await world.clock.advance(0.5)
        client.send(READ[-2:])
        assert (await client.answer()).status == 200


async def test_a_client_that_never_reads_is_dropped(world: World) -> None:
    world.publish(ttl=600.0)

    async with world.serving():
        client = await opened(world)
        transport = client.writer.transport
        transport.pause_reading()  # type: ignore[attr-defined]
        client.send(READ * 600)  # about half of the answers fit in the socket, the others wait
        await asyncio.sleep(0.1)
        await world.clock.advance(62.0)
        await asyncio.sleep(0.02)
        transport.resume_reading()  # type: ignore[attr-defined]
        answered = (await client.end()).count(b"HTTP/1.1 200 OK")
        await client.close()

    assert 0 < answered < 600


async def test_what_waited_for_a_slow_client_is_decided_when_it_is_answered(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """Requests sent ahead of a client that does not read are answered late: not with what was true when they came."""
    world.publish()

    async with world.serving():
        client = await opened(world)
        transport = client.writer.transport
        transport.pause_reading()  # type: ignore[attr-defined]
        client.send(READ * 1000)
        await asyncio.sleep(0.1)
        world.report(Phase.FAILING, error="the server is away")
        await world.clock.advance(57.5)
        transport.resume_reading()  # type: ignore[attr-defined]
        answered = await client.end()
        await client.close()

    assert answered.count(b"HTTP/1.1 200 OK") > 100
    assert answered.count(b"HTTP/1.1 503 ") > 100
    assert complaints(caplog) == []


async def test_who_sends_too_far_ahead_of_a_waiting_answer_gets_what_was_taken_and_the_end(world: World) -> None:
    async with world.talking() as client:
        client.send(READ * 1000)
        await asyncio.sleep(0.05)
        world.publish()
        answers = (await client.end()).split(b"HTTP/1.1 200 OK\r\n")[1:]

    assert 1 < len(answers) <= 600
    assert b"Connection: close" in answers[-1]
    assert not any(b"Connection: close" in answer for answer in answers[:-1])


async def test_who_is_refused_and_does_not_go_is_dropped(world: World) -> None:
    async with world.serving(), world.client() as client, world.client() as other:
        assert (await client.ask(b"garbage\r\n\r\n")).status == 400
        client.send(READ)  # read and dropped
        await asyncio.sleep(0.02)
        await world.clock.advance(6.5)
        await asyncio.sleep(0.02)
        rest = await client.end()
        world.publish()
        assert (await other.ask()).status == 200
        with pytest.raises(OSError, match=r"roken pipe|reset"):
            os.write(client.writer.get_extra_info("socket").fileno(), b"x")

    assert rest == b""
