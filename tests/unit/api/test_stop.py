"""The end: no new connections, what is due is answered, the socket is gone."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.fakes import settle
from tests.fix_loop import complaints
from tests.unit.api.world import READ, ROLE, World, get, request


def left(directory: Path) -> set[str]:
    return {entry.name for entry in directory.iterdir()}


async def test_the_stop_removes_the_socket_and_its_lock(world: World) -> None:
    server = world.server()
    await server.start()
    before = left(world.path.parent)

    await server.stop(1.0)

    assert before == {"api.sock", "api.sock.lock"}
    assert left(world.path.parent) == set()


async def test_idle_connections_end_at_once(world: World) -> None:
    world.publish()
    server = world.server()
    await server.start()

    async with world.client() as fast, world.client() as slow, world.client() as silent:
        await fast.ask(READ)
        await slow.ask(get("/livez"))
        await asyncio.sleep(0.02)
        await server.stop(3600.0)  # with the clock standing still

        assert [await client.end() for client in (fast, slow, silent)] == [b""] * 3


async def test_a_request_that_lies_in_the_socket_when_the_stop_begins_is_answered(world: World) -> None:
    world.publish()
    server = world.server()
    await server.start()

    async with world.client() as client:
        await client.ask()
        client.send(READ)
        await server.stop(5.0)  # before the loop has looked at the socket

        assert (await client.answer()).status == 200


@pytest.mark.parametrize("handed_over", [False, True])
async def test_a_waiting_reader_is_answered_before_the_end(world: World, handed_over: bool) -> None:
    server = world.server()
    await server.start()

    async with world.client() as client:
        if handed_over:
            await client.ask(get("/livez"))
        client.send(READ)
        await asyncio.sleep(0.02)
        stopping = asyncio.ensure_future(server.stop(10.0))
        await settle()
        assert not stopping.done()
        world.publish()
        answer = await client.answer()
        rest = await client.end()
        await stopping

    assert (answer.status, answer.headers["connection"], rest) == (200, "close", b"")
    assert left(world.path.parent) == set()


async def test_a_request_that_has_begun_to_arrive_is_answered_before_the_end(world: World) -> None:
    world.publish()
    server = world.server()
    await server.start()

    async with world.client() as client:
        client.send(READ[:-2])
        await asyncio.sleep(0.02)
        stopping = asyncio.ensure_future(server.stop(10.0))
        await asyncio.sleep(0.02)
        client.send(READ[-2:])
        answer = await client.answer()
        await client.end()
        await stopping

    assert (answer.status, answer.headers["connection"]) == (200, "close")


async def test_what_is_not_done_by_the_deadline_is_cut_off(world: World) -> None:
    server = world.server()
    await server.start()

    async with world.client() as client:
        client.send(READ)
        await asyncio.sleep(0.02)
        stopping = asyncio.ensure_future(server.stop(2.0))
        await asyncio.sleep(0.02)
        await world.clock.advance(1.9)
        assert not stopping.done()
        await world.clock.advance(0.2)
        await stopping

        assert await client.end() == b""
    assert left(world.path.parent) == set()


async def test_nobody_connects_after_the_stop_has_begun(world: World) -> None:
    server = world.server()
    await server.start()

    async with world.client() as client:
        client.send(READ)
        await asyncio.sleep(0.02)
        stopping = asyncio.ensure_future(server.stop(10.0))
        await asyncio.sleep(0.02)
        with pytest.raises(OSError, match=r"refused|No such file"):
            await asyncio.open_unix_connection(str(world.path))
        world.publish()
        await client.answer()
        await stopping


async def test_stop_accepting_leaves_open_connections_alone(world: World) -> None:
    world.publish()
    server = world.server()
    await server.start()

    async with world.client() as client:
        await client.ask(READ)
        await server.stop_accepting()
        with pytest.raises(OSError, match=r"refused"):
            await asyncio.open_unix_connection(str(world.path))
        assert (await client.ask(READ)).status == 200
        assert (await client.ask(request("POST", f"/v1/{ROLE}/rotate"))).status == 202
        await server.stop(1.0)


@pytest.mark.parametrize("turns", [*range(8), 100])
async def test_a_stop_in_the_middle_of_traffic_breaks_no_answer_and_leaves_nobody_hanging(
    world: World, lines: list[dict[str, Any]], caplog: pytest.LogCaptureFixture, turns: int
) -> None:
    """At any turn of the loop: while clients connect, are accepted, send, and are answered."""
    world.publish()
    server = world.server()
    await server.start()
    broken: list[bytes] = []

    async def talk(data: bytes) -> None:
        try:
            reader, writer = await asyncio.open_unix_connection(str(world.path))
        except OSError:
            return
        try:
            while True:
                writer.write(data)
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
                await reader.readexactly(length)
        except asyncio.IncompleteReadError as cut:
            broken.append(cut.partial)
        except OSError:
            pass
        finally:
            writer.close()

    talkers = [asyncio.ensure_future(talk(data)) for data in [READ, get("/livez")] * 10]
    for _ in range(turns):
        await asyncio.sleep(0)
    await server.stop(10.0)
    async with asyncio.timeout(20):
        await asyncio.gather(*talkers)

    assert [part for part in broken if part] == []
    assert [line for line in lines if line["log_level"] == "error"] == []
    assert complaints(caplog) == []


async def test_stopping_twice_is_fine(world: World) -> None:
    server = world.server()
    await server.start()

    await server.stop(1.0)
    await server.stop(1.0)
