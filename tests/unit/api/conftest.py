"""Every asynchronous test of the API runs on asyncio's loop and on uvloop."""

import asyncio
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import structlog.testing
import uvloop

from tests.fakes import FakeClock
from tests.unit.api.world import World


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The loops that the agent runs on."""
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


@pytest.fixture
def directory() -> Iterator[Path]:
    """A short directory that other users may enter, as the socket's directory in a pod."""
    path = Path(tempfile.mkdtemp(prefix="lh-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def world(clock: FakeClock, directory: Path) -> World:
    """A server that is not yet started, and what it serves."""
    return World(clock, directory / "api.sock")


@pytest.fixture
def lines() -> Iterator[Sequence[MutableMapping[str, Any]]]:
    """Every line that is logged."""
    with structlog.testing.capture_logs() as captured:
        yield captured
