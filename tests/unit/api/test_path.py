"""The socket's path while the agent runs: who removes or replaces it is noticed, since no reader gets through then."""

import asyncio
import threading
from collections.abc import MutableMapping, Sequence
from typing import Any

import pytest

from agent.log import Event
from tests.fakes import FakeClock
from tests.unit.api.world import World


async def looked(clock: FakeClock) -> None:
    """A look at the path is work of a thread, which a moved clock does not wait for."""
    await clock.advance(6.0)
    await asyncio.sleep(0.1)


@pytest.mark.parametrize("planted", [False, True])
async def test_a_path_that_leads_elsewhere_is_said_once(
    world: World, clock: FakeClock, lines: Sequence[MutableMapping[str, Any]], planted: bool
) -> None:
    world.publish()
    async with world.serving(), world.client() as before:
        await looked(clock)
        quiet = [line for line in lines if line["event"] == Event.SOCKET_LOST]
        world.path.unlink()
        if planted:
            world.path.write_text("planted")
        for _ in range(3):
            await looked(clock)
        answer = await before.ask()

    assert quiet == []
    (line,) = [line for line in lines if line["event"] == Event.SOCKET_LOST]
    assert str(world.path) in line["reason"]
    assert "restart the agent" in line["reason"]
    assert answer.status == 200
    assert world.path.exists() == planted


async def test_a_look_that_finds_no_thread_ends_nothing(
    world: World, clock: FakeClock, lines: Sequence[MutableMapping[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same task group ends slow connections: it must live."""

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    world.publish()
    async with world.serving():
        with monkeypatch.context() as scarce:
            scarce.setattr(threading.Thread, "start", refuse)
            await looked(clock)
        world.path.unlink()
        await looked(clock)

    assert [line["event"] for line in lines if line["event"] in (Event.HANDLER_FAILED, Event.SOCKET_LOST)] == [
        Event.SOCKET_LOST
    ]
