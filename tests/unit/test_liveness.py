"""What a whole agent says of its own life, where its parts cannot be made to misbehave from outside (R003-110)."""

import asyncio
import contextlib
import shutil
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest
from attrs import evolve

from agent import catalogue
from agent.app import App
from agent.leases.cache import LeaseCache
from agent.measures import Measures
from agent.notify import Notifier
from agent.parts import Parts
from tests.fakes import FakeClock
from tests.unit.test_certificates import certificate
from tests.unit.test_measures import CONFIG, PROBES, ROLE, SERVER, UPSTREAM


class Deaf(FakeClock):
    """Its sleepers wake, and whoever waits for something with a deadline never does: a lost wake-up."""

    def timeout(self, delay: float | None) -> AbstractAsyncContextManager[object]:
        """A deadline that does not come."""
        return asyncio.timeout(None)


@contextlib.asynccontextmanager
async def running(clock: FakeClock, notifier: Notifier | None = None) -> AsyncIterator[App]:
    """An agent whose server is not there, after its first attempt."""
    app, stop = App(CONFIG, clock=clock, notifier=notifier), asyncio.Event()
    task = asyncio.create_task(app.run(stop))
    await until(lambda: app.cache.status(ROLE).failures > 0)
    yield app
    stop.set()
    while not task.done():
        await clock.advance(1)
        await asyncio.sleep(0.001)
    await task


async def until(holds: Callable[[], bool]) -> None:
    """Let threads and sockets do their work."""
    async with asyncio.timeout(20):
        while not holds():  # noqa: ASYNC110 - there is no event for what is waited for
            await asyncio.sleep(0.005)


@pytest.mark.parametrize(("clock", "live"), [(FakeClock(), True), (Deaf(), False)], ids=["sound", "stuck"])
async def test_an_agent_with_a_stuck_renewer_is_not_live_and_tells_systemd_nothing(
    clock: FakeClock, live: bool, tmp_path: Path
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ear:
        ear.setblocking(False)
        ear.bind(str(tmp_path / "n"))
        async with running(clock, Notifier(str(tmp_path / "n"), watchdog=15.0)) as app:
            assert app.live
            for _ in range(60):
                await clock.advance(1)
            heard = _heard(ear)
            for _ in range(30):
                await clock.advance(1)

            assert app.live is live
            assert ("WATCHDOG=1" in _heard(ear)) is live
            assert "WATCHDOG=1" in heard, "while it was sound"


def _heard(ear: socket.socket) -> list[str]:
    heard = []
    with contextlib.suppress(BlockingIOError):
        while True:
            heard += ear.recv(4096).decode().splitlines()
    return heard


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl to make certificates with")
async def test_the_ends_of_certificates_are_looked_up_while_the_agent_runs(tmp_path: Path, clock: FakeClock) -> None:
    """R003-098."""
    await asyncio.to_thread(certificate, tmp_path, "client.pem", 30)
    server = evolve(SERVER, sslcert=str(tmp_path / "client.pem"), sslkey="/k")
    config = evolve(CONFIG, postgresql={UPSTREAM: server})
    measures = Measures(config, cache=LeaseCache(CONFIG.role), parts=Parts(), clock=clock)

    def ends() -> dict[tuple[str, ...], object]:
        return next(dict(f.rows) for f in measures.families(PROBES) if f.metric is catalogue.CERTIFICATE)

    async with asyncio.TaskGroup() as group:
        tasks = measures.put_to_work(group)
        await until(lambda: bool(ends()))
        found = ends()
        for task in tasks:
            task.cancel()

    assert list(found) == [(UPSTREAM, "sslcert")]
