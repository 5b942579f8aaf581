"""What every acceptance test gets: the newest PostgreSQL, a place in memory, and processes that are gone afterwards."""

import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.atomicfile import on_memory
from agent.dev.cluster import Binaries
from tests.acceptance.harness import Agent, Program
from tests.fix_postgres import MAJORS, binaries_of

RunAgent = Callable[..., Agent]


@pytest.fixture(scope="session", autouse=True)
def _interrupts() -> None:
    """A shell's background job ignores Ctrl-C, and its children inherit that; those under test must hear it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def binaries() -> Binaries:
    """The newest: what differs between versions is the engine's tests' business."""
    return binaries_of(MAJORS[-1])


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory with a short name, in memory where there is any, that other users may enter."""
    memory = Path("/dev/shm")  # noqa: S108
    base = memory if memory.is_dir() and on_memory(memory) else None
    directory = Path(tempfile.mkdtemp(prefix="lh-", dir=base))
    directory.chmod(0o755)
    yield directory
    shutil.rmtree(directory)


@pytest.fixture
def started() -> Iterator[list[Program]]:
    """Append what was started: it is ended after the test."""
    programs: list[Program] = []
    yield programs
    for one in programs:
        one.end()


@pytest.fixture
def run_agent(place: Path, started: list[Program]) -> RunAgent:
    """`run_agent(document, *options)` starts an agent; several get directories of their own."""

    def run(document: Any, *options: str, **how: Any) -> Agent:
        agent = Agent(document, place / f"agent-{len(started)}", *options, **how)
        started.append(agent)
        return agent

    return run
