"""What the long benchmarks stand on: a throwaway PostgreSQL and one agent with so many roles, seen from outside.

Linux only (/proc).
"""

import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from agent.atomicfile import on_memory
from agent.dev import database
from agent.dev.binaries import newest
from agent.dev.cluster import Cluster

PATIENCE = 120.0


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A running server with its database, and a directory, in memory where there is any."""

    directory: Path
    prepared: database.DevDatabase

    @property
    def place(self) -> str:
        """Where an app logs in: a conninfo without user and password."""
        return self.prepared.place


@contextlib.contextmanager
def scene(**settings: str) -> Iterator[Scene]:
    """A fresh one; `settings` are the server's."""
    memory = Path("/dev/shm")  # noqa: S108 - checked, and mkdtemp makes a fresh 0700 directory
    directory = Path(tempfile.mkdtemp(prefix="lh-", dir=memory if memory.is_dir() and on_memory(memory) else None))
    try:
        with Cluster(newest(), settings=settings) as cluster:
            yield Scene(directory=directory, prepared=database.prepare(cluster, cluster.password_file.parent))
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def role_name(number: int) -> str:
    """The path of the role with that number."""
    return f"database/creds/app-{number}"


def configuration(scene: Scene, *, roles: int, ttl: str, max_ttl: str, files: int = 0, agent: str = "") -> str:
    """A configuration file: so many roles of one group, the first `files` of them with a file; `agent` is [agent]."""
    server = scene.prepared.cluster
    lines = [
        f"[agent]\n{agent}",
        f"[listener.unix]\naddress = {json.dumps(str(scene.directory / 'agent.sock'))}",
        f'[postgresql]\nhost = "{server.host}"\nport = {server.port}\ndbname = "{database.DATABASE}"',
        f'user = "{database.ADMIN}"\npassword_file = {json.dumps(str(scene.prepared.admin_password_file))}',
        'sslmode = "disable"',
    ]
    for number in range(roles):
        lines.append(f'[role."{role_name(number)}"]\nupstream = "postgresql"\ngroup = "{database.GROUP}"')
        lines.append(f'default_ttl = "{ttl}"\nmax_ttl = "{max_ttl}"')
    for number in range(files):
        destination = json.dumps(str(scene.directory / "secrets" / f"app-{number}"))
        disk = "false" if on_memory(scene.directory) else "true"
        lines.append(f'[[template]]\ndestination = {destination}\nformat = "dotenv"\nallow_disk = {disk}')
        lines.append(f'roles = ["{role_name(number)}"]')
    return "\n".join(lines) + "\n"


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One look at a process.

    Attributes:
        cpu: seconds used so far, by all threads, ended ones included.
        rss, pss: MiB; the latter counts pages shared with others by their share.
        tasks: of its loop.
    """

    cpu: float
    rss: float
    pss: float
    descriptors: int
    threads: int
    tasks: int


class Agent:
    """An agent as a process; `with` starts it, and ends it at once where `stop` was not called."""

    def __init__(self, scene: Scene, text: str) -> None:
        self.directory = scene.directory
        self.socket = scene.directory / "agent.sock"
        self._file = scene.directory / "agent.toml"
        self._file.write_text(text)
        self._log = scene.directory / "agent.log"
        self._counts = scene.directory / "agent.tasks"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        with self._log.open("wb") as log, self._counts.open("wb") as counts:
            argv = [sys.executable, "-m", "bench.counted", str(self._file)]
            self._process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=counts, stderr=log)
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    @property
    def pid(self) -> int:
        """Process id."""
        if self._process is None:
            raise RuntimeError("the agent was not started")
        return self._process.pid

    def logged(self, event: str) -> int:
        """How often it has said so."""
        return self._log.read_bytes().count(f'"event": "{event}"'.encode())

    def ask(self, target: str) -> tuple[int, dict[str, Any]]:
        """Status and JSON of one request; status 0 where nobody answers."""
        connection = Connection(self.socket)
        try:
            return connection.ask(target)
        except OSError:
            return 0, {}
        finally:
            connection.close()

    def until(self, holds: Callable[[], bool], what: str, *, every: float = 0.02) -> None:
        """Return when it does; looked at every so many seconds."""
        end = time.monotonic() + PATIENCE
        while not holds():
            if time.monotonic() > end or (self._process is not None and self._process.poll() is not None):
                raise RuntimeError(f"the agent is not {what}; its log ends so:\n{self._log.read_text()[-2000:]}")
            time.sleep(every)

    def sample(self) -> Sample:
        """A look at it now."""
        proc = Path(f"/proc/{self.pid}")
        page = os.sysconf("SC_PAGE_SIZE") / 2**20
        rolled = dict(line.split(":", 1) for line in (proc / "smaps_rollup").read_text().splitlines()[1:])
        return Sample(
            cpu=cpu(self.pid),
            rss=int((proc / "statm").read_text().split()[1]) * page,
            pss=int(rolled["Pss"].split()[0]) / 1024,
            descriptors=len(list((proc / "fd").iterdir())),
            threads=len(list((proc / "task").iterdir())),
            tasks=self._tasks(),
        )

    def _tasks(self) -> int:
        before = len(self._counts.read_text().split())
        os.kill(self.pid, signal.SIGUSR1)
        self.until(lambda: len(self._counts.read_text().split()) > before, "counting its tasks")
        return int(self._counts.read_text().split()[-1])

    def stop(self) -> float:
        """Seconds that an orderly end took; RuntimeError where something was left."""
        if self._process is None:
            return 0.0
        began = time.monotonic()
        self._process.send_signal(signal.SIGTERM)
        if self._process.wait(PATIENCE):
            raise RuntimeError(f"the agent did not end in order:\n{self._log.read_text()[-2000:]}")
        return time.monotonic() - began


class Connection(http.client.HTTPConnection):
    """A connection to the agent's socket, kept open until it is closed."""

    def __init__(self, path: Path) -> None:
        super().__init__("leasehold", timeout=30.0)
        self._path = path

    def connect(self) -> None:
        """Reach the socket."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))

    def ask(self, target: str) -> tuple[int, dict[str, Any]]:
        """Status and JSON of one request."""
        self.request("GET", target)
        answer = self.getresponse()
        found: dict[str, Any] = json.loads(answer.read())
        return answer.status, found


def cpu(pid: int) -> float:
    """Seconds of CPU a process has used, to the nanosecond: clock_getcpuclockid(3), which Python lacks."""
    return time.clock_gettime((~pid << 3) | 2)
