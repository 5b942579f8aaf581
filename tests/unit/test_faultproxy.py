"""The proxy that counts and breaks requests does what the tests of outages take it to do."""

import http.client
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.faultproxy import FaultProxy


class _Upstream(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    done = 0


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Upstream

    def do_GET(self) -> None:
        self.server.done += 1
        content = json.dumps({"path": self.path, "token": self.headers.get("X-Vault-Token")}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.server.done += 1
        self.send_response(204)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


@pytest.fixture
def upstream() -> Iterator[_Upstream]:
    server = _Upstream(("127.0.0.1", 0), _Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def proxy(upstream: _Upstream) -> Iterator[FaultProxy]:
    with FaultProxy(f"http://127.0.0.1:{upstream.server_port}") as one:
        yield one


@pytest.fixture
def client(proxy: FaultProxy) -> Iterator[http.client.HTTPConnection]:
    connection = http.client.HTTPConnection(proxy.address.removeprefix("http://"), timeout=20)
    yield connection
    connection.close()


def ask(client: http.client.HTTPConnection, path: str = "/v1/a/b", method: str = "GET", body: object = None):
    client.request(method, path, None if body is None else json.dumps(body), {"X-Vault-Token": "t"})
    response = client.getresponse()
    return response.status, response.read(), response


def test_what_nobody_breaks_passes_and_is_counted(proxy: FaultProxy, client: http.client.HTTPConnection):
    before = time.monotonic()

    status, content, _ = ask(client)
    posted, nothing, _ = ask(client, "/v1/sys/leases/renew", "POST", {"lease_id": "x"})

    assert (status, json.loads(content)) == (200, {"path": "/v1/a/b", "token": "t"})
    assert (posted, nothing) == (204, b"")
    assert (proxy.count(), proxy.count("sys/leases"), proxy.count("sys", method="GET")) == (2, 1, 0)
    assert proxy.seen("sys")[0].body == {"lease_id": "x"}
    assert proxy.seen("sys")[0].headers["x-vault-token"] == "t"
    assert before <= proxy.seen()[0].at <= proxy.seen()[1].at <= time.monotonic()
    assert proxy.count(since=time.monotonic()) == 0


def test_a_scripted_answer_never_reaches_the_upstream(
    proxy: FaultProxy, client: http.client.HTTPConnection, upstream: _Upstream
):
    proxy.fault("a", status=429, body={"errors": ["slow down"]}, headers={"Retry-After": "7"})

    status, content, response = ask(client)

    assert (status, json.loads(content), response.headers["Retry-After"]) == (429, {"errors": ["slow down"]}, "7")
    assert upstream.done == 0


def test_a_fault_lasts_as_long_as_it_should(proxy: FaultProxy, client: http.client.HTTPConnection):
    proxy.fault("a", status=500, times=2)
    lasting = proxy.fault("b", method="POST", status=503)

    assert [ask(client)[0] for _ in range(3)] == [500, 500, 200]
    assert [ask(client, "/v1/b", method, {})[0] for method in ("POST", "GET")] == [503, 200]
    proxy.clear(lasting)
    assert ask(client, "/v1/b", "POST", {})[0] == 204


@pytest.mark.parametrize(("fault", "done"), [({"reset": True}, 0), ({"lose": True}, 1)])
def test_a_connection_is_reset_before_or_after_the_upstream_acted(
    proxy: FaultProxy, client: http.client.HTTPConnection, upstream: _Upstream, fault: dict[str, bool], done: int
):
    proxy.fault("a", **fault)

    with pytest.raises(ConnectionResetError) as caught:
        ask(client)

    assert caught.type is ConnectionResetError  # RST; an orderly end is http.client's RemoteDisconnected
    assert upstream.done == done


def test_an_answer_ends_in_the_middle(proxy: FaultProxy, client: http.client.HTTPConnection):
    proxy.fault("a", half=True)

    with pytest.raises(http.client.IncompleteRead):
        ask(client)


def test_raw_bytes_are_sent_as_they_are(proxy: FaultProxy, client: http.client.HTTPConnection):
    proxy.fault("a", raw=b"no HTTP at all\r\n\r\n")

    with pytest.raises(http.client.BadStatusLine):
        ask(client)


def test_a_hang_lasts_until_it_is_cleared(proxy: FaultProxy, client: http.client.HTTPConnection, upstream: _Upstream):
    hang = proxy.fault("a", hang=True)
    outcome: list[BaseException] = []

    def wait() -> None:
        try:
            ask(client)
        except OSError as error:
            outcome.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    while not proxy.count("a"):
        time.sleep(0.01)
    hanging = thread.is_alive() and not outcome
    proxy.clear(hang)
    thread.join(20)

    assert hanging
    assert isinstance(outcome[0], ConnectionResetError)
    assert upstream.done == 0


def test_a_delay_comes_before_the_answer(proxy: FaultProxy, client: http.client.HTTPConnection):
    proxy.fault("a", delay=0.2)
    before = time.monotonic()

    assert ask(client)[0] == 200
    assert time.monotonic() - before >= 0.2


def test_the_dead_refuse_and_the_living_answer_at_the_same_address(
    proxy: FaultProxy, client: http.client.HTTPConnection
):
    ask(client)
    address = proxy.address

    proxy.dead()
    with pytest.raises((ConnectionResetError, http.client.RemoteDisconnected, BrokenPipeError)):
        ask(client)
    client.close()
    with pytest.raises(ConnectionRefusedError):
        ask(client)
    client.close()
    assert proxy.count() == 1
    proxy.alive()

    assert proxy.address == address
    assert ask(client)[0] == 200


def test_a_stream_is_sent_piece_by_piece_until_the_client_has_gone(proxy: FaultProxy) -> None:
    taken: list[int] = []

    def pieces() -> Iterator[bytes]:
        yield b"HTTP/1.1 200 OK\r\nContent-Length: 1073741824\r\n\r\n"
        for number in range(1 << 14):
            yield b" " * (64 << 10)
            taken.append(number)

    proxy.fault("kv/", stream=pieces)
    connection = http.client.HTTPConnection("127.0.0.1", int(proxy.address.rpartition(":")[2]), timeout=10)
    connection.request("GET", "/v1/kv/a")
    response = connection.getresponse()
    first = response.read(1 << 20)
    response.close()
    connection.close()
    time.sleep(0.2)
    sent = len(taken)
    time.sleep(0.2)

    assert first == b" " * (1 << 20)
    assert 16 <= sent == len(taken) < 1 << 14
