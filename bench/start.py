"""From exec to a credential in the app's hands, and the memory it takes, beside a Python that has imported aiohttp.web.

`python -m bench start`. Each round starts a bare `python -c 'import aiohttp.web'` and then a whole agent, against one
throwaway PostgreSQL that is up already; so a busy machine slows both, and only the ratios are claims. The agent's file
counts as usable when a login with it succeeds. Linux only (/proc).
"""

import contextlib
import json
import shlex
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import astuple, dataclass
from pathlib import Path

import psycopg

from agent.atomicfile import on_memory
from agent.dev import database
from agent.dev.binaries import newest
from agent.dev.cluster import Cluster
from bench.read import READS, REQUEST, ROLE, Row, load, rss

ROUNDS = 7
PATIENCE = 60.0
_IMPORT = "import aiohttp.web, sys; print(flush=True); sys.stdin.read()"


@dataclass(frozen=True, kw_only=True)
class Bare:
    """A Python that has imported aiohttp.web.

    Attributes:
        up: seconds from exec until the import is done.
        memory: MiB resident then.
    """

    up: float
    memory: float


@dataclass(frozen=True)
class Measured:
    """One agent; seconds from its exec, and MiB resident.

    Attributes:
        listening: the socket takes connections.
        read: a reader who was waiting has the credential.
        file: the credential file is there.
        started: memory when it has started.
        busy: memory after 100,000 reads.
    """

    listening: float
    read: float
    file: float
    started: float
    busy: float


NAMES = (
    "exec to a socket that takes connections, ms",
    "exec to the first read answered, ms",
    "exec to the first usable file, ms",
    "RSS after start, MiB",
    f"RSS after {READS:,} reads, MiB",
)
TIMES = 3
"""How many of Measured are times; the rest is memory."""


@contextlib.contextmanager
def _process(argv: list[str], directory: Path) -> Iterator[subprocess.Popen[bytes]]:
    with (
        (directory / "bench.log").open("wb") as said,
        subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said) as process,
    ):
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def _until(done: Callable[[], bool], what: str) -> float:
    """The instant at which it is done, looked at every half millisecond."""
    end = time.perf_counter() + PATIENCE
    while not done():
        if time.perf_counter() > end:
            raise RuntimeError(f"no {what} within {PATIENCE:g} s")
        time.sleep(0.0005)
    return time.perf_counter()


def _bare(directory: Path) -> Bare:
    began = time.perf_counter()
    with _process([sys.executable, "-c", _IMPORT], directory) as process:
        assert process.stdout is not None  # noqa: S101 - asked for
        process.stdout.readline()
        return Bare(up=time.perf_counter() - began, memory=rss(process.pid))


def _configuration(directory: Path, prepared: database.DevDatabase) -> str:
    server = prepared.cluster
    return f"""
[listener.unix]
address = {json.dumps(str(directory / "agent.sock"))}
[postgresql]
host = "{server.host}"
port = {server.port}
dbname = "{database.DATABASE}"
user = "{database.ADMIN}"
password_file = {json.dumps(str(prepared.admin_password_file))}
sslmode = "disable"
[role."{ROLE}"]
upstream = "postgresql"
group = "{database.GROUP}"
[[template]]
destination = {json.dumps(str(directory / "secrets" / "db-creds"))}
format = "dotenv"
roles = ["{ROLE}"]
allow_disk = {"false" if on_memory(directory) else "true"}
"""


def _connect(path: Path) -> socket.socket | None:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.connect(str(path))
    except (FileNotFoundError, ConnectionRefusedError):
        sock.close()
        return None
    return sock


def _agent(directory: Path, place: str) -> Measured:
    path, file = directory / "agent.sock", directory / "secrets" / "db-creds"
    found: list[socket.socket] = []

    def listening() -> bool:
        sock = _connect(path)
        if sock is not None:
            found.append(sock)
        return sock is not None

    began = time.perf_counter()
    with _process([sys.executable, "-m", "agent", "run", "-c", str(directory / "agent.toml")], directory) as process:
        listening_at = _until(listening, "socket")
        with found[0] as sock:
            sock.sendall(REQUEST)  # waits for the first attempt, as a reader in a hurry does
            if not sock.recv(65536).startswith(b"HTTP/1.1 200 "):
                raise RuntimeError("the first read was not answered with a credential")
            read_at = time.perf_counter()
        file_at = _until(file.exists, "file")
        _log_in(file, place)
        time.sleep(0.5)
        started = rss(process.pid)
        load(path, 16, seconds=600.0, reads=READS)
        busy = rss(process.pid)
        process.send_signal(signal.SIGTERM)
        if process.wait(PATIENCE):
            raise RuntimeError("the agent did not end in order")
    return Measured(listening_at - began, read_at - began, file_at - began, started, busy)


def _log_in(file: Path, place: str) -> None:
    pairs = dict(word.split("=", 1) for word in shlex.split(file.read_text()))
    with psycopg.connect(place, user=pairs["DB_USER"], password=pairs["DB_PASS"]) as session:
        session.execute("TABLE reports")


@contextlib.contextmanager
def _scene() -> Iterator[tuple[Path, str]]:
    """A running server with its database, and a directory, in memory where there is any, with the configuration."""
    memory = Path("/dev/shm")  # noqa: S108 - checked, and mkdtemp makes a fresh 0700 directory
    directory = Path(tempfile.mkdtemp(prefix="lh-", dir=memory if memory.is_dir() and on_memory(memory) else None))
    try:
        with Cluster(newest()) as cluster:
            prepared = database.prepare(cluster, cluster.password_file.parent)
            (directory / "agent.toml").write_text(_configuration(directory, prepared))
            yield directory, prepared.place
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def run() -> list[Row]:
    """Measure; about two minutes."""
    with _scene() as (directory, place):
        _bare(directory)  # fills the page cache and the byte code's
        _agent(directory, place)
        rounds = [(_bare(directory), astuple(_agent(directory, place))) for _ in range(ROUNDS)]
    rows = []
    for column, name in enumerate(NAMES):
        scale = 1000.0 if column < TIMES else 1.0
        pairs = [
            (measured[column] * scale, (bare.up if column < TIMES else bare.memory) * scale)
            for bare, measured in rounds
        ]
        rows.append(
            Row(
                name=name,
                ours=statistics.median(ours for ours, _ in pairs),
                plain=statistics.median(plain for _, plain in pairs),
                ratio=statistics.median(ours / plain for ours, plain in pairs),
            )
        )
    return rows
