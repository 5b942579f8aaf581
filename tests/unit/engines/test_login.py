"""One login against servers that misbehave, on loopback; the real ones are in tests/integration."""

import asyncio
import contextlib
import os
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from agent.engines.login import Failure, Target, log_in
from agent.leases.lease import Secret

USER, PASSWORD = Secret("v_app_x7"), Secret("hunter2")
Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def error_response(code: str, text: str, severity: str = "FATAL") -> bytes:
    fields = {"S": severity, "V": "FATAL", "C": code, "M": text}
    body = b"".join(key.encode() + value.encode() + b"\0" for key, value in fields.items()) + b"\0"
    return b"E" + struct.pack("!I", len(body) + 4) + body


def authentication(method: int, rest: bytes = b"") -> bytes:
    return b"R" + struct.pack("!II", len(rest) + 8, method) + rest


@contextlib.asynccontextmanager
async def serving(answer: Answer) -> AsyncIterator[Target]:
    """A server that reads the start-up packet and then does `answer`."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            (length,) = struct.unpack("!I", await reader.readexactly(4))
            await reader.readexactly(length - 4)
            await answer(reader, writer)
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        yield Target(host="127.0.0.1", port=port, dbname="app", sslmode="disable")


def saying(data: bytes) -> Answer:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        await writer.drain()

    return answer


async def attempt(target: Target) -> Failure | None:
    return await asyncio.wait_for(log_in(target, USER, PASSWORD, 5.0), 10)


@pytest.mark.parametrize("host", ["db..example.com", ".db", "d" * 64])
async def test_a_host_that_no_resolver_takes_tells_nothing_of_the_credential(host):
    failure = await attempt(Target(host=host, port=5432, dbname="app", sslmode="disable"))

    assert failure == Failure(reason="the host name does not resolve")


@pytest.mark.parametrize(
    ("code", "text", "refused"),
    [
        ("28P01", "Passwort-Authentifizierung für Benutzer »v_app_x7« fehlgeschlagen", True),
        ("28000", "пользователь «v_app_x7» не может входить", True),
        ("3D000", "数据库 “app” 不存在", True),
        ("42501", "droit refusé pour la base de données « app »", True),
        ("53300", "lo siento, ya tenemos demasiados clientes", False),
        ("57P03", "データベースシステムは起動処理中です", False),
    ],
)
@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="libpq traces its messages on Linux only")
async def test_the_code_counts_in_whatever_language_the_server_speaks(code: str, text: str, refused: bool) -> None:
    async with serving(saying(error_response(code, text, severity="ВАЖНО"))) as target:
        failure = await attempt(target)

    assert failure is not None
    assert (failure.code, failure.refused) == (code, refused)
    assert failure.reason
    assert "v_app_x7" not in failure.reason


@pytest.mark.parametrize("text", ['C "00000"', '\t C "00000" \tErrorResponse'])
@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="libpq traces its messages on Linux only")
async def test_a_server_s_words_do_not_pass_for_its_code(text: str) -> None:
    async with serving(saying(error_response("28P01", text, severity="MUY GRAVE"))) as target:
        failure = await attempt(target)

    assert failure is not None
    assert failure.code == "28P01"


@pytest.mark.parametrize("method", [3, 5], ids=["cleartext", "md5"])
async def test_the_password_is_given_to_nobody_who_asks_for_it_otherwise(method: int) -> None:
    received = bytearray()

    async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(authentication(method, b"salt" if method == 5 else b""))
        received.extend(await reader.read())

    async with serving(ask) as target:
        failure = await attempt(target)

    assert failure is not None
    assert failure.final
    assert not failure.refused
    assert bytes(received).strip(b"X\0\0\0\4") == b""


async def test_a_server_that_lets_everybody_in_proves_nothing() -> None:
    ready = authentication(0) + b"Z" + struct.pack("!I", 5) + b"I"

    async with serving(saying(ready)) as target:
        failure = await attempt(target)

    assert failure is not None
    assert failure.final
    assert not failure.refused


@pytest.mark.parametrize("data", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"E\xff\xff\xff\xff", b"R\0\0\0\x08"])
async def test_nonsense_is_no_refusal(data: bytes) -> None:
    async with serving(saying(data)) as target:
        failure = await attempt(target)

    assert failure is not None
    assert not failure.refused
    assert not failure.final


async def test_a_closed_port_is_no_refusal() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

    failure = await attempt(Target(host="127.0.0.1", port=port, dbname="app", sslmode="disable"))

    assert failure == Failure(reason="it cannot be reached")


async def test_a_name_that_does_not_resolve_is_no_refusal() -> None:
    failure = await attempt(Target(host="nowhere.invalid", port=5432, dbname="app", sslmode="disable"))

    assert failure == Failure(reason="the host name does not resolve")


async def test_a_server_without_tls_gets_no_login_where_tls_is_required() -> None:
    async with serving(saying(b"N")) as plain:
        failure = await attempt(Target(host=plain.host, port=plain.port, dbname="app", sslmode="require"))

    assert failure == Failure(reason="TLS failed: check sslmode and sslrootcert")


@pytest.mark.parametrize("bad", ["", "a\0 host=elsewhere", "\ud800"])
async def test_what_no_login_can_carry_is_refused_before_it_leaves(bad: str) -> None:
    target = Target(host="127.0.0.1", port=1, dbname="app", sslmode="disable")

    for user, password in ((Secret(bad), PASSWORD), (USER, Secret(bad))):
        failure = await log_in(target, user, password, 1.0)
        assert failure is not None
        assert failure.refused


async def test_a_silent_server_is_left_at_once_when_nobody_waits_any_more() -> None:
    left = asyncio.Event()

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        left.set()

    async with serving(listen) as target:
        task = asyncio.ensure_future(attempt(target))
        done, _ = await asyncio.wait([task], timeout=0.2)
        assert not done

        task.cancel()

        await asyncio.wait_for(asyncio.wait([task]), 0.5)
        await asyncio.wait_for(left.wait(), 0.5)
        assert task.cancelled()
