"""A server on loopback that does to a client whatever a test says, down to the byte."""

import asyncio
import contextlib
import json
import ssl
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from agent.clock import SystemClock
from agent.config.upstreams import Vault
from agent.engines.vault.wire import HttpWire


@dataclass(frozen=True, kw_only=True)
class Seen:
    """One request, as it came; `connection` counts from 1."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes
    connection: int
    reader: asyncio.StreamReader = field(repr=False)
    writer: asyncio.StreamWriter = field(repr=False)

    async def send(self, *pieces: bytes) -> None:
        """Bytes, at once."""
        for piece in pieces:
            self.writer.write(piece)
            await self.writer.drain()

    def reset(self) -> None:
        """RST, not FIN."""
        self.writer.transport.abort()


Play = Callable[[Seen], Awaitable[bytes | None]]


def answer(status: int = 200, body: Any = None, **headers: str) -> bytes:
    """A whole answer; bytes are sent as they are, anything else as JSON. `retry_after=` is Retry-After."""
    raw = body if isinstance(body, bytes) else json.dumps({} if body is None else body).encode()
    if status == 204:
        raw = b""
    lines = [f"HTTP/1.1 {status} Whatever", f"Content-Length: {len(raw)}"]
    lines += [f"{name.replace('_', '-').title()}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + raw


def always(*answers: bytes) -> Play:
    """These answers in turn, the last one for ever."""
    left = list(answers)

    async def play(_: Seen) -> bytes:
        return left.pop(0) if len(left) > 1 else left[0]

    return play


async def hang(_: Seen) -> bytes | None:
    """Never answer."""
    await asyncio.Event().wait()
    return None


class Hostile:
    """Plays `play` for each request: the bytes it returns are sent; None means that it has seen to it itself, and the
    connection is closed.

    Attributes:
        seen: the requests, oldest first.
        connections: how many were made.
        arrived: set at each request.
    """

    def __init__(self, play: Play, *, tls: ssl.SSLContext | None = None) -> None:
        self.play = play
        self.seen: list[Seen] = []
        self.connections = 0
        self.arrived = asyncio.Event()
        self._tls = tls
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self.port = 0

    @property
    def authority(self) -> str:
        """HOST:PORT."""
        return f"127.0.0.1:{self.port}"

    @property
    def address(self) -> str:
        """For the configuration."""
        return f"{'https' if self._tls else 'http'}://{self.authority}"

    async def __aenter__(self) -> Self:
        await self.listen()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def listen(self) -> None:
        """Begin, or begin again at the same port."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Close everything; connections are refused from now on."""
        for _ in range(10):  # a connection accepted this instant must reach `_serve`, which closes it
            await asyncio.sleep(0)
        if self._server is not None:
            self._server.close()
        await self.hang_up()

    async def hang_up(self) -> None:
        """Close every connection, as a server does with idle ones."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        number = self.connections
        try:
            while (seen := await _request(reader, writer, number)) is not None:
                self.seen.append(seen)
                self.arrived.set()
                raw = await self.play(seen)
                if raw is None:
                    break
                await seen.send(raw)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError, ssl.SSLError):
            pass  # the client's doing, or the end of the test
        finally:
            self._tasks.discard(task)
            writer.close()
            with contextlib.suppress(OSError, asyncio.CancelledError, TimeoutError):
                await asyncio.wait_for(writer.wait_closed(), 1.0)


async def _request(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int) -> Seen | None:
    head = await reader.readuntil(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    method, target, _ = first.split(" ")
    headers = {}
    for line in lines:
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()
    length = int(headers.get("content-length", "0"))
    body = await reader.readexactly(length)
    return Seen(
        method=method, target=target, headers=headers, body=body, connection=number, reader=reader, writer=writer
    )


class Opened(HttpWire):
    """A wire that closes itself at the end of a block."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


def wire_to(*servers: Hostile | str, **settings: Any) -> Opened:
    """A wire to these, the first one first."""
    addresses = [server if isinstance(server, str) else server.address for server in servers]
    config = Vault(address=addresses[0], fallback_addresses=tuple(addresses[1:]), **settings)
    return Opened("vault", config, SystemClock())


class Stopwatch:
    """How long a block took, in seconds."""

    def __enter__(self) -> Self:
        self._began = time.monotonic()
        self.took = 0.0
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.took = time.monotonic() - self._began


def proxy_to(server: Hostile) -> Hostile:
    """A forward proxy that takes every CONNECT to `server`."""

    async def play(seen: Seen) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        await seen.send(b"HTTP/1.1 200 Connection established\r\n\r\n")
        up = asyncio.create_task(_pipe(seen.reader, writer))
        try:
            await _pipe(reader, seen.writer)
        finally:
            up.cancel()
            await asyncio.gather(up, return_exceptions=True)
            writer.close()

    return Hostile(play)


async def _pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while piece := await reader.read(65536):
        writer.write(piece)
        await writer.drain()
