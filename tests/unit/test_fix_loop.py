"""The guard of the event loop works: a blocking call of `agent` in a running loop is noticed."""

import asyncio
from pathlib import Path

import pytest
from blockbuster import BlockingError

from agent.atomicfile import own_directory


async def test_a_directory_looked_at_in_the_loop_is_noticed(tmp_path: Path) -> None:
    with pytest.raises(BlockingError):
        own_directory(tmp_path / "here")


async def test_the_same_in_a_thread_is_fine(tmp_path: Path) -> None:
    await asyncio.to_thread(own_directory, tmp_path / "here")

    assert (tmp_path / "here").is_dir()


async def test_the_loop_is_in_debug_mode() -> None:
    assert asyncio.get_running_loop().get_debug()
