"""A server over a cache filled by hand, and a client that shows every byte."""

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from agent.api.access import AllowList, RoleAccess
from agent.api.health import Probes
from agent.api.leases import Holdings
from agent.api.metrics import Metrics
from agent.api.server import Server
from agent.api.witness import Witness
from agent.config.model import UnixListener
from agent.leases.cache import LeaseCache, Phase, RoleStatus, Snapshot
from agent.leases.desk import Desk, Journal, Shelf
from agent.leases.held import Held
from agent.leases.lease import Grant, Lease, Secret
from agent.meters import Family
from tests.fakes import FakeClock

ROLE = "database/creds/app"
OTHER = "database/creds/other"
LAZY = "database/creds/lazy"
READ = f"GET /v1/{ROLE} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
ANYONE = AllowList(anyone=True)
NOBODY = AllowList()
MARGIN = 3.0
PASSWORD = "correct-horse"


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One answer as it came."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body, parsed."""
        return json.loads(self.body)

    @property
    def errors(self) -> str:
        """The one error it tells."""
        assert list(self.json) == ["errors"]
        (text,) = self.json["errors"]
        assert isinstance(text, str)
        return text


class Client:
    """A connection whose bytes the test writes itself."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, data: bytes) -> None:
        """Write."""
        self.writer.write(data)

    async def answer(self, *, to_head: bool = False) -> Answer:
        """The next answer."""
        async with asyncio.timeout(20):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            status = int(head[0].split(" ")[1])
            headers = {k.lower(): v for k, _, v in (line.partition(": ") for line in head[1:] if line)}
            length = 0 if to_head or status in (100, 204, 304) else int(headers["content-length"])
            return Answer(status=status, headers=headers, body=await self.reader.readexactly(length))

    async def ask(self, data: bytes = READ) -> Answer:
        """Write, and read one answer."""
        self.send(data)
        return await self.answer(to_head=data.startswith(b"HEAD"))

    async def end(self) -> bytes:
        """Everything up to the end of the connection."""
        async with asyncio.timeout(20):
            try:
                return await self.reader.read()
            except ConnectionResetError:
                return b""

    async def close(self) -> None:
        """Leave."""
        self.writer.close()
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()


def get(path: str, **headers: str) -> bytes:
    """A GET request."""
    return request("GET", path, b"", **headers)


def request(method: str, path: str, body: bytes = b"", **headers: str) -> bytes:
    """A request with a length where it has a body."""
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    lines += [f"Content-Length: {len(body)}"] if body else []
    return "".join(f"{line}\r\n" for line in lines).encode() + b"\r\n" + body


class Keeper:
    """The leases of one role; what is revoked is confirmed where `confirms`."""

    def __init__(self, *leases: Held) -> None:
        self.leases = list(leases)
        self.confirms = True
        self.revoked: list[str] = []

    def held(self) -> list[Held]:
        """What it has."""
        return self.leases

    async def strike(self, lease_id: str) -> None:
        """Remembers nothing."""

    def revoke(self, lease_id: str) -> asyncio.Event | None:
        """As a Renewer: None where it is not there."""
        if lease_id not in [each.lease_id for each in self.leases]:
            return None
        self.leases = [each for each in self.leases if each.lease_id != lease_id]
        self.revoked.append(lease_id)
        confirmed = asyncio.Event()
        if self.confirms:
            confirmed.set()
        return confirmed


async def no_journal(upstream: str, prefix: str, most: int) -> Shelf:
    """There is none."""
    raise KeyError(upstream)


class World:
    """One server with its surroundings."""

    def __init__(self, clock: FakeClock, path: Path) -> None:
        self.clock = clock
        self.path = path
        self.cache = LeaseCache([ROLE, OTHER, LAZY])
        self.config = UnixListener(address=str(path))
        self.admin = NOBODY
        self.ready = True
        self.degraded = False
        self.rotated: list[tuple[str, float | None]] = []
        self.rotate: Callable[[str, float | None], None] = lambda role, after: self.rotated.append((role, after))
        self.families: Callable[[], Iterable[Family]] = lambda: ()
        self.keepers: dict[str, Keeper] = {}
        self.journal: Journal = no_journal
        self.beyond: dict[str, Any] = {}
        self.witness: Witness | None = None
        self.files: Callable[[], list[dict[str, Any]]] = lambda: [{"path": "/etc/secrets/db-creds", "written": True}]
        self.roles = {
            ROLE: RoleAccess(
                read=ANYONE,
                rotate=ANYONE,
                rotate_min_interval=10.0,
                lazy=False,
                connection={"host": "db.example", "port": 5432},
            ),
            OTHER: RoleAccess(read=NOBODY, rotate=NOBODY, rotate_min_interval=10.0, lazy=False, connection=None),
            LAZY: RoleAccess(read=ANYONE, rotate=ANYONE, rotate_min_interval=10.0, lazy=True, connection=None),
        }

    def allow(self, role: str, **lists: AllowList) -> None:
        """Change who may, before the server is made."""
        self.roles[role] = replace(self.roles[role], **lists)  # type: ignore[arg-type]

    def publish(self, role: str = ROLE, *, ttl: float = 60.0, margin: float = MARGIN, **data: str) -> Snapshot:
        """A credential for `role`."""
        now = self.clock.now()
        values = data or {"username": "app-1", "password": PASSWORD}
        grant = Grant(id=f"{role}/abc", data={k: Secret(v) for k, v in values.items()}, ttl=ttl, renewable=True)
        lease = Lease(first=grant, last=grant, issued_at=now, granted_at=now, jitter=0.5)
        until = lease.expires_at - margin
        self.report(Phase.FRESH, role=role)
        return self.cache.publish(role, lease, until=until, verified=True, now=now, wall=self.clock.wall())

    def report(self, phase: Phase, *, role: str = ROLE, **fields: Any) -> None:
        """Say how `role` is doing."""
        self.cache.report(role, RoleStatus(phase=phase, **fields))

    def server(self) -> Server:
        """The server, not started."""
        return Server(
            self.config,
            roles=self.roles,
            admin=self.admin,
            cache=self.cache,
            clock=self.clock,
            probes=Probes(
                started=lambda: True,
                ready=lambda: self.ready,
                live=lambda: True,
                degraded=lambda: self.degraded,
                files=self.files,
                upstreams=lambda: [{"name": "postgresql", "open": True}],
            ),
            metrics=Metrics(lambda: self.families(), self.clock),
            holdings=Holdings(
                desk=Desk(self.keepers, self.clock),
                upstreams={ROLE: "postgresql", OTHER: "postgresql", LAZY: "postgresql.two"},
                owner="web-0",
                incarnation=lambda: 7,
                journal=self.journal,
                beyond=lambda: self.beyond,
            ),
            rotate=self.rotate,
            required=frozenset({ROLE}),
            version="1.2.3",
            witness=self.witness,
        )

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[Server]:
        """The server, started."""
        server = self.server()
        await server.start()
        try:
            yield server
        finally:
            await server.stop(0.0)

    @contextlib.asynccontextmanager
    async def client(self) -> AsyncIterator[Client]:
        """A connection."""
        client = Client(*await asyncio.open_unix_connection(str(self.path)))
        try:
            yield client
        finally:
            await client.close()

    @contextlib.asynccontextmanager
    async def talking(self) -> AsyncIterator[Client]:
        """A started server, and one connection to it."""
        async with self.serving(), self.client() as client:
            yield client

    async def ask(self, data: bytes = READ) -> Answer:
        """One request on a connection of its own."""
        async with self.client() as client:
            return await client.ask(data)


_AS_OTHER = """
import os, socket, sys
uid, gid, groups, path, request = eval(sys.argv[1])
os.setgroups(groups); os.setgid(gid); os.setuid(uid)
with socket.socket(socket.AF_UNIX) as sock:
    try:
        sock.connect(path)
    except PermissionError:
        sys.exit("refused")
    sock.sendall(request)
    sock.shutdown(socket.SHUT_WR)
    while piece := sock.recv(65536):
        sys.stdout.buffer.write(piece)
"""


async def ask_as(path: Path, uid: int, gid: int, groups: Sequence[int] = (), data: bytes = READ) -> Answer | None:
    """One request by another user; None where the socket does not open for it. Needs root."""
    what = repr((uid, gid, list(groups), str(path), data))

    def run() -> "subprocess.CompletedProcess[bytes]":
        return subprocess.run([sys.executable, "-S", "-E", "-c", _AS_OTHER, what], capture_output=True, timeout=30)

    done = await asyncio.to_thread(run)
    if done.stderr == b"refused\n":
        return None
    assert done.returncode == 0, done.stderr
    head, _, body = done.stdout.partition(b"\r\n\r\n")
    return Answer(status=int(head.split(b" ")[1]), headers={}, body=body)


def listening(path: Path) -> socket.socket:
    """A socket of somebody else, listening at `path`."""
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(os.fspath(path))
    sock.listen()
    return sock
