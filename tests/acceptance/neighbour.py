"""What a hostile process in the pod does, and how the agent is looked at meanwhile. Linux, since it reads /proc."""

import contextlib
import os
import resource
import socket
import statistics
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import pytest

from tests.acceptance.harness import Agent, Client, eventually
from tests.acceptance.others import as_root
from tests.acceptance.scenes import ROLE

STRANGER = 12345
_SPARE = 4  # descriptors: logins at the server come and go
LOOKS = [as_root, pytest.mark.skipif(sys.platform != "linux", reason="looks at the agent through /proc")]
"""Marks of tests that do."""
READ = f"GET /v1/{ROLE} HTTP/1.1\r\nHost: leasehold\r\n\r\n".encode()


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What the agent's process holds: open descriptors, threads, and the most memory it has had resident, in KiB."""

    descriptors: int
    threads: int
    memory: int


def figures(agent: Agent) -> Figures:
    """Of this moment. Only root may look into the agent."""
    process = Path(f"/proc/{agent.pid}")
    status = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines())
    return Figures(
        descriptors=len(list((process / "fd").iterdir())),
        threads=int(status["Threads"]),
        memory=int(status["VmHWM"].split()[0]),
    )


@contextlib.contextmanager
def unharmed(agent: Agent, *, memory: int = 24 * 1024) -> Iterator[None]:
    """Fails unless the agent lives, serves and holds no more than before, once the scene is over.

    Args:
        memory: KiB that it may have grown at any time meanwhile.
    """
    agent.health()  # aiohttp is loaded when first needed
    time.sleep(0.2)
    before = figures(agent)
    yield
    assert agent.code is None
    assert agent.read(ROLE)
    assert eventually(lambda: figures(agent).descriptors <= before.descriptors + _SPARE, within=8.0), (
        before,
        figures(agent),
    )
    assert eventually(lambda: figures(agent).threads <= before.threads + 1, within=8.0), (before, figures(agent))
    assert figures(agent).memory <= before.memory + memory, (before, figures(agent))
    assert not agent.logged("crashed")
    assert not agent.logged("handler-failed")
    assert "Traceback" not in agent.stderr


@dataclass(kw_only=True)
class Honest:
    """Reads all the time on a connection of its own, and remembers how it went."""

    agent: Agent
    every: float = 0.01
    statuses: list[int] = field(default_factory=list)
    took: list[float] = field(default_factory=list)
    _done: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Self:
        self._client = Client(self.agent.socket, timeout=20.0)
        self._client.ask(f"/v1/{ROLE}")  # connected by now, whoever the test is later on
        self._thread = threading.Thread(target=self._read)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        self._client.__exit__()

    def _read(self) -> None:
        while not self._done.wait(self.every):
            answer = self._client.ask(f"/v1/{ROLE}")
            self.statuses.append(answer.status)
            self.took.append(answer.took)

    def check(self, *, median: float = 0.05, longest: float = 2.0) -> None:
        """Every read was answered, and in time."""
        assert len(self.took) > 3
        assert set(self.statuses) == {200}
        assert statistics.median(self.took) < median
        assert max(self.took) < longest


def connected(path: Path, count: int) -> list[socket.socket]:
    """So many connections, as many at once as this process may have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    most = hard - 200 if hard != resource.RLIM_INFINITY else count
    held: list[socket.socket] = []
    for number in range(count):
        if len(held) >= most:
            held[number % most].close()
            held[number % most] = connection(path)
        else:
            held.append(connection(path))
    return held


def connection(path: Path) -> socket.socket:
    """One that waits for its turn."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.connect(os.fspath(path))
    sock.settimeout(10.0)
    return sock


def close_all(held: Sequence[socket.socket]) -> None:
    """Leave."""
    for sock in held:
        sock.close()


def said(sock: socket.socket) -> bytes:
    """What has come in so far, without waiting; b"" where nothing has, or the connection has ended."""
    sock.setblocking(False)
    try:
        return sock.recv(65536)
    except OSError:
        return b""
