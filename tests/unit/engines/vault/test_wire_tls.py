"""TLS to a cluster: who is trusted, what is presented, and files that change while we run."""

import asyncio
import contextlib
import os
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization

from agent.engines.vault.answers import Answer
from agent.errors import Unavailable
from agent.leases.lease import Secret
from tests.issuers import Authority
from tests.unit.engines.vault.hostile import Hostile, Seen, always, answer, proxy_to, wire_to

FINE = always(answer(200, {}))
TOKEN = Secret("hvs.canary")


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "ca")


def context_of(authority: Authority, *, clients: Authority | None = None, **how: Any) -> ssl.SSLContext:
    """A server's."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*authority.server(**how))
    if clients is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(clients.file)
    return context


async def refusal(server: Hostile, **settings: Any) -> str:
    """What a call ends with that cannot be made; the server sees no request."""
    async with wire_to(server, **settings) as wire:
        with pytest.raises(Unavailable) as caught:
            await wire.call("GET", "database/creds/app", token=TOKEN)
    assert server.seen == []
    assert (caught.value.unreachable, caught.value.outcome_unknown) == (True, False)
    assert "canary" not in str(caught.value)
    return str(caught.value)


async def health(server: Hostile, **settings: Any) -> Answer:
    async with wire_to(server, **settings) as wire:
        return await wire.call("GET", "sys/health", token=TOKEN)


async def test_a_certificate_of_the_configured_ca_is_accepted(authority):
    async with Hostile(FINE, tls=context_of(authority)) as server:
        assert (await health(server, ca_cert=str(authority.file))).ok


async def test_a_ca_of_somebody_else_is_not(authority, tmp_path):
    other = Authority(tmp_path / "other", "another CA")
    async with Hostile(FINE, tls=context_of(authority)) as server:
        assert "not signed by a CA that we trust: set ca_cert" in await refusal(server, ca_cert=str(other.file))


async def test_the_environment_adds_no_ca(authority, monkeypatch, tmp_path):
    """REQUESTS_CA_BUNDLE and SSL_CERT_FILE would, with requests or a default context; and none writes keys down."""
    for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "VAULT_CACERT", "BAO_CACERT"):
        monkeypatch.setenv(name, str(authority.file))
    async with Hostile(FINE, tls=context_of(authority)) as server:
        monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / "keys"))
        assert "set ca_cert" in await refusal(server)
        assert (await health(server, ca_cert=str(authority.file))).ok

    assert not (tmp_path / "keys").exists()


async def test_a_name_that_the_certificate_does_not_carry_is_refused(authority):
    async with Hostile(FINE, tls=context_of(authority, hosts=["vault.internal"])) as server:
        said = await refusal(server, ca_cert=str(authority.file))

        assert "does not carry the name 127.0.0.1: set tls_server_name" in said


async def test_tls_server_name_is_sent_and_checked_in_place_of_the_addresss(authority):
    asked: list[str | None] = []
    context = context_of(authority, hosts=["vault.internal"])
    context.sni_callback = lambda _, name, __: asked.append(name)
    async with Hostile(FINE, tls=context) as server:
        assert (await health(server, ca_cert=str(authority.file), tls_server_name="vault.internal")).ok
        assert "set tls_server_name" in await refusal_after(server, authority, "elsewhere.internal")

    assert asked == ["vault.internal", "elsewhere.internal"]


async def refusal_after(server: Hostile, authority: Authority, name: str) -> str:
    server.seen.clear()
    return await refusal(server, ca_cert=str(authority.file), tls_server_name=name)


async def test_an_expired_certificate_is_named_as_such(authority):
    async with Hostile(FINE, tls=context_of(authority, ttl=-60.0)) as server:
        assert "has expired, or this machine's clock is wrong" in await refusal(server, ca_cert=str(authority.file))


async def test_skipping_the_check_accepts_any_and_says_nothing_on_standard_error(authority, capfd):
    async with Hostile(FINE, tls=context_of(authority, hosts=["x"], ttl=-60.0)) as server:
        assert (await health(server, tls_skip_verify=True)).ok

    assert capfd.readouterr() == ("", "")


async def test_a_server_without_tls_is_told_apart():
    async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(64)
        writer.write(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(plain, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with wire_to(f"https://127.0.0.1:{port}", tls_skip_verify=True) as wire:
        with pytest.raises(Unavailable, match="does not speak TLS"):
            await wire.call("GET", "sys/health")
    server.close()


@contextlib.contextmanager
def blocking(context: ssl.SSLContext) -> Iterator[str]:
    """A server that only shakes hands: unlike asyncio's it says why it refuses, as servers do. Gives its address."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                plain, _ = listener.accept()
            except OSError:
                return
            with context.wrap_socket(plain, server_side=True, do_handshake_on_connect=False) as made:
                made.settimeout(5)
                try:
                    made.do_handshake()
                except ssl.SSLError:
                    with contextlib.suppress(OSError):
                        while socket.socket.recv(made, 65536):  # what is left unread would turn the end into a reset
                            pass

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"https://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(10)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_a_missing_or_strange_client_certificate_is_named_and_no_outcome_is_in_doubt(
    authority, tmp_path, version
):
    """With TLS 1.3 the server's refusal is read only after the request was written."""
    context = context_of(authority, clients=authority)
    context.minimum_version = context.maximum_version = version
    cert, key = (str(path) for path in Authority(tmp_path / "other", "another CA").client())
    with blocking(context) as address:
        for settings in ({}, {"client_cert": cert, "client_key": key}):
            async with wire_to(address, ca_cert=str(authority.file), **settings) as wire:
                with pytest.raises(Unavailable, match="client certificate") as caught:
                    await wire.call("GET", "database/creds/app", token=TOKEN)

            assert "client_cert" in str(caught.value)
            assert (caught.value.unreachable, caught.value.outcome_unknown) == (True, False)


async def subject(seen: Seen) -> bytes:
    """Tells the client certificate's common name."""
    found = seen.writer.get_extra_info("peercert")
    return answer(200, {"name": dict(pair[0] for pair in found["subject"])["commonName"]})


async def test_the_configured_client_certificate_is_presented_and_a_calls_own_in_its_place(authority):
    usual, own = authority.client("usual"), authority.client("own")
    async with Hostile(subject, tls=context_of(authority, clients=authority)) as server:
        settings = {"client_cert": str(usual[0]), "client_key": str(usual[1])}
        async with wire_to(server, ca_cert=str(authority.file), **settings) as wire:
            turn = (None, (str(own[0]), str(own[1])), None)
            answers = [await wire.call("POST", "auth/cert/login", certificate=one) for one in turn]

        assert [got.body["name"] for got in answers] == ["usual", "own", "usual"]


async def test_a_rotated_client_certificate_is_presented_from_the_next_call_on(authority):
    serials: list[str] = []

    async def play(seen: Seen) -> bytes:
        serials.append(seen.writer.get_extra_info("peercert")["serialNumber"])
        return answer(200, {})

    cert, key = (str(path) for path in authority.client())
    async with (
        Hostile(play, tls=context_of(authority, clients=authority)) as server,
        wire_to(server, ca_cert=str(authority.file), client_cert=cert, client_key=key) as wire,
    ):
        await wire.call("GET", "sys/health")
        await wire.call("GET", "sys/health")
        authority.client()
        await wire.call("GET", "sys/health")

    assert serials[0] == serials[1] != serials[2]
    assert server.connections == 2


async def test_a_rotated_ca_is_trusted_without_a_restart(authority, tmp_path):
    fresh = Authority(tmp_path / "fresh", "the next CA")
    bundle = tmp_path / "bundle.pem"
    os.symlink(fresh.file, bundle)
    async with (
        Hostile(FINE, tls=context_of(authority)) as server,
        wire_to(server, ca_cert=str(bundle)) as wire,
    ):
        with pytest.raises(Unavailable, match="set ca_cert"):
            await wire.call("GET", "sys/health")
        os.symlink(authority.file, tmp_path / "swap")
        os.replace(tmp_path / "swap", bundle)

        assert (await wire.call("GET", "sys/health")).ok


async def test_the_servers_certificate_may_rotate(authority):
    context = context_of(authority)
    async with Hostile(FINE, tls=context) as server, wire_to(server, ca_cert=str(authority.file)) as wire:
        assert (await wire.call("GET", "sys/health")).ok
        context.load_cert_chain(*authority.server())
        await server.hang_up()

        assert (await wire.call("GET", "sys/health")).ok
        assert server.connections == 2


async def mistake(server: Hostile | str, **settings: Any) -> str:
    """What a call ends with that our own files prevent: no outage of the server, so nobody waits for its return."""
    async with wire_to(server, **settings) as wire:
        with pytest.raises(Unavailable) as caught:
            await wire.call("GET", "database/creds/app", token=TOKEN, deadline=20)
    assert (caught.value.unreachable, caught.value.outcome_unknown) == (False, False)
    assert "cannot be reached" not in str(caught.value)
    assert "canary" not in str(caught.value)
    return str(caught.value)


async def test_files_that_are_missing_or_of_no_use_are_named(authority, tmp_path):
    cert, key = authority.client()
    other = authority.client("other")[1]
    junk, empty, large, pipe = (tmp_path / name for name in ("junk.pem", "empty.pem", "large.pem", "pipe"))
    junk.write_text("hvs.canary")
    empty.write_text("")
    with large.open("wb") as file:
        file.truncate(5 << 20)
    os.mkfifo(pipe)
    locked = tmp_path / "locked.key"
    private = serialization.load_pem_private_key(key.read_bytes(), None)
    form, lock = serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"canary")
    locked.write_bytes(private.private_bytes(serialization.Encoding.PEM, form, lock))
    lost, no_file = "/nonexistent/pem", "cannot be read: No such file or directory; put it there (PEM), or set"
    no_pipe, of_no_use = (
        "cannot be read: it is a pipe, not a file; put it there (PEM), or set",
        "there is no certificate",
    )
    cases = [
        ({"ca_cert": lost}, f"ca_cert {lost} {no_file} ca_cert"),
        ({"ca_cert": str(junk)}, f"ca_cert {junk}: {of_no_use}"),
        ({"ca_cert": str(empty)}, f"ca_cert {empty}: {of_no_use}"),
        ({"ca_cert": str(large)}, f"ca_cert {large} cannot be read: it is larger than 4 MiB"),
        ({"ca_cert": str(pipe)}, f"ca_cert {pipe} {no_pipe} ca_cert"),
        ({"ca_cert": str(tmp_path)}, f"ca_cert {tmp_path} cannot be read: it is a directory, not a file"),
        ({"ca_cert": "/dev/zero"}, "ca_cert /dev/zero cannot be read: it is a device or socket, not a file"),
        ({"client_cert": str(cert), "client_key": lost}, f"client key {lost} {no_file} client_key"),
        ({"client_cert": lost, "client_key": str(key)}, f"client certificate {lost} {no_file} client_cert"),
        ({"client_cert": str(pipe), "client_key": str(key)}, f"client certificate {pipe} {no_pipe} client_cert"),
        ({"client_cert": str(cert), "client_key": str(pipe)}, f"client key {pipe} {no_pipe} client_key"),
        ({"client_cert": str(junk), "client_key": str(key)}, f"client certificate {junk} with key {key}"),
        ({"client_cert": str(cert), "client_key": str(other)}, "they do not belong together"),
        ({"client_cert": str(cert), "client_key": str(locked)}, f"client key {locked} is encrypted"),
    ]
    async with Hostile(FINE, tls=context_of(authority)) as server:
        for settings, words in cases:
            said = await mistake(server, **{"ca_cert": str(authority.file)} | settings)
            assert said.startswith(f"vault: {words}") or words in said, said
        assert server.seen == []


async def test_our_own_files_speak_against_no_server_and_once_mended_serve_at_once(authority, tmp_path):
    """A pipe once held every thread of the upstream, for good."""
    bundle = tmp_path / "ca.pem"
    os.mkfifo(bundle)
    async with (
        Hostile(FINE, tls=context_of(authority)) as one,
        Hostile(FINE, tls=context_of(authority)) as two,
        wire_to(one, two, ca_cert=str(bundle)) as wire,
    ):
        for _ in range(5):
            with pytest.raises(Unavailable, match="is a pipe, not a file"):
                await wire.call("GET", "sys/health")
        bundle.unlink()
        bundle.write_bytes("Büro-CA\n".encode("latin-1") + authority.file.read_bytes())

        assert (await wire.call("GET", "sys/health")).ok
        assert (len(one.seen), two.connections) == (1, 0)


async def test_a_mount_that_hangs_holds_one_thread_and_is_named_by_the_others(authority, monkeypatch):
    real, back, hangs = os.stat, threading.Event(), threading.Event()
    bundle = str(authority.file)

    def dead(path: Any, *args: Any, **how: Any) -> os.stat_result:
        if path == bundle:
            hangs.set()
            back.wait(60)
        return real(path, *args, **how)

    async with (
        Hostile(FINE, tls=context_of(authority)) as server,
        wire_to(server, ca_cert=bundle, connect_timeout=60.0) as wire,
    ):
        monkeypatch.setattr(os, "stat", dead)
        first = asyncio.create_task(wire.call("GET", "sys/health", deadline=60))
        await asyncio.to_thread(hangs.wait, 10)
        for _ in range(2):
            with pytest.raises(Unavailable, match="the file system does not answer; look at the mount") as caught:
                await wire.call("GET", "sys/health", deadline=60)
            assert bundle in str(caught.value)
        back.set()

        assert (await first).ok
        assert (await wire.call("GET", "sys/health")).ok


async def test_an_intermediate_may_be_all_that_is_trusted(authority, tmp_path):
    """As for Go's clients: a certificate in ca_cert is trusted, whoever signed it; here the server's own."""
    context = context_of(authority)
    leaf = authority.server("leaf")
    context.load_cert_chain(*leaf)
    async with Hostile(FINE, tls=context) as server:
        assert (await health(server, ca_cert=str(leaf[0]))).ok


async def test_a_proxy_carries_tls_and_hears_no_token(authority):
    async with Hostile(FINE, tls=context_of(authority)) as server, proxy_to(server) as proxy:
        async with wire_to(server, ca_cert=str(authority.file), proxy=proxy.address) as wire:
            assert (await wire.call("GET", "sys/health", token=TOKEN)).ok
            assert (await wire.call("GET", "sys/health", token=TOKEN)).ok

        assert [seen.target for seen in proxy.seen] == [server.authority]
        assert all("x-vault-token" not in seen.headers for seen in proxy.seen)
        assert len(server.seen) == 2


async def test_a_redirect_from_https_to_http_is_refused(authority):
    async with Hostile(FINE) as plain:
        there = f"{plain.address}/v1/sys/health"
        async with (
            Hostile(always(answer(307, b"", location=there)), tls=context_of(authority)) as server,
            wire_to(server, ca_cert=str(authority.file), redirect_hosts=(plain.authority,)) as wire,
        ):
            with pytest.raises(Unavailable, match="from https to http"):
                await wire.call("GET", "sys/health", token=TOKEN)

        assert plain.connections == 0


@pytest.mark.parametrize("size", [0, 8192, 12_000], ids=["within the buffer", "at its end", "beyond it"])
@pytest.mark.parametrize("secure", [True, False], ids=["tls", "plain"])
async def test_an_answer_that_nobody_asked_for_is_not_taken_for_the_next_one(authority, size, secure):
    """Sent with the answer before, it lies decrypted in OpenSSL, or in the buffer, where poll() does not see it."""

    async def play(seen: Seen) -> bytes:
        own = answer(200, {"for": seen.target})
        if len(server.seen) > 1:
            return own
        padding = "x" * max(0, size - len(answer(200, {"for": seen.target}, padding="")))
        return answer(200, {"for": seen.target}, padding=padding) + answer(200, {"for": "somebody else"})

    async with Hostile(play, tls=context_of(authority) if secure else None) as server:
        async with wire_to(server, ca_cert=str(authority.file)) as wire:
            answers = [await wire.call("GET", f"database/creds/{name}", token=TOKEN) for name in "abc"]

        assert [got.body["for"] for got in answers] == [f"/v1/database/creds/{name}" for name in "abc"]
        assert [seen.connection for seen in server.seen] == [1, 2, 2]


async def test_after_an_interim_answer_a_connection_is_not_used_again(authority):
    """The final one is still to come; http.client knows 100 alone for an interim one."""

    async def play(_: Seen) -> bytes:
        return answer(103, b"") if len(server.seen) == 1 else answer(200, {})

    async with Hostile(play) as server, wire_to(server) as wire:
        with pytest.raises(Unavailable, match="status 103"):
            await wire.call("GET", "sys/health")
        assert (await wire.call("GET", "sys/health")).ok

        assert [seen.connection for seen in server.seen] == [1, 2]
