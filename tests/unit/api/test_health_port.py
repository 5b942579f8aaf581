"""A TCP port that knows nobody: probes, metrics where configured, and nothing else whatever is sent."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

import pytest

from agent import catalogue
from agent.api.health import Probes
from agent.api.healthport import HealthServer
from agent.api.metrics import Metrics
from agent.config.model import HealthListener
from agent.errors import StartError
from tests.fakes import FakeClock
from tests.unit.api.world import Answer, Client, get, request


class Port:
    """A health port and what it says."""

    def __init__(self, clock: FakeClock, **keys: object) -> None:
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            self.number = int(sock.getsockname()[1])
        self.clock = clock
        self.ready = True
        self.server = HealthServer(
            HealthListener(address=f"127.0.0.1:{self.number}", **keys),  # type: ignore[arg-type]
            probes=Probes(
                started=lambda: True,
                ready=lambda: self.ready,
                live=lambda: True,
                degraded=lambda: False,
                files=list,
                upstreams=list,
            ),
            metrics=Metrics(lambda: self.server.families(), clock),
            clock=clock,
        )

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator["Port"]:
        """Started."""
        await self.server.start()
        try:
            yield self
        finally:
            await self.server.stop(0.0)

    async def client(self) -> Client:
        """A connection."""
        return Client(*await asyncio.open_connection("127.0.0.1", self.number))

    async def ask(self, data: bytes) -> Answer:
        """One request on a connection of its own."""
        client = await self.client()
        try:
            return await client.ask(data)
        finally:
            await client.close()


async def test_probes_say_yes_and_no(clock: FakeClock) -> None:
    async with Port(clock).serving() as port:
        yes = [await port.ask(get(path)) for path in ("/startupz", "/readyz", "/livez")]
        port.ready = False
        no = await port.ask(get("/readyz"))
        head = await port.ask(request("HEAD", "/readyz"))

    assert [(answer.status, answer.json) for answer in yes] == [
        (200, {"started": True}),
        (200, {"ready": True}),
        (200, {"live": True}),
    ]
    assert (no.status, no.json) == (503, {"ready": False})
    assert (head.status, head.body) == (503, b"")


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (get("/v1/database/creds/app"), 404),
        (get("/v1/sys/health"), 404),
        (get("/metrics"), 404),
        (get("/"), 404),
        (get("http://localhost/v1/sys/health"), 404),
        (get("/readyz/../v1/sys/health"), 404),
        (request("POST", "/readyz"), 405),
        (request("DELETE", "/startupz"), 405),
        (request("POST", "/v1/database/creds/app/rotate"), 404),
        (get("/%ff"), 404),
        (b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (request("POST", "/readyz", b"x"), 413),
        (b"GET /readyz HTTP/1.1\r\nA: %s\r\n\r\n" % (b"x" * 9000), 431),
        (b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", 400),
    ],
)
async def test_everything_else_is_refused(clock: FakeClock, sent: bytes, status: int) -> None:
    async with Port(clock).serving() as port:
        answer = await port.ask(sent)

    assert answer.status == status
    assert list(answer.json) == ["errors"]


async def test_metrics_are_given_where_they_are_configured_and_in_the_format_asked_for(clock: FakeClock) -> None:
    async with Port(clock, metrics=True).serving() as port:
        plain = await port.ask(get("/metrics"))
        strict = await port.ask(get("/metrics", Accept="application/openmetrics-text; version=1.0.0"))
        head = await port.ask(request("HEAD", "/metrics"))
        changed = await port.ask(request("POST", "/metrics"))

    assert b'leasehold_connections{listener="health"} 1.0\n' in plain.body
    assert strict.body.endswith(b"# EOF\n")
    assert (head.status, head.body, changed.status) == (200, b"", 405)


async def test_several_requests_of_one_connection_are_answered_in_order(clock: FakeClock) -> None:
    async with Port(clock, metrics=True).serving() as port:
        client = await port.client()
        client.send(get("/livez") + get("/metrics") + get("/v1/x") + get("/readyz"))
        answers = [await client.answer() for _ in range(4)]
        await client.close()

    assert [answer.status for answer in answers] == [200, 200, 404, 200]


async def test_whoever_only_holds_connections_open_shuts_out_no_probe(clock: FakeClock) -> None:
    async with Port(clock, max_connections=3).serving() as port:
        silent = await port.client()
        await asyncio.sleep(0.02)
        await clock.advance(0.5)
        half = await port.client()
        half.send(b"GET /readyz HTTP/1.1\r\nHost")
        await asyncio.sleep(0.02)
        await clock.advance(0.5)
        used = await port.client()
        assert (await used.ask(get("/livez"))).status == 200
        await clock.advance(1.0)
        answers = [await port.ask(get("/livez"))]
        ends = [await silent.end()]
        await clock.advance(0.5)
        late, latest = await port.client(), await port.client()
        ends.append(await half.end())
        answers += [await client.ask(get("/readyz")) for client in (late, latest, used)]
        refused = next(family for family in port.server.families() if family.metric is catalogue.REFUSED)
        held = next(family for family in port.server.families() if family.metric is catalogue.CONNECTIONS)
        for client in (silent, half, used, late, latest):
            await client.close()

    assert [answer.status for answer in answers] == [200] * 4, "and who has just been answered stays"
    assert ends == [b"", b""]
    assert dict(refused.rows)["health", "503"] == 2
    assert dict(held.rows)["health",] == 3


async def test_a_flood_of_connections_never_exceeds_the_limit(clock: FakeClock) -> None:
    async with Port(clock, max_connections=4).serving() as port:
        flood = [await port.client() for _ in range(40)]
        answer = await port.ask(get("/readyz"))
        held = next(family for family in port.server.families() if family.metric is catalogue.CONNECTIONS)
        for client in flood:
            await client.close()

    assert answer.status == 200
    assert dict(held.rows)["health",] in range(5)


async def test_an_idle_connection_ends_after_five_seconds(clock: FakeClock) -> None:
    async with Port(clock).serving() as port:
        client = await port.client()
        assert (await client.ask(get("/livez"))).status == 200
        await clock.advance(6.5)
        rest = await client.end()
        await client.close()

    assert rest == b""


async def test_who_sends_slowly_is_sent_away(clock: FakeClock) -> None:
    async with Port(clock).serving() as port:
        client = await port.client()
        client.send(b"GET /readyz HTTP/1.1\r\nHost")
        await asyncio.sleep(0.02)
        await clock.advance(7.0)
        answer, rest = await client.answer(), await client.end()
        await client.close()

    assert (answer.status, rest) == (408, b"")


async def test_a_stop_closes_every_connection_and_the_port(clock: FakeClock) -> None:
    port = Port(clock)
    async with port.serving():
        client = await port.client()
        assert (await client.ask(get("/livez"))).status == 200
    rest = await client.end()
    await client.close()

    assert rest == b""
    with pytest.raises(ConnectionRefusedError):
        await port.client()


async def test_a_port_that_is_taken_is_named_with_the_remedy(clock: FakeClock) -> None:
    port = Port(clock)
    async with port.serving():
        with pytest.raises(StartError) as error:
            await port.server.start()

    assert str(error.value) == (
        f"health port 127.0.0.1:{port.number}: Address already in use; choose another [listener.health] address"
    )
