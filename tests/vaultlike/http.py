"""HTTP/1.1 over asyncio's streams.

Not a library's server: the parser of aiohttp's C extension refuses the verb LIST, and faults need the bare connection.
"""

import asyncio
import contextlib
import json
import socket
import ssl
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from email.utils import formatdate
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from tests.vaultlike.core import Asked

_LIMIT = 32 << 20  # bytes of a body, as Vault's own
_HEAD_LIMIT = 1 << 20


class Malformed(Exception):
    """Not HTTP, or more of it than is read."""


@dataclass(kw_only=True)
class Reply:
    """What goes out.

    Attributes:
        cut: send only so many bytes of the body.
    """

    status: int
    content: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    cut: int | None = None


class Exchange:
    """One connection, as a handler sees it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def reset(self) -> None:
        """End it with RST."""
        found = self.writer.get_extra_info("socket")
        if found is not None:
            found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def hang(self) -> None:
        """Until the other side goes."""
        while await self.reader.read(65_536):
            pass


Handler = Callable[[Asked, Exchange], Awaitable[Reply | None]]


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, handler: Handler) -> None:
    """Requests of one connection, one after the other; a handler that returns None has ended it."""
    exchange = Exchange(reader, writer)
    try:
        while await _one(exchange, handler):
            pass
    except (ConnectionError, asyncio.IncompleteReadError, ssl.SSLError, TimeoutError):
        pass  # gone in the middle
    except Malformed:
        writer.write(_encoded(Reply(status=400), "GET", close=True))
    finally:
        with contextlib.suppress(ConnectionError, ssl.SSLError, TimeoutError):
            writer.close()
            await writer.wait_closed()


async def _one(exchange: Exchange, handler: Handler) -> bool:
    """Read, handle, answer; whether the connection goes on."""
    head = await _head(exchange.reader)
    if head is None:
        return False
    method, target, headers = head
    if headers.get("expect", "").lower() == "100-continue":
        exchange.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    content = await _content(exchange.reader, headers)
    split = urlsplit(target)
    peer = exchange.writer.get_extra_info("ssl_object")
    asked = Asked(
        method=method,
        path=unquote(split.path).removeprefix("/v1/"),
        query=dict(parse_qsl(split.query, keep_blank_values=True)),
        headers=headers,
        content=content,
        peer=peer.getpeercert(binary_form=True) if peer is not None else None,
    )
    reply = await handler(asked, exchange)
    if reply is None:
        return False
    close = headers.get("connection", "").lower() == "close" or reply.cut is not None
    exchange.writer.write(_encoded(reply, method, close=close))
    await exchange.writer.drain()
    return not close


async def _head(reader: asyncio.StreamReader) -> tuple[str, str, dict[str, str]] | None:
    try:
        raw = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as exc:
        if exc.partial:
            raise
        return None
    except asyncio.LimitOverrunError as exc:
        raise Malformed from exc
    lines = raw.decode("latin-1").split("\r\n")
    try:
        method, target, _ = lines[0].split(" ")
        named = (line.split(":", 1) for line in lines[1:] if line)
        return method, target, {name.lower(): value.strip() for name, value in named}
    except ValueError as exc:
        raise Malformed from exc


async def _content(reader: asyncio.StreamReader, headers: dict[str, str]) -> bytes:
    if headers.get("transfer-encoding", "").lower() == "chunked":
        parts = []
        while size := int((await reader.readline()).split(b";")[0], 16):
            parts.append(await reader.readexactly(size))
            await reader.readline()
        await reader.readline()
        return b"".join(parts)
    length = int(headers.get("content-length") or 0)
    if length > _LIMIT:
        raise Malformed
    return await reader.readexactly(length) if length else b""


def reply_of(status: int, body: Any, headers: dict[str, str] | None = None) -> Reply:
    """A JSON object, a text, or nothing."""
    kind = "text/plain" if isinstance(body, str) else "application/json"
    content = b"" if body is None else body.encode() if isinstance(body, str) else json.dumps(body).encode() + b"\n"
    return Reply(status=status, content=content, headers={"Content-Type": kind, **(headers or {})})


def _encoded(reply: Reply, method: str, *, close: bool) -> bytes:
    try:
        phrase = HTTPStatus(reply.status).phrase
    except ValueError:
        phrase = "Unknown"
    headers = {
        "Cache-Control": "no-store",
        "Date": formatdate(usegmt=True),
        **reply.headers,
        **({} if reply.status == 204 else {"Content-Length": str(len(reply.content))}),
        **({"Connection": "close"} if close else {}),
    }
    lines = [f"HTTP/1.1 {reply.status} {phrase}", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
    content = b"" if method == "HEAD" or reply.status == 204 else reply.content[: reply.cut]
    return "\r\n".join(lines).encode("latin-1") + content


async def listen(
    handler: Handler, host: str, port: int, context: ssl.SSLContext | None
) -> tuple[asyncio.Server, set[asyncio.Task[None]]]:
    """A listener, and the tasks of its connections."""
    tasks: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is None:
            return
        tasks.add(task)
        try:
            await serve(reader, writer, handler)
        except asyncio.CancelledError:
            writer.transport.abort()  # the server stops
        finally:
            tasks.discard(task)

    server = await asyncio.start_server(connected, host, port, ssl=context, limit=_HEAD_LIMIT)
    return server, tasks
