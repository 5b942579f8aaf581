"""The cached read beside a plain aiohttp application that returns the same bytes.

`python -m bench.read` prints throughput, latency and CPU of each over 1 and 16 connections, memory, and their ratios.
Both servers run on uvloop in processes of their own and take turns, round by round, so that a busy machine slows both;
only the ratios are claims. The load comes from this process: raw sockets, one request outstanding per connection. Linux
only (/proc).
"""

import asyncio
import contextlib
import multiprocessing
import os
import selectors
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING

# Nothing of ours is imported here: plain aiohttp's process would carry it too.
if TYPE_CHECKING:
    from agent.clock import Clock
    from agent.leases.cache import LeaseCache

ROLE = "database/creds/app-readonly"
REQUEST = (
    f"GET /v1/{ROLE} HTTP/1.1\r\nHost: localhost\r\nUser-Agent: bench\r\nAccept: */*\r\n"
    "Accept-Encoding: gzip, deflate\r\n\r\n"
).encode()
CONNECTIONS = (1, 16)
ROUNDS = 7
ROUND_SECONDS = 0.5
READS = 100_000


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table.

    Attributes:
        name: what was measured.
        ours: of our listener; and
        plain: of plain aiohttp, in the same unit.
        ratio: ours to plain: the median over the rounds where there were rounds.
    """

    name: str
    ours: float
    plain: float
    ratio: float


def _cache(clock: "Clock") -> "LeaseCache":
    from agent.leases.cache import LeaseCache
    from agent.leases.lease import Grant, Lease, Secret

    cache = LeaseCache([ROLE])
    data = {"username": Secret("v_app_readonly_0123456789abcdef"), "password": Secret("x" * 32)}
    grant = Grant(id=f"{ROLE}/0123456789abcdef", data=data, ttl=3600.0, renewable=True)
    lease = Lease(first=grant, last=grant, issued_at=clock.now(), granted_at=clock.now(), jitter=0.0)
    cache.publish(ROLE, lease, until=lease.expires_at - 10, verified=True, now=clock.now(), wall=clock.wall())
    return cache


def _body() -> bytes:
    from agent.api.fastpath import answer_body
    from agent.clock import SystemClock

    clock = SystemClock()
    snapshot = _cache(clock).read(ROLE, clock.now())
    if snapshot is None:
        raise RuntimeError("the lease has just been published")
    return answer_body(snapshot, None, clock.now())


async def _serve_ours(path: Path, body: bytes, ready: Connection) -> None:
    from agent.api.access import AllowList, RoleAccess
    from agent.api.health import Probes
    from agent.api.leases import Holdings
    from agent.api.metrics import Metrics
    from agent.api.server import Server
    from agent.clock import SystemClock
    from agent.config.model import UnixListener
    from agent.leases.desk import Desk, Shelf

    async def no_journal(upstream: str, prefix: str, most: int) -> Shelf:
        return Shelf()

    clock = SystemClock()
    mine = AllowList.parse([], own_uid=os.getuid())
    access = RoleAccess(read=mine, rotate=mine, rotate_min_interval=10.0, lazy=False, connection=None)
    server = Server(
        UnixListener(address=str(path)),
        roles={ROLE: access},
        admin=mine,
        cache=_cache(clock),
        clock=clock,
        probes=Probes(
            started=lambda: True,
            ready=lambda: True,
            live=lambda: True,
            degraded=lambda: False,
            files=lambda: [],
            upstreams=lambda: [],
        ),
        metrics=Metrics(lambda: [], clock),
        holdings=Holdings(
            desk=Desk({}, clock),
            upstreams={ROLE: "postgresql"},
            owner="bench",
            incarnation=lambda: 1,
            journal=no_journal,
            beyond=dict,
        ),
        rotate=lambda role, after: None,
        required=frozenset({ROLE}),
        version="bench",
    )
    await server.start()
    ready.send("up")
    await asyncio.Event().wait()


async def _serve_plain(path: Path, body: bytes, ready: Connection) -> None:
    from aiohttp import web

    # The body is there already: aiohttp pays for nothing but HTTP.
    async def read(_: web.Request) -> web.Response:
        return web.Response(body=body, content_type="application/json")

    app = web.Application()
    app.router.add_get(f"/v1/{ROLE}", read)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.UnixSite(runner, str(path)).start()
    ready.send("up")
    await asyncio.Event().wait()


def _child(kind: str, path: Path, body: bytes, ready: Connection) -> None:
    import uvloop

    if kind == "ours":
        from agent import log

        log.configure(level="error")
    with contextlib.suppress(KeyboardInterrupt):
        uvloop.run((_serve_ours if kind == "ours" else _serve_plain)(path, body, ready))


@contextlib.contextmanager
def _server(kind: str, directory: Path) -> Iterator[tuple[Path, int]]:
    """A server in a process of its own; its socket and process id."""
    path = directory / f"{kind}.sock"
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_child, args=(kind, path, _body(), there), daemon=True)
    process.start()
    try:
        if not here.poll(60):
            raise RuntimeError(f"{kind}: the server did not start")
        here.recv()
        yield path, process.pid or 0
    finally:
        process.terminate()
        process.join()


def _length(answer: bytes) -> int:
    head, _, body = answer.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200 "):
        raise RuntimeError("the server did not answer 200")
    return len(answer) - len(body) + int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])


@dataclass(frozen=True, kw_only=True)
class Load:
    """What one round gave: reads per second, and the latencies of all reads in seconds, sorted."""

    rate: float
    latencies: list[float]

    def at(self, share: float) -> float:
        """The latency that this share of the reads stayed under, in microseconds."""
        return self.latencies[min(len(self.latencies) - 1, int(len(self.latencies) * share))] * 1e6


def load(
    path: Path, connections: int, *, seconds: float = ROUND_SECONDS, reads: int = sys.maxsize, request: bytes = REQUEST
) -> Load:
    """Read for `seconds`, or `reads` times, over so many connections with one request outstanding on each."""
    clock = time.perf_counter
    latencies: list[float] = []
    with contextlib.ExitStack() as stack:
        selector = stack.enter_context(selectors.DefaultSelector())
        sent: dict[int, float] = {}
        for _ in range(connections):
            sock = stack.enter_context(socket.socket(socket.AF_UNIX))
            sock.connect(str(path))
            sock.sendall(request)
            sent[sock.fileno()] = clock()
            selector.register(sock, selectors.EVENT_READ, sock)
        begun = clock()
        while clock() - begun < seconds and len(latencies) < reads:
            for key, _ in selector.select():
                sock = key.data
                answer = sock.recv(65536)
                while len(answer) < _length(answer):
                    answer += sock.recv(65536)
                now = clock()
                latencies.append(now - sent[key.fd])
                sent[key.fd] = now
                sock.sendall(request)
        took = clock() - begun
    return Load(rate=len(latencies) / took, latencies=sorted(latencies))


def rss(pid: int) -> float:
    """Resident memory in MiB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def _rss_row(name: str, servers: Sequence[tuple[Path, int]]) -> Row:
    ours, plain = (rss(pid) for _, pid in servers)
    return Row(name=name, ours=ours, plain=plain, ratio=ours / plain)


def _cpu(pid: int) -> float:
    """Seconds of CPU used so far, user and system."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _cpu_per_read(servers: Sequence[tuple[Path, int]], connections: int) -> Row:
    costs = []
    for path, pid in servers:
        before, reads = _cpu(pid), READS // 2
        load(path, connections, seconds=600.0, reads=reads)
        costs.append((_cpu(pid) - before) / reads * 1e6)
    ours, plain = costs
    return Row(name=f"c={connections} server CPU per read, µs", ours=ours, plain=plain, ratio=ours / plain)


def _reads(ours: Path, plain: Path, connections: int) -> list[Row]:
    for path in (ours, plain):
        load(path, connections, seconds=0.2)
    pairs = [(load(ours, connections), load(plain, connections)) for _ in range(ROUNDS)]
    name = f"c={connections}"

    def row(what: str, pick: "list[tuple[float, float]]") -> Row:
        return Row(
            name=f"{name} {what}",
            ours=statistics.median(a for a, _ in pick),
            plain=statistics.median(b for _, b in pick),
            ratio=statistics.median(a / b for a, b in pick),
        )

    return [
        row("reads/s", [(a.rate, b.rate) for a, b in pairs]),
        row("p50 µs", [(a.at(0.5), b.at(0.5)) for a, b in pairs]),
        row("p99 µs", [(a.at(0.99), b.at(0.99)) for a, b in pairs]),
    ]


def run() -> list[Row]:
    """Measure; a minute or less."""
    with (
        tempfile.TemporaryDirectory(prefix="lh-bench-") as directory,
        _server("ours", Path(directory)) as (ours, our_pid),
        _server("plain", Path(directory)) as (plain, plain_pid),
    ):
        servers = ((ours, our_pid), (plain, plain_pid))
        rows = [_rss_row("RSS after start, MiB", servers)]
        for connections in CONNECTIONS:
            rows += _reads(ours, plain, connections)
            rows.append(_cpu_per_read(servers, connections))
        # The rows of CPU have just read 100,000 times from each.
        rows.append(_rss_row(f"RSS after {READS:,} more reads, MiB", servers))
    return rows


def main() -> None:
    """Print the table."""
    print(f"{'cached read on a Unix socket':36} {'leasehold':>10} {'aiohttp':>10} {'ratio':>6}")
    for row in run():
        print(f"{row.name:36} {row.ours:10.1f} {row.plain:10.1f} {row.ratio:6.2f}")


if __name__ == "__main__":
    main()
