"""What a server sends, and what comes of it: an Answer, or an error that says whom to blame and tells no secret."""

import asyncio
import gzip
import json
import resource
import time
from email.utils import formatdate

import pytest

from agent.engines.vault.answers import ServerFault
from agent.errors import BadResponse, NoIdentity, NotFound, RateLimited, Sealed, Unavailable, UpstreamError
from agent.leases.lease import Secret
from tests.unit.engines.vault.hostile import Hostile, Seen, Stopwatch, always, answer, wire_to

TOKEN = Secret("hvs.canary-token")
CANARY = "canary-7f3a"


async def error_of(raw: bytes, *, path: str = "database/creds/app") -> UpstreamError:
    """What a call ends with that is answered with `raw`."""
    async with Hostile(always(raw)) as server, wire_to(server) as wire:
        with pytest.raises(UpstreamError) as caught:
            await wire.call("GET", path, token=TOKEN)
    assert CANARY not in str(caught.value)
    assert "canary-token" not in str(caught.value)
    assert "\n" not in str(caught.value)
    return caught.value


@pytest.mark.parametrize("status", [200, 201, 400, 403, 404, 405])
async def test_an_answer_that_says_something_about_the_request_is_returned(status):
    raw = answer(status, {"data": {"a": 1}, "errors": ["one", 2, "three"]}, date="Sat, 21 Nov 2026 08:00:00 GMT")
    async with Hostile(always(raw)) as server, wire_to(server) as wire:
        got = await wire.call("GET", "database/creds/app", token=TOKEN)

    assert (got.status, got.body["data"], got.errors) == (status, {"a": 1}, ("one", "three"))
    assert got.server_time == 1795248000.0
    assert got.ok == (status < 300)
    assert "one" not in repr(got)


@pytest.mark.parametrize("status", [202, 204])
async def test_an_answer_without_a_body_is_an_empty_object(status):
    async with Hostile(always(answer(status, b""))) as server, wire_to(server) as wire:
        got = await wire.call("POST", "sys/leases/revoke", token=TOKEN, body={"lease_id": "x"})

    assert (got.status, dict(got.body), got.ok, got.server_time) == (status, {}, True, None)


@pytest.mark.parametrize("status", [200, 400, 403, 404])
@pytest.mark.parametrize(
    "body",
    [
        f"<html>{CANARY}</html>".encode(),
        b"",
        f'["{CANARY}"]'.encode(),
        f'{{"a": "{CANARY}"'.encode(),
        f'{{"a": NaN, "b": "{CANARY}"}}'.encode(),
        b'{"a": 1e999}',
        b'{"a": ' + b"9" * 5000 + b"}",
        b'{"a": ' + b"9" * 400 + b"}",  # no float holds it: whoever computes with it would fail
        b'{"a": "\\ud800"}',
        b'{"a": "\xff"}',
        b'\xef\xbb\xbf{"a": 1}',
        b'{"a":' * 65 + b"1" + b"}" * 65,
        b"[" * 500_000,
    ],
    ids=lambda body: repr(body[:12]),
)
async def test_what_is_no_json_object_is_a_bad_response_whatever_the_status(status, body):
    """hvac hands a captive portal's page to the caller as if it were an answer (upstreams.md, 3.6, trap 2; D-04)."""
    error = await error_of(answer(status, body, content_type="text/html"))

    assert type(error) is BadResponse
    assert error.outcome_unknown == (status == 200)
    assert "vault: GET database/creds/app at http://127.0.0.1:" in str(error)


async def test_json_as_deep_as_allowed_and_odd_but_harmless_is_taken():
    body = b'{"a": 1, "a": 2, "big": 123456789012345678901234567890, "deep": ' + b"[" * 63 + b"]" * 63
    async with Hostile(always(answer(200, body + b', "brackets": "[[[{{{\\"["}'))) as server, wire_to(server) as wire:
        got = await wire.call("GET", "secret/data/x", token=TOKEN)

    assert (got.body["a"], float(got.body["big"]), got.body["brackets"]) == (2, 1.2345678901234568e29, '[[[{{{"[')


@pytest.mark.parametrize(
    ("status", "kind", "unreachable", "unknown"),
    [
        (412, Unavailable, False, False),
        (429, RateLimited, False, False),
        (472, Sealed, True, False),
        (473, Sealed, True, False),
        (500, ServerFault, False, False),
        (501, Sealed, True, False),
        (502, ServerFault, False, True),
        (503, Sealed, True, False),
        (504, ServerFault, False, True),
        (599, ServerFault, False, False),
        (401, BadResponse, False, False),
        (418, BadResponse, False, False),
        (303, BadResponse, False, False),
        (206, BadResponse, False, True),
    ],
)
@pytest.mark.parametrize("body", [{"errors": [CANARY]}, f"<html>{CANARY}".encode()])
async def test_a_status_decides_which_error_it_is(status, kind, unreachable, unknown, body):
    """hvac knows neither 405 nor 412, 472 or 473 (3.6, trap 4), and tells no status (trap 5)."""
    if status == 206:
        body = b"half"
    error = await error_of(answer(status, body))

    assert type(error) is kind
    assert (error.unreachable, error.outcome_unknown) == (unreachable, unknown)
    assert str(status) in str(error)


async def test_a_server_fault_carries_what_was_said_for_the_engine_alone():
    error = await error_of(answer(500, {"errors": [CANARY]}))

    assert isinstance(error, ServerFault)
    assert error.errors == (CANARY,)


async def test_a_standby_asked_for_its_health_is_not_a_rate_limit():
    error = await error_of(answer(429, {}), path="sys/health")

    assert type(error) is Sealed


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize(
    ("said", "least", "most"),
    [
        (None, 0, 0),
        ("7", 7, 7),
        ("0", 0, 0),
        ("1.5", 1.5, 1.5),
        ("99999999", 3600, 3600),
        ("-3", 0, 0),
        ("soon", 0, 0),
        ("9" * 4000, 0, 0),
        (lambda: formatdate(time.time() + 30, usegmt=True), 20, 30),
        (lambda: formatdate(time.time() - 30, usegmt=True), 0, 0),
        ("Sat, 21 Nov 99999 08:00:00 GMT", 0, 0),
    ],
)
async def test_retry_after_is_kept_and_clamped(status, said, least, most):
    """hvac's exceptions lose it (3.6, trap 5; D-07)."""
    value = said() if callable(said) else said
    error = await error_of(answer(status, {}, **({} if value is None else {"retry_after": value})))

    assert isinstance(error, RateLimited | Sealed)
    assert least <= error.retry_after <= most


async def test_a_retry_after_date_counts_from_the_servers_own_time():
    raw = answer(503, {}, date="Sat, 21 Nov 2026 08:00:00 GMT", retry_after="Sat, 21 Nov 2026 08:00:12 GMT")

    error = await error_of(raw)

    assert isinstance(error, Sealed)
    assert error.retry_after == 12


@pytest.mark.parametrize("date", ["nonsense", "Sat, 21 Nov 1970 08:00:00 GMT", "x" * 5000, ""])
async def test_a_date_of_no_use_is_no_server_time(date):
    async with Hostile(always(answer(200, {}, date=date))) as server, wire_to(server) as wire:
        assert (await wire.call("GET", "sys/health")).server_time is None


async def test_a_compressed_answer_is_refused_and_never_inflated():
    bomb = gzip.compress(b'{"a": "' + b"0" * 50_000_000 + b'"}')

    error = await error_of(answer(200, bomb, content_encoding="gzip"))

    assert type(error) is BadResponse
    assert "compressed" in str(error)
    assert error.outcome_unknown


def head(*lines: str) -> bytes:
    return "\r\n".join(["HTTP/1.1 200 OK", *lines]).encode() + b"\r\n\r\n"


@pytest.mark.parametrize(
    ("raw", "word"),
    [
        (head("Content-Length: 100") + b'{"data": {', "cut off"),
        (head("Transfer-Encoding: chunked") + b"a\r\n{}", "cut off"),
        (head("Transfer-Encoding: chunked") + b"zz\r\n{}", "cut off"),
        (head("Transfer-Encoding: chunked") + b"-5\r\n{}", "cut off"),
        (head("Content-Length: 1000000000"), "too large"),
        (head(*[f"X-{n}: y" for n in range(200)], "Content-Length: 2") + b"{}", "not HTTP"),
        (head("X: " + "y" * 70_000, "Content-Length: 2") + b"{}", "headers that are too large"),
        (b"nonsense\r\n\r\n", "not HTTP"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "not HTTP"),
        (b"HTTP/1.1 9999 What\r\n\r\n", "not HTTP"),
    ],
)
async def test_what_breaks_http_is_a_bad_response_after_which_the_outcome_is_unknown(raw, word):
    async def play(seen: Seen) -> None:
        await seen.send(raw)

    async with Hostile(play) as server, wire_to(server) as wire:
        with pytest.raises(BadResponse, match=word) as caught:
            await wire.call("GET", "database/creds/app", token=TOKEN)

    assert caught.value.outcome_unknown


async def test_an_answer_that_is_over_sooner_than_promised_by_less_is_taken_and_the_rest_is_not():
    """A wrong Content-Length, too small: what follows belongs to no request, and the connection is not used again."""
    raw = head("Content-Length: 2") + b'{}{"token": "x"}'
    async with Hostile(always(raw)) as server, wire_to(server) as wire:
        for _ in range(3):
            assert dict((await wire.call("GET", "sys/health")).body) == {}


@pytest.mark.parametrize("framing", ["Transfer-Encoding: chunked", "Connection: close"])
async def test_a_gigabyte_is_not_read(framing):
    """Neither with a length, which is refused at once (above), nor without."""
    sent = 0

    async def play(seen: Seen) -> None:
        nonlocal sent
        piece = b"{" * 65536
        await seen.send(head(framing))
        for _ in range(16384):
            await seen.send(b"10000\r\n" + piece + b"\r\n" if "chunked" in framing else piece)
            sent += len(piece)

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    async with Hostile(play) as server, wire_to(server) as wire:
        with pytest.raises(BadResponse, match="too large"):
            await wire.call("GET", "database/creds/app", token=TOKEN)

    assert sent < 64 << 20
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10  # KiB


@pytest.mark.parametrize(("size", "taken"), [(1 << 20, True), ((1 << 20) + 1, False)])
async def test_a_mebibyte_is_the_most_however_it_is_framed(size, taken):
    body = b'{"a": "' + b"x" * (size - 9) + b'"}'

    async def play(seen: Seen) -> None:
        await seen.send(head("Connection: close") + body)

    async with Hostile(play) as server, wire_to(server) as wire:
        if taken:
            assert (await wire.call("GET", "secret/data/x")).ok
        else:
            with pytest.raises(BadResponse, match="too large"):
                await wire.call("GET", "secret/data/x")


@pytest.mark.parametrize("piece", [b"HTTP/1.1 100 Continue\r\n\r\n", b"X-Flood: " + b"y" * 1000 + b"\r\n"])
async def test_headers_without_end_come_to_an_end(piece):
    async def play(seen: Seen) -> None:
        await seen.send(b"HTTP/1.1 200 OK\r\n" if piece.startswith(b"X") else b"")
        while True:
            await seen.send(piece * 100)

    with Stopwatch() as watch:
        async with Hostile(play) as server, wire_to(server) as wire:
            with pytest.raises(BadResponse):
                await wire.call("GET", "database/creds/app", token=TOKEN, deadline=30)

    assert watch.took < 15


async def test_a_request_carries_what_vault_wants_and_nothing_of_the_environment(monkeypatch, tmp_path):
    """hvac takes VAULT_TOKEN and ~/.vault-token where no token is given (3.6, trap 1; D-02), requests takes proxies,
    .netrc and CA bundles."""
    (tmp_path / ".vault-token").write_text("stray")
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login stray password stray\n")
    for name in ("VAULT_TOKEN", "BAO_TOKEN", "VAULT_NAMESPACE", "BAO_NAMESPACE"):
        monkeypatch.setenv(name, "stray")
    for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "ALL_PROXY", "all_proxy", "VAULT_ADDR", "VAULT_PROXY_ADDR"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "VAULT_CACERT"):
        monkeypatch.setenv(name, "/nonexistent")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))

    async with Hostile(always(answer(200, {}))) as server, wire_to(server) as wire:
        await wire.call("GET", "sys/health")
        seen = server.seen[0]

    assert (seen.method, seen.target) == ("GET", "/v1/sys/health")
    assert set(seen.headers) == {"host", "user-agent", "accept", "accept-encoding", "x-vault-request", ""}
    assert seen.headers["accept-encoding"] == "identity"
    assert seen.headers["x-vault-request"] == "true"
    assert seen.headers["user-agent"].startswith("leasehold/")


async def test_token_namespace_wrapping_query_and_body_are_sent():
    async with Hostile(always(answer(200, {}))) as server, wire_to(server, namespace="team/") as wire:
        await wire.call(
            "POST",
            "/auth/jwt/login",
            token=TOKEN,
            body={"jwt": Secret("s3"), "deep": {"list": [Secret("s4"), 1, None]}},
            query={"list": "a b&c"},
            wrap_ttl=59.2,
        )
        await wire.call("GET", "sys/health", namespace="other")
        await wire.call("LIST", "secret/metadata")
        first, second, third = server.seen

    assert first.target == "/v1/auth/jwt/login?list=a+b%26c"
    assert json.loads(first.body) == {"jwt": "s3", "deep": {"list": ["s4", 1, None]}}
    assert first.headers["content-type"] == "application/json"
    assert first.headers["x-vault-token"] == "hvs.canary-token"
    assert first.headers["x-vault-namespace"] == "team/"
    assert first.headers["x-vault-wrap-ttl"] == "60"
    # A call without a token does not carry the one before (3.6, trap 8), nor its wrapping.
    assert second.headers["x-vault-namespace"] == "other"
    assert not {"x-vault-token", "x-vault-wrap-ttl", "content-type", "content-length"} & set(second.headers)
    assert (third.method, third.target) == ("GET", "/v1/secret/metadata?list=true")


@pytest.mark.parametrize(
    ("path", "target"),
    [
        ("database/creds/app", "/v1/database/creds/app"),
        ("a b/c?d#e%2f", "/v1/a%20b/c%3Fd%23e%252f"),
        ("r\u00f6le/\r\nX: y", "/v1/r%C3%B6le/%0D%0AX%3A%20y"),
    ],
)
async def test_a_path_is_encoded_once(path, target):
    async with Hostile(always(answer(200, {}))) as server, wire_to(server) as wire:
        await wire.call("GET", path)

        assert server.seen[0].target == target


@pytest.mark.parametrize("path", ["a/../sys/seal", "..", "a//b", "", "a/./b", "\ud800"])
async def test_a_path_that_would_lead_elsewhere_is_not_asked_for(path):
    async with Hostile(always(answer(200, {}))) as server, wire_to(server) as wire:
        with pytest.raises(NotFound):
            await wire.call("GET", path, token=TOKEN)

        assert server.seen == []


@pytest.mark.parametrize("token", ["", "a\nX-Evil: 1", "a b", "t\u00f6ken", "a\r"])
async def test_a_token_that_no_header_can_carry_is_not_sent(token):
    async with Hostile(always(answer(200, {}))) as server, wire_to(server) as wire:
        with pytest.raises(NoIdentity) as caught:
            await wire.call("GET", "sys/health", token=Secret(token))

        assert server.seen == []
    assert not token or token not in str(caught.value)


async def test_a_404_is_an_answer_like_any_other():
    """hvac's Client.read turns it into None (3.6, trap 7)."""
    async with Hostile(always(answer(404, {"errors": []}))) as server, wire_to(server) as wire:
        got = await wire.call("GET", "secret/data/none", token=TOKEN)

    assert (got.status, got.ok, got.errors) == (404, False, ())


async def test_cookies_are_not_kept():
    async with Hostile(always(answer(200, {}, set_cookie="route=a; Path=/"))) as server, wire_to(server) as wire:
        await wire.call("GET", "sys/health")
        await wire.call("GET", "sys/health")

        assert "cookie" not in server.seen[1].headers


async def test_hvac_is_loaded_by_the_first_call_only():
    """It takes 65 ms and 10 MiB, and nobody who has no Vault should pay for it."""
    import subprocess
    import sys

    code = (
        "import sys; from agent.clock import SystemClock; from agent.config.upstreams import Vault;"
        "from agent.engines.vault.wire import HttpWire; HttpWire('v', Vault(address='http://127.0.0.1:1'),"
        "SystemClock()); print([m for m in ('hvac', 'requests', 'urllib3', 'http.client') if m in sys.modules])"
    )
    done = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )

    assert done.stdout.strip() == "[]"
