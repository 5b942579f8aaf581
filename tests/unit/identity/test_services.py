"""Services that vouch for a pod, misbehaving: each ends in a named error in time, and shows nothing of a proof."""

import asyncio
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.errors import BadResponse, NoIdentity, RateLimited, Unavailable, UpstreamError
from agent.identity.services import Question, ask
from agent.leases.lease import Secret
from tests.fakes import FakeClock
from tests.unit.identity.builders import within_patience
from tests.unit.identity.standin import Asked, StandIn, answer

CANARY = "canary-of-a-token"

SOONER = 4.0
"""Seconds of real time: less than the socket's own five, after which it would come to an end by itself."""


def question(url: str, *, metadata: bool = False) -> Question:
    """One that carries secrets wherever it can."""
    return Question(
        service="STS",
        remedy="look at sts_endpoint",
        url=f"{url}/place?audience={CANARY}",
        method="POST",
        headers={"Authorization": Secret(CANARY), "Content-Type": "text/plain"},
        body=Secret(CANARY),
        metadata=metadata,
    )


async def test_the_question_goes_out_as_it_is_and_asks_for_no_encoding(clock: FakeClock) -> None:
    with StandIn(lambda asked: answer({"a": "b"}, headers={"Metadata-Flavor": "Google"})) as service:
        reply = await ask(question(service.url), clock)

    (asked,) = service.asked
    assert (asked.method, asked.target, asked.body) == ("POST", f"/place?audience={CANARY}", CANARY)
    assert asked.headers["authorization"] == CANARY
    assert asked.headers["accept-encoding"] == "identity"
    assert (reply.ok, reply.text_of("a"), reply.flavor) == (True, "b", "Google")


async def test_neither_proxies_nor_netrc_of_the_environment_are_looked_at(
    clock: FakeClock, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with StandIn(lambda asked: answer()) as trap, StandIn(lambda asked: answer()) as service:
        for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, trap.url)
        (tmp_path / ".netrc").write_text("machine 127.0.0.1 login a password b\n")
        monkeypatch.setenv("HOME", str(tmp_path))
        plain = Question(service="STS", remedy="", url=service.url)

        await ask(plain, clock)

    assert trap.asked == []
    assert "authorization" not in service.asked[0].headers


async def test_a_redirect_is_not_followed(clock: FakeClock) -> None:
    with (
        StandIn(lambda asked: answer()) as elsewhere,
        StandIn(lambda asked: answer(status=307, headers={"Location": f"{elsewhere.url}/x"})) as service,
        pytest.raises(BadResponse, match="STS answered 307, a redirect, and none is followed"),
    ):
        await ask(question(service.url), clock)

    assert elsewhere.asked == []


HUGE = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n" + b"a" * 200_000


@pytest.mark.parametrize(
    ("said", "kind", "text"),
    [
        (answer(status=500), Unavailable, "STS answered 500; look at sts_endpoint"),
        (answer(CANARY, status=503), Unavailable, "STS answered 503; look at sts_endpoint"),
        (answer(status=429), RateLimited, "STS answered 429: too many calls"),
        (answer("a" * 65_537), BadResponse, "STS answered more than 64 KiB; look at sts_endpoint"),
        (HUGE, BadResponse, "STS answered more than 64 KiB; look at sts_endpoint"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\ncut", BadResponse, "STS answered no HTTP; look at sts_endpoint"),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
            BadResponse,
            "STS answered no HTTP; look at sts_endpoint",
        ),
        (b"SSH-2.0-OpenSSH_9.6\r\n", BadResponse, "STS answered no HTTP; look at sts_endpoint"),
        (b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 200, BadResponse, "STS answered no HTTP; look at sts_endpoint"),
        (b"", Unavailable, "STS cannot be reached (RemoteDisconnected); look at sts_endpoint"),
    ],
)
async def test_what_is_no_answer_is_named(clock: FakeClock, said: bytes, kind: type[UpstreamError], text: str) -> None:
    with StandIn(lambda asked: said) as service, pytest.raises(kind) as caught:
        await ask(question(service.url), clock)

    assert str(caught.value) == text
    assert not caught.value.unreachable  # that would narrow the circuit of another upstream


async def test_a_service_that_says_nothing_is_left_after_five_seconds_with_its_thread(clock: FakeClock) -> None:
    with StandIn(lambda asked: None) as service:
        asking = asyncio.ensure_future(ask(question(service.url), clock))
        assert await within_patience(lambda: bool(service.asked))
        await clock.advance(4.9)
        assert not asking.done()
        await clock.advance(0.2)

        with pytest.raises(Unavailable, match="STS did not answer within 5 s; look at sts_endpoint"):
            async with asyncio.timeout(SOONER):
                await asking
        assert await within_patience(service.left.is_set, SOONER)


async def test_who_is_cancelled_leaves_at_once(clock: FakeClock) -> None:
    with StandIn(lambda asked: None) as service:
        asking = asyncio.ensure_future(ask(question(service.url), clock))
        assert await within_patience(lambda: bool(service.asked))

        asking.cancel()

        with pytest.raises(asyncio.CancelledError):
            await asking
        assert await within_patience(service.left.is_set, SOONER)
        assert await within_patience(lambda: "file work" not in [thread.name for thread in threading.enumerate()])


async def test_nobody_there_is_unavailable(clock: FakeClock) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

    with pytest.raises(Unavailable, match=r"STS cannot be reached \(Connection refused\)"):
        await ask(question(f"http://127.0.0.1:{port}"), clock)


@pytest.mark.parametrize(
    ("url", "metadata"),
    [
        ("http://192.0.2.1", False),
        ("http://sts.example", False),
        ("http://localhost.example", False),
        ("ftp://127.0.0.1", False),
        ("ftp://127.0.0.1", True),
        ("https://", False),
        ("127.0.0.1", True),
    ],
)
async def test_a_proof_goes_over_https_but_to_loopback_and_metadata_servers(
    clock: FakeClock, url: str, metadata: bool
) -> None:
    with pytest.raises(NoIdentity, match="STS: a proof goes over https only") as caught:
        await ask(question(url, metadata=metadata), clock)

    assert CANARY not in str(caught.value)


@pytest.fixture
def untrusted(tmp_path: Path) -> ssl.SSLContext:
    """A server's side of TLS, with a certificate that no authority has signed."""
    subject = ("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1")
    argv = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", *subject, "-days", "1"]
    subprocess.run([*argv, "-keyout", "key", "-out", "cert"], cwd=tmp_path, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert", tmp_path / "key")
    return context


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl to make a certificate with")
@pytest.mark.parametrize("ambient", [False, True], ids=["by nobody", "by the environment alone"])
async def test_a_certificate_that_is_trusted_by_nobody_or_by_the_environment_gets_no_proof(
    clock: FakeClock, untrusted: ssl.SSLContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ambient: bool
) -> None:
    """Nor are the keys of TLS written to where the environment says."""
    got = bytearray()

    def serve(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        try:
            with untrusted.wrap_socket(connection, server_side=True) as secured:
                got.extend(secured.recv(1000))
        except OSError:
            connection.close()

    if ambient:
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "cert"))
        monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path))
        monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / "keys"))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        with pytest.raises(Unavailable, match="STS shows a certificate that is not to be trusted"):
            await ask(question(f"https://127.0.0.1:{listener.getsockname()[1]}"), clock)
        await asyncio.to_thread(thread.join)

    assert got == b""
    assert not (tmp_path / "keys").exists()


@pytest.mark.parametrize("text", ["", "<html>", "[1]", "[" * 60_000, '{"a": 1}', '{"a": ""}', '{"a": "b\\nc"}', "{}"])
async def test_an_answer_without_the_field_is_named(clock: FakeClock, text: str) -> None:
    with StandIn(lambda asked: answer(text)) as service:
        reply = await ask(question(service.url), clock)

    with pytest.raises(BadResponse, match="STS answered"):
        reply.text_of("a")


@pytest.mark.parametrize("respond", [lambda asked: answer(status=500), lambda asked: b"nonsense\r\n\r\n"])
async def test_no_error_and_no_repr_shows_what_was_sent(clock: FakeClock, respond: Callable[[Asked], bytes]) -> None:
    with StandIn(respond) as service, pytest.raises(UpstreamError) as caught:
        await ask(question(service.url), clock)

    assert CANARY not in str(caught.value)
    assert CANARY not in repr(question(service.url))
